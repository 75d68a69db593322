"""The within-run comparison as a table, and section F of the ANM checklist as verdicts over it.

A table of effects is tidy: one row per (seed, step, update, pairs), where `update` is the update that was taken from
the weights of that step ("mixed", one of the two kinds, or "none" for denoising alone) and `pairs` the kind of pairs
that were measured before and after it. Other columns are those of `WithinRunLearner.effects`. A seed's value is the
mean over the recorded steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

import pandas as pd

from anm_nb.analysis.verdicts import Verdict, judge, judge_band
from anm_nb.config import ParameterError
from anm_nb.store import Run

MIXED, NO_NEGATIVES = "mixed", "none"
PREFIX = "within."  # of the arrays in a run's trace
CONFOUNDED = "the mixed update"
ONE_KIND = "an update with its kind alone"
BEYOND = "an update with its kind alone, beyond denoising,"
DESIGNS = (CONFOUNDED, ONE_KIND, BEYOND)


def effects(run: Run) -> pd.DataFrame:
    """The recorded effects of a within-run comparison, one row per (seed, step, update, pairs).

    Raises `ParameterError` for a run that did not compare updates.
    """
    arrays = {name.removeprefix(PREFIX): array for name, array in run.trace.items() if name.startswith(PREFIX)}
    if not arrays:
        raise ParameterError(f"run {run.key}: no updates were compared; train a WithinRunConfig with compare_updates")
    negatives = run.settings["negatives"]
    kinds = [negatives["first"]["name"], negatives["second"]["name"]]
    seeds, steps = run.settings["seeds"], sorted(run.metrics["step"].unique())
    places = [seeds, steps, [MIXED, *kinds, NO_NEGATIVES], kinds]
    index = pd.MultiIndex.from_product(places, names=["seed", "step", "update", "pairs"])
    columns = {name: array.double().flatten().numpy() for name, array in arrays.items()}
    return pd.DataFrame(columns, index=index).reset_index()


def beyond(table: pd.DataFrame, reference: str, columns: Iterable[str]) -> pd.DataFrame:
    """The table's other updates, with what the reference update does to the same pairs taken from those columns."""
    names = list(columns)
    places = ["seed", "step", "pairs"]
    base = table[table["update"] == reference].set_index(places)[names]
    others = table[table["update"] != reference]
    at = pd.MultiIndex.from_frame(others[places])
    return others.assign(**{name: others[name].to_numpy() - base[name].loc[at].to_numpy() for name in names})


def of_seed(table: pd.DataFrame, column: str, update: str, pairs: str) -> pd.Series:
    """Mean over the recorded steps of a column, by seed."""
    rows = table[(table["update"] == update) & (table["pairs"] == pairs)]
    return rows.groupby("seed")[column].mean()


def within_run_verdicts(table: pd.DataFrame, miner: str, baseline: str) -> list[Verdict]:
    """Section F's three claims, each with the confound and without, then what an update is worth elsewhere."""
    return [
        smaller_margins(table, miner, baseline),
        *(larger_effect(table, miner, baseline, "delta_margin", design) for design in DESIGNS),
        *(larger_effect(table, miner, baseline, "delta_loss_con", design) for design in DESIGNS),
        held_out_margin(table, miner, baseline),
        held_out_margin(table, miner, baseline, per_norm=True),
        denoising(table, miner, baseline),
        *(legitimacy(table, kind) for kind in (miner, baseline)),
    ]


def smaller_margins(table: pd.DataFrame, miner: str, baseline: str) -> Verdict:
    """Claim 1: before the update, the mined pairs of a batch have smaller margins. No update enters this one."""
    return judge(
        f"pairs of {miner} have smaller margins before the update than those of {baseline}",
        lower=of_seed(table, "margin", MIXED, miner),
        higher=of_seed(table, "margin", MIXED, baseline),
        names=(miner, baseline),
        unit="nats",
        expected="yes (section F)",
    )


def larger_effect(table: pd.DataFrame, miner: str, baseline: str, column: str, design: str) -> Verdict:
    """Claims 2 and 3: the margins of the mined pairs rise more by the update, their contrastive loss falls more.

    `design` says by which update: the mixed one, as in the document, where either kind moves both; for each kind an
    update with that kind alone; or the latter less what the update without negatives, from the same weights and
    optimiser state, does to the same pairs.
    """
    shown = beyond(table, NO_NEGATIVES, [column]) if design == BEYOND else table
    mined, corrupted = (
        of_seed(shown, column, MIXED if design == CONFOUNDED else kind, kind) for kind in (miner, baseline)
    )
    what = {"delta_margin": "raises the margin", "delta_loss_con": "lowers the contrastive loss"}[column]
    rises = column == "delta_margin"
    return judge(
        f"{design} {what} of {miner} pairs more than of {baseline} pairs",
        lower=corrupted if rises else mined,
        higher=mined if rises else corrupted,
        names=(baseline, miner) if rises else (miner, baseline),
        unit="nats",
        expected="yes (section F)" if design == CONFOUNDED else None,
    )


def held_out_margin(table: pd.DataFrame, miner: str, baseline: str, per_norm: bool = False) -> Verdict:
    """Whether an update with the mined kind alone raises the margins of held-out pairs by more."""
    suffix = " per unit of its length" if per_norm else ""
    lengths = table["update_norm"] if per_norm else 1.0
    shown = table.assign(delta_dev_margin=table["delta_dev_margin"] / lengths)
    return judge(
        f"an update with {miner} alone raises held-out margins more than one with {baseline} alone{suffix}",
        lower=of_seed(shown, "delta_dev_margin", baseline, baseline),
        higher=of_seed(shown, "delta_dev_margin", miner, miner),
        names=(baseline, miner),
        unit="nats" + (" per unit" if per_norm else ""),
    )


def denoising(table: pd.DataFrame, miner: str, baseline: str) -> Verdict:
    """Whether an update with the mined kind alone does at least as well on the denoising loss of its batch."""
    return judge(
        f"an update with {miner} alone lowers the denoising loss more than one with {baseline} alone",
        lower=of_seed(table, "delta_loss_mse", miner, miner),
        higher=of_seed(table, "delta_loss_mse", baseline, baseline),
        names=(miner, baseline),
    )


def legitimacy(table: pd.DataFrame, kind: str) -> Verdict:
    """The share of a kind's pairs whose optimal margin is negative (`SharedNoise.optimal_margin`)."""
    return judge_band(
        f"most pairs of {kind} are legitimate",
        of_seed(table, "illegitimate_fraction", MIXED, kind),
        low=-inf,
        high=0.5,
        unit="illegitimate",
    )


def reading(verdicts: Sequence[Verdict]) -> str:
    """What `within_run_verdicts` of one comparison say together, in sentences made of their states alone."""
    smaller, *effect, held_out, _, denoises, legitimate, _ = verdicts
    states = {design: [verdict.state for verdict in effect[place::3]] for place, design in enumerate(DESIGNS)}
    rise_and_fall = "; ".join(f"by {design.rstrip(',')}: {' and '.join(found)}" for design, found in states.items())
    changes = "does not change" if states[CONFOUNDED] == states[BEYOND] else "changes"
    return (
        f"Smaller margins before the update: {smaller.state}. "
        f"Larger rise of the margin and larger fall of the loss, {rise_and_fall}; "
        f"removing the confound {changes} the answer. "
        f"Beyond the pairs themselves, larger held-out margins: {held_out.state}; "
        f"a lower denoising loss: {denoises.state}; mostly legitimate pairs: {legitimate.state}."
    )
