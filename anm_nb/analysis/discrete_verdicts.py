"""What the ANM checklist expects of discrete negatives (section G) and of what is learnt from them, each a verdict.

The tables are those of `studies.discrete_study.DiscreteStudy`; every verdict is about one task. Rates on held-out
pairs are means over noise levels. "stock" is judged beside: a rate that falls for it as well is no evidence for mining.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import pandas as pd

from anm_nb.analysis.figures import label
from anm_nb.analysis.tables import at_step, early_area, final
from anm_nb.analysis.verdicts import Verdict, judge, judge_band
from anm_nb.energy.constraints import ENTROPY_BAND
from anm_nb.tasks import task_class

BASELINE = "stock"
CONTROL = "none"
EARLY = 0.2
NO_MASS = 1e-5  # "~0": what rounding may leave


@dataclass(frozen=True)
class DiscreteTables:
    """The measurements of one study; see `DiscreteStudy` for their columns."""

    metrics: pd.DataFrame
    negatives: pd.DataFrame
    denoised: pd.DataFrame
    sampled: pd.DataFrame
    orders: pd.DataFrame
    references: pd.DataFrame

    def of(self, task: str) -> DiscreteTables:
        """The rows of one task."""
        return DiscreteTables(**{name: rows[rows["task"] == task] for name, rows in vars(self).items()})


def headline_verdicts(tables: DiscreteTables, task: str) -> list[Verdict]:
    """The document's three claims of section G for each mined method, legitimacy, and the score against stock."""
    own = tables.of(task)
    verdicts = []
    for miner in _miners(own):
        verdicts += [entropy_band(own, task, miner), mask_compliance(own, task, miner)]
        verdicts += [violations_fall(own, task, miner), legitimacy(own, task, miner)]
        if BASELINE in set(own.metrics["method"]):
            verdicts.append(better_score(own, task, miner))
    return verdicts


def all_verdicts(tables: DiscreteTables, task: str) -> list[Verdict]:
    """Every claim that the methods present allow to judge, with the control."""
    own = tables.of(task)
    verdicts = headline_verdicts(tables, task)
    methods = set(own.metrics["method"])
    for miner in _miners(own):
        verdicts.append(samples_break_fewer(own, task, miner))
        if BASELINE in methods:
            verdicts += [fewer_violations(own, task, miner), better_order(own, task, miner)]
    verdicts += [violations_fall(own, task, control) for control in (BASELINE, CONTROL) if control in methods]
    verdicts += [beyond_trivial(own, task, method) for method in own.metrics["method"].unique()]
    return verdicts


def entropy_band(own: DiscreteTables, task: str, miner: str) -> Verdict:
    """Section G: the entropy of the mined points keeps a middle band early on, as a share of the largest possible."""
    low, high = ENTROPY_BAND
    return judge_band(
        f"{task}: points mined by {label(miner)} keep a middle band of entropy early on",
        early_area(own.metrics, "relative_entropy", EARLY)[miner],
        low=low,
        high=high,
        unit="of the largest entropy",
        expected=f"neither → 0 nor uniform; taken as {low} to {high} (section G)",
    )


def mask_compliance(own: DiscreteTables, task: str, miner: str) -> Verdict:
    """Section G: invalid mass is about 0 after projection, and clues stay; the worst of all held-out pairs."""
    rows = own.negatives[own.negatives["method"] == miner]
    return judge_band(
        f"{task}: no point mined by {label(miner)} has invalid mass or moves a clue",
        rows.groupby("seed")[["invalid_mass", "clue_error"]].max().max(axis=1),
        low=0,
        high=NO_MASS,
        unit="of probability, at worst",
        expected="about 0 (section G)",
    )


def violations_fall(own: DiscreteTables, task: str, method: str) -> Verdict:
    """Section G: the violation rate on held-out ε and k decreases over training."""
    rates = _by_step(own.denoised, "violation_rate")
    return judge(
        f"{task}: with {label(method)}, x̂₀ on held-out ε and k breaks fewer rules at the end than at the start",
        lower=final(rates, "violation_rate")[method],
        higher=at_step(rates, "violation_rate", rates["step"].min())[method],
        names=("end", "start"),
        unit="of rules",
        expected="yes (section G)" if method not in (BASELINE, CONTROL) else None,
    )


def samples_break_fewer(own: DiscreteTables, task: str, method: str) -> Verdict:
    """The same of the answers that the sampler walks to."""
    return judge(
        f"{task}: with {label(method)}, the sampler's answers break fewer rules at the end than at the start",
        lower=final(own.sampled, "violation_rate")[method],
        higher=at_step(own.sampled, "violation_rate", own.sampled["step"].min())[method],
        names=("end", "start"),
        unit="of rules",
        expected="yes (section G)",
    )


def fewer_violations(own: DiscreteTables, task: str, miner: str) -> Verdict:
    """Section J: … and ends lower than with the baseline."""
    return _against_baseline(
        final(_by_step(own.denoised, "violation_rate"), "violation_rate"),
        f"{task}: x̂₀ on held-out ε and k breaks fewer rules with {label(miner)} than with {label(BASELINE)}",
        miner,
        "of rules",
    )


def better_order(own: DiscreteTables, task: str, miner: str) -> Verdict:
    """Sections H and J: held-out pairs, with legitimate negatives that nothing was trained on."""
    return _against_baseline(
        _held_out(own.orders),
        f"{task}: {label(miner)} orders held-out pairs wrongly less often than {label(BASELINE)}",
        miner,
        "of pairs",
    )


def legitimacy(own: DiscreteTables, task: str, miner: str) -> Verdict:
    """The share of mined negatives with m* < 0 at the end, all noise levels alike; the document has no such claim."""
    last = own.negatives[own.negatives["step"] == own.negatives["step"].max()]
    return judge_band(
        f"{task}: most negatives of {label(miner)} are legitimate at the end",
        last[last["method"] == miner].groupby("seed")["illegitimate"].mean(),
        low=-inf,
        high=0.5,
        unit="illegitimate",
    )


def better_score(own: DiscreteTables, task: str, miner: str) -> Verdict:
    """Section J: the task's own metric at the end of training, which grows."""
    score = scores_of(task)[0]
    scores = final(own.metrics, score)
    return judge(
        f"{task}: {label(miner)} ends with a higher {metric_label(score)} than {label(BASELINE)}",
        lower=scores[BASELINE],
        higher=scores[miner],
        names=(BASELINE, miner),
        expected="yes (section J)",
    )


def beyond_trivial(own: DiscreteTables, task: str, method: str) -> Verdict:
    """Whether the runs have learnt enough for any of it to matter: the best trivial reference on the same problems."""
    score = scores_of(task)[0]
    known = own.references[(own.references["kind"] == "trivial") & (own.references["metric"] == score)]
    trivial = known.pivot(index="seed", columns="name", values="value")
    best = trivial.mean().idxmax()
    scores = final(own.metrics, score)[method]
    return judge(
        f"{task}: {label(method)} ends with a higher {metric_label(score)} than '{best}'",
        lower=trivial[best].reindex(scores.index),
        higher=scores,
        names=(str(best), method),
    )


def scores_of(task: str) -> tuple[str, ...]:
    """The scores of a task that are shown; verdicts are about the first: cells move long before whole boards do."""
    metric = task_class(task).metric
    return ("cell_accuracy", metric) if metric == "board_accuracy" else (metric,)


def metric_label(score: str) -> str:
    """A score as claims and axes name it."""
    return score.replace("_", " ")


def compliance_table(negatives: pd.DataFrame) -> pd.DataFrame:
    """Mask compliance by task and method, over all held-out pairs, levels and steps.

    The worst clue_error and invalid_mass, the mean excluded_mass, and unchanged, the share of pairs in which the
    strategy offers the truth itself for a negative.
    """
    table = negatives.assign(unchanged=(negatives["decisions_changed"] == 0).astype(float))
    grouped = table.groupby(["task", "method"], sort=False)
    return pd.concat(
        [grouped[["clue_error", "invalid_mass"]].max(), grouped[["excluded_mass", "unchanged"]].mean()], axis=1
    )


def _against_baseline(rates: pd.DataFrame, claim: str, miner: str, unit: str) -> Verdict:
    return judge(
        claim,
        lower=rates[miner],
        higher=rates[BASELINE],
        names=(miner, BASELINE),
        unit=unit,
        expected="yes (section J)",
    )


def _by_step(denoised: pd.DataFrame, column: str) -> pd.DataFrame:
    """Means over noise levels."""
    return denoised.groupby(["method", "seed", "step"])[column].mean().reset_index()


def _held_out(orders: pd.DataFrame) -> pd.DataFrame:
    """The wrong share of held-out pairs: a row per seed, a column per method."""
    return orders[orders["kind"] == "held_out"].pivot(index="seed", columns="method", values="wrong")


def _miners(own: DiscreteTables) -> list[str]:
    """The methods that mine relaxed points, in order of appearance."""
    return list(own.negatives.dropna(subset=["relative_entropy"])["method"].unique())
