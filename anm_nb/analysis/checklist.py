"""The ANM checklist's expectations (sections A, D, H, J), each a verdict over the metrics of several methods.

`metrics` is tidy throughout: one row per (method, seed, step). *Early* is the first 20 % of the steps, as in section J.
"""

from __future__ import annotations

from math import inf

import pandas as pd

from anm_nb.analysis.tables import at_step, early_area, final
from anm_nb.analysis.verdicts import Verdict, judge, judge_band

MINERS = ("anm", "anm_orthogonal")
BASELINES = ("stock", "none")
EARLY = 0.2


def headline_verdicts(metrics: pd.DataFrame) -> list[Verdict]:
    """The outcome of each mined method against each baseline, and whether its negatives deserve the name."""
    verdicts = []
    for miner, baselines in _pairs(metrics):
        verdicts += [final_score(metrics, miner, baseline) for baseline in baselines]
        verdicts.append(legitimacy(metrics, miner))
    return verdicts


def all_verdicts(metrics: pd.DataFrame) -> list[Verdict]:
    """Every claim that the methods present allow to judge, mined method by mined method."""
    verdicts = []
    for miner, baselines in _pairs(metrics):
        for baseline in baselines:
            verdicts += [judged(metrics, miner, baseline) for judged in AGAINST_A_BASELINE]
        if "stock" in baselines:
            verdicts.append(loss_tightening(metrics, miner, "stock"))
        verdicts += [judged(metrics, miner) for judged in (hardness_drop, margin_growth, gradient_share, legitimacy)]
    return verdicts


def final_score(metrics: pd.DataFrame, miner: str, baseline: str) -> Verdict:
    """Section J: the task's score at the end of training."""
    scores = final(metrics, "mse")
    return _better(scores, miner, baseline, f"{miner} ends with a lower held-out MSE than {baseline}", "MSE")


def early_learning(metrics: pd.DataFrame, miner: str, baseline: str) -> Verdict:
    """Section J: the area under the learning curve over the first 20 % of steps."""
    claim = f"{miner} has a lower mean MSE than {baseline} over the first 20 % of steps"
    return _better(early_area(metrics, "mse", EARLY), miner, baseline, claim, "MSE")


def held_out_order(metrics: pd.DataFrame, miner: str, baseline: str) -> Verdict:
    """Sections H and J: held-out pairs, with legitimate negatives that nothing was trained on."""
    claim = f"{miner} orders held-out pairs wrongly less often than {baseline}"
    return _better(final(metrics, "dev_p_hard"), miner, baseline, claim, "of pairs")


def held_out_margin(metrics: pd.DataFrame, miner: str, baseline: str) -> Verdict:
    """Sections H and J: the mean margin of the same held-out pairs at the end of training."""
    margins = final(metrics, "dev_margin_mean")
    return judge(
        f"{miner} ends with a larger mean margin on held-out pairs than {baseline}",
        lower=margins[baseline],
        higher=margins[miner],
        names=(baseline, miner),
        unit="nats",
        expected="yes (sections H and J)" if baseline == "stock" else None,
    )


def hardness_drop(metrics: pd.DataFrame, miner: str) -> Verdict:
    """Section A.1: p_hard is high early and drops."""
    return judge(
        f"fewer negatives of {miner} are hard at the end than early on",
        lower=final(metrics, "p_hard")[miner],
        higher=early_area(metrics, "p_hard", EARLY)[miner],
        names=("end", "early"),
        unit="of negatives",
        expected="yes: high early, then dropping (section A.1)",
    )


def margin_growth(metrics: pd.DataFrame, miner: str) -> Verdict:
    """Section A.2: the mean margin increases."""
    return judge(
        f"the mean margin of {miner} is larger at the end than early on",
        lower=early_area(metrics, "margin_mean", EARLY)[miner],
        higher=final(metrics, "margin_mean")[miner],
        names=("early", "end"),
        unit="nats",
        expected="yes (section A.2)",
    )


def loss_tightening(metrics: pd.DataFrame, miner: str, baseline: str) -> Verdict:
    """Section A.3: the contrastive loss of mined negatives falls faster than that of corrupted ones."""
    early = metrics[metrics["step"] <= EARLY * metrics["step"].max()]
    drop = at_step(early, "loss_con", 0) - final(early, "loss_con")
    return judge(
        f"the contrastive loss of {miner} falls further over the first 20 % of steps than that of {baseline}",
        lower=drop[baseline],
        higher=drop[miner],
        names=(baseline, miner),
        unit="nats",
        expected="yes (section A.3)",
    )


def gradient_share(metrics: pd.DataFrame, miner: str) -> Verdict:
    """Section D: the contrastive loss contributes 0.3 to 0.7 of the gradient norm early in training."""
    return judge_band(
        f"the contrastive share of the gradient of {miner} is healthy early on",
        early_area(metrics, "grad_share_contrast", EARLY)[miner],
        low=0.3,
        high=0.7,
        expected="between 0.3 and 0.7 (section D)",
    )


def legitimacy(metrics: pd.DataFrame, miner: str) -> Verdict:
    """The share of negatives whose optimal margin is negative (`SharedNoise.optimal_margin`); the document has none."""
    return judge_band(
        f"most negatives of {miner} are legitimate at the end",
        final(metrics, "illegitimate_fraction")[miner],
        low=-inf,
        high=0.5,
        unit="illegitimate",
    )


AGAINST_A_BASELINE = (final_score, early_learning, held_out_order, held_out_margin)


def _better(scores: pd.DataFrame, miner: str, baseline: str, claim: str, unit: str) -> Verdict:
    return judge(
        claim,
        lower=scores[miner],
        higher=scores[baseline],
        names=(miner, baseline),
        unit=unit,
        expected="yes (section J)" if baseline == "stock" else None,
    )


def _pairs(metrics: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Each mined method present, with the baselines present."""
    methods = set(metrics["method"])
    return [(m, [b for b in BASELINES if b in methods]) for m in MINERS if m in methods]
