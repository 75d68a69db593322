"""The ANM checklist's expectations of the landscape (section E, and J's barriers), each a verdict.

`numbers` is the first table of `anm_nb.studies.landscape_study.measured` throughout. A mined method is looked at along
the direction that its own miner finds, as the document has it, and towards held-out negatives, the same for every
method. Plain denoising ("none") is judged beside: what rises there too is no evidence for mining.
"""

from __future__ import annotations

from math import inf

import pandas as pd

from anm_nb.analysis.tables import at_step, final
from anm_nb.analysis.verdicts import Verdict, judge, judge_band
from anm_nb.config import ParameterError

BASELINES = ("stock", "none")
OWN_DIRECTION = {"anm": "mined", "anm_orthogonal": "mined_orthogonal"}  # what each mined method was trained against
TOWARDS = {
    "held_out": "held-out negatives",
    "mined": "negatives mined against it",
    "mined_orthogonal": "negatives mined against it ⟂ ε",
}


def headline_verdicts(numbers: pd.DataFrame) -> list[Verdict]:
    """The document's three claims of section E and J's, for each mined method present, and the control.

    Raises `ParameterError` for a table of several noise levels.
    """
    _one_level(numbers)
    verdicts = []
    for miner, direction in _miners(numbers).items():
        verdicts += [grows(numbers, miner, direction) for grows in (barrier_growth, curvature_growth, slope_growth)]
        if "stock" in _baselines(numbers):
            verdicts += [higher_barrier(numbers, miner, "stock"), nearer_minimum(numbers, miner, "stock")]
    if "none" in _baselines(numbers):
        verdicts.append(barrier_growth(numbers, "none", "held_out"))
    return verdicts


def all_verdicts(numbers: pd.DataFrame) -> list[Verdict]:
    """Every claim that the methods present allow to judge; otherwise as `headline_verdicts`."""
    _one_level(numbers)
    verdicts = []
    for miner, own in _miners(numbers).items():
        for direction in (own, "held_out"):
            verdicts += [barrier_growth(numbers, miner, direction), curvature_growth(numbers, miner, direction)]
        verdicts += [slope_growth(numbers, miner, own), slope_sign(numbers, miner, own)]
        for baseline in _baselines(numbers):
            compared = (higher_barrier, nearer_curvature, nearer_minimum)
            verdicts += [judged(numbers, miner, baseline) for judged in compared]
    if "none" in _baselines(numbers):
        verdicts += [grows(numbers, "none", "held_out") for grows in (barrier_growth, curvature_growth)]
    return verdicts


def states_by_level(numbers: pd.DataFrame) -> pd.DataFrame:
    """`all_verdicts` at every noise level: a row for each claim, a column for each level."""
    levels = sorted(numbers["level"].unique())
    states = {f"k = {k}": {v.claim: v.state for v in all_verdicts(numbers[numbers["level"] == k])} for k in levels}
    return pd.DataFrame(states).rename_axis("claim")


def barrier_growth(numbers: pd.DataFrame, method: str, direction: str) -> Verdict:
    """Section E.1: the barrier goes up over training."""
    claim = f"the barrier of {method} towards {TOWARDS[direction]} is higher at the end than at the start"
    return _growth(numbers, method, direction, "barrier", claim, "nats", "yes (section E.1)")


def curvature_growth(numbers: pd.DataFrame, method: str, direction: str) -> Verdict:
    """Section E.1: the curvature at the truth increases over training; per unit of length, not of t."""
    claim = f"the curvature of {method} towards {TOWARDS[direction]} is larger at the end than at the start"
    return _growth(numbers, method, direction, "curvature_per_length", claim, "nats/unit²", "yes (section E.1)")


def slope_growth(numbers: pd.DataFrame, method: str, direction: str) -> Verdict:
    """Section E.2: the directional derivative at the truth rises."""
    claim = f"the slope of {method} towards {TOWARDS[direction]} is higher at the end than at the start"
    return _growth(numbers, method, direction, "dir_derivative", claim, "nats/unit", "yes: up to 0⁺ (section E.2)")


def slope_sign(numbers: pd.DataFrame, method: str, direction: str) -> Verdict:
    """Section E.2: … and reaches 0."""
    return judge_band(
        f"the slope of {method} towards {TOWARDS[direction]} ends at 0 or above",
        final(_towards(numbers, direction), "dir_derivative")[method],
        low=0,
        high=inf,
        unit="nats/unit",
        expected="yes: 0⁺ (section E.2)",
    )


def higher_barrier(numbers: pd.DataFrame, miner: str, baseline: str) -> Verdict:
    """Section J: barriers are higher with mining, on the same held-out pairs."""
    ends = final(_towards(numbers, "held_out"), "barrier")
    return judge(
        f"{miner} ends with higher barriers towards held-out negatives than {baseline}",
        lower=ends[baseline],
        higher=ends[miner],
        names=(baseline, miner),
        unit="nats",
        expected="yes (section J)" if baseline == "stock" else None,
    )


def nearer_curvature(numbers: pd.DataFrame, miner: str, baseline: str) -> Verdict:
    """Which of two is better shaped: the distance of the curvature from a perfect denoiser's; the document has none."""
    ends = final(_towards(numbers, "held_out"), "curvature_per_length")
    error = ends.sub(ends["optimal"], axis=0).abs()
    return judge(
        f"the curvature of {miner} at the truth ends nearer to a perfect denoiser's than that of {baseline}",
        lower=error[miner],
        higher=error[baseline],
        names=(miner, baseline),
        unit="nats/unit² away",
    )


def nearer_minimum(numbers: pd.DataFrame, miner: str, baseline: str) -> Verdict:
    """Section E.2, "less downhill toward the wrong mode", whatever the energy's scale: −g over the curvature.

    It is how far from the truth a parabola with that slope and curvature has its lowest point, in units of ỹ, along the
    direction mined ⟂ ε against each energy; 0 for a perfect denoiser. The slope alone would reward a flat energy.
    """
    rows = _towards(numbers, "mined_orthogonal")
    away = (final(rows, "dir_derivative") / final(rows, "curvature_per_length")).abs()
    return judge(
        f"the lowest point towards negatives mined ⟂ ε ends nearer to the truth with {miner} than with {baseline}",
        lower=away[miner],
        higher=away[baseline],
        names=(miner, baseline),
        unit="units of ỹ",
        expected="yes: less downhill (section E.2)" if baseline == "stock" else None,
    )


def _growth(
    numbers: pd.DataFrame, method: str, direction: str, column: str, claim: str, unit: str, expected: str
) -> Verdict:
    rows = _towards(numbers, direction)
    return judge(
        claim,
        lower=at_step(rows, column, rows["step"].min())[method],
        higher=final(rows, column)[method],
        names=("start", "end"),
        unit=unit,
        expected=expected if method in OWN_DIRECTION else None,
    )


def _towards(numbers: pd.DataFrame, direction: str) -> pd.DataFrame:
    return numbers[numbers["direction"] == direction]


def _miners(numbers: pd.DataFrame) -> dict[str, str]:
    """The mined methods present, with the direction of each."""
    return {miner: direction for miner, direction in OWN_DIRECTION.items() if miner in set(numbers["method"])}


def _baselines(numbers: pd.DataFrame) -> list[str]:
    return [baseline for baseline in BASELINES if baseline in set(numbers["method"])]


def _one_level(numbers: pd.DataFrame) -> None:
    levels = sorted(numbers["level"].unique().tolist())
    if len(levels) > 1:
        raise ParameterError(f"numbers of the levels {levels}: verdicts are about one level; choose its rows")
