"""The ANM checklist's expectations as verdicts over the metrics of several methods (sections A, D and J)."""

from __future__ import annotations

import pandas as pd

from anm_nb.analysis.tables import at_step, early_area, final
from anm_nb.analysis.verdicts import Verdict, judge, judge_band

MINERS = ("anm", "anm_orthogonal")
BASELINES = ("stock", "none")


def anm_verdicts(metrics: pd.DataFrame) -> list[Verdict]:
    """Every claim that the methods present allow to judge, mined method by mined method.

    `metrics` is tidy with a `method` column, one row per (method, seed, step).
    """
    methods = set(metrics["method"])
    verdicts = []
    for miner in (name for name in MINERS if name in methods):
        verdicts += outcome_verdicts(metrics, miner, [name for name in BASELINES if name in methods])
        verdicts += hardness_verdicts(metrics, miner)
        if "stock" in methods:
            verdicts.append(loss_tightening(metrics, miner, "stock"))
    return verdicts


def outcome_verdicts(metrics: pd.DataFrame, miner: str, baselines: list[str], metric: str = "mse") -> list[Verdict]:
    """Section J: the task's score at the end and early on, and the ordering of held-out pairs."""
    verdicts = []
    for baseline in baselines:
        columns = (
            (final(metrics, metric), f"`{miner}` ends with a lower held-out MSE than `{baseline}`", "MSE"),
            (
                early_area(metrics, metric),
                f"`{miner}` learns faster than `{baseline}` over the first 20 % of steps",
                "MSE",
            ),
            (
                final(metrics, "dev_p_hard"),
                f"`{miner}` orders held-out pairs wrongly less often than `{baseline}`",
                "of pairs",
            ),
        )
        verdicts += [
            judge(
                claim,
                lower=scores[miner],
                higher=scores[baseline],
                names=(miner, baseline),
                unit=unit,
                expected="yes (section J)" if baseline == "stock" else None,
            )
            for scores, claim, unit in columns
        ]
    return verdicts


def hardness_verdicts(metrics: pd.DataFrame, miner: str) -> list[Verdict]:
    """Sections A and D: hard early and less so later, growing margins, a healthy gradient share; and legitimacy."""
    steps = metrics["step"].unique()
    knee = max(step for step in steps if step <= 0.2 * steps.max())
    p_hard, margin = (
        (at_step(metrics, name, knee)[miner], final(metrics, name)[miner]) for name in ("p_hard", "margin_mean")
    )
    names = ("at the end", f"at step {knee}")
    return [
        judge(
            f"the share of hard negatives of `{miner}` drops after the first 20 % of steps",
            lower=p_hard[1],
            higher=p_hard[0],
            names=names,
            expected="yes: high early, then dropping (section A.1)",
        ),
        judge(
            f"the mean margin of `{miner}` grows after the first 20 % of steps",
            lower=margin[0],
            higher=margin[1],
            names=names[::-1],
            unit="nats",
            expected="yes (section A.2)",
        ),
        judge_band(
            f"the contrastive share of the gradient of `{miner}` is healthy at 20 % of the steps",
            at_step(metrics, "grad_share_contrast", knee)[miner],
            low=0.3,
            high=0.7,
            expected="between 0.3 and 0.7 (section D)",
        ),
        judge_band(
            f"most negatives of `{miner}` are legitimate at the end",
            final(metrics, "illegitimate_fraction")[miner],
            low=0.0,
            high=0.5,
            unit="illegitimate",
        ),
    ]


def loss_tightening(metrics: pd.DataFrame, miner: str, baseline: str) -> Verdict:
    """Section A.3: the contrastive loss of mined negatives falls faster than that of corruption."""
    early = metrics[metrics["step"] <= 0.2 * metrics["step"].max()]
    drop = at_step(early, "loss_con", 0) - final(early, "loss_con")
    return judge(
        f"over the first 20 % of steps the contrastive loss falls further with `{miner}` than with `{baseline}`",
        lower=drop[baseline],
        higher=drop[miner],
        names=(baseline, miner),
        unit="nats",
        expected="yes (section A.3)",
    )
