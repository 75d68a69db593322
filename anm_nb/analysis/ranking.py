"""What notebooks 02 and 20 to 25 share: ranking runs as tables, claims and figures, and the document's tiers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from anm_nb.analysis import kept as kept_results
from anm_nb.analysis.claims import LEAST_SEEDS, Claim, Verdicts, judge
from anm_nb.analysis.kept import Kept
from anm_nb.analysis.stats import bounded_interval, proportion_interval, ratio_interval
from anm_nb.config import ParameterError
from anm_nb.ranking.train import RankingConfig
from anm_nb.store import Run
from anm_nb.tasks.hinted_sort import HintedSort
from anm_nb.tasks.kendall import kendall_tau
from anm_nb.tasks.ordering import RankingTask
from anm_nb.training.seeds import generator

# Where τ can be measured, from the published mistake to what the task asks for, and its name in metrics.
SPACES = {"index space": "tau_index", "all pairs": "tau_all", "observed pairs": "tau_obs"}
# The document's healthy bands of routing ("Validation checks", 3).
BANDS = {"entropy": (0.5, 2.0), "herfindahl": (float("-inf"), 0.5), "max_alpha": (0.3, 0.6)}
MARGIN = 0.01  # of τ: a difference within it counts as none, stated before the runs
# What all models of a kept grid share.
SAME = [
    "task",
    "task_options",
    "size",
    "mask_rate",
    "width",
    "n_heads",
    "train_samples",
    "epochs",
    "seeds",
]  # in all of a kept grid
SHORT = {  # the fields that the document's experiments vary, as figures and tables name them
    "max_inner_iters": "iterations",
    "hrm_period": "T",
    "entropy_weight": "entropy weight",
    "temperature": "temperature",
}


class Tier(NamedTuple):
    """A tier of the document ("Success Criteria"): what both τ and the relative gain have to exceed."""

    name: str
    baseline: float
    hrm: float
    gain: float


TIERS = (Tier("minimum", 0.15, 0.20, 0.20), Tier("target", 0.18, 0.25, 0.35), Tier("stretch", 0.20, 0.30, 0.50))


def tested(metrics: pd.DataFrame) -> pd.DataFrame:
    """τ of the one evaluation on test: a row for each method and seed, columns method, seed and those of `SPACES`."""
    columns = {f"test_{metric}": metric for metric in SPACES.values()}
    rows = metrics.dropna(subset=[*columns])[["method", "seed", *columns]]
    return rows.rename(columns=columns).reset_index(drop=True)


def on_test(metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One τ of `tested`: a row for each seed, a column for each method in order of appearance."""
    wide = tested(metrics).pivot(index="seed", columns="method", values=metric)
    return wide[list(metrics["method"].unique())]


def tau_by_iteration(runs: Mapping[str, Run]) -> pd.DataFrame:
    """τ on test of the ranking after each iteration (1 = first): columns method, seed, iteration, tau_obs, tau_all."""
    rows = []
    for method, run in runs.items():
        arrays = (run.trace[f"test_{name}"][:, 0] for name in ("scores", "ranks", "known"))
        for seed, scores, ranks, known in zip(run.settings["seeds"], *arrays, strict=True):
            observed = kendall_tau(scores, ranks.unsqueeze(1), known.unsqueeze(1)).nanmean(0)
            everything = kendall_tau(scores, ranks.unsqueeze(1)).nanmean(0)
            for iteration, taus in enumerate(zip(observed.tolist(), everything.tolist(), strict=True), start=1):
                rows.append((method, seed, iteration, *taus))
    return pd.DataFrame(rows, columns=["method", "seed", "iteration", "tau_obs", "tau_all"])


def time_to_tau(
    runs: Mapping[str, Run], unit: str = "epoch", milestones: Sequence[float] = (0.25, 0.9, 0.99)
) -> pd.DataFrame:
    """When training first measured each τ over observed pairs on dev: a row for a method and τ, a column for a seed.

    In units of "epoch", "step" or "seconds" (in training steps, without measurements); "never" where it did not. Epoch
    0 is before training: a random network's τ may be high by chance.
    """
    table: dict[tuple[str, float], dict[int, Any]] = {}
    for method, run in runs.items():
        for seed, rows in run.metrics.groupby("seed", sort=False):
            seconds = run.provenance["training_seconds"].get(str(seed), np.nan)
            for milestone in milestones:
                reached = rows.assign(seconds=seconds)[rows["tau_obs"] >= milestone]
                first = reached[unit].iloc[0] if len(reached) else "never"
                whole = isinstance(first, float) and unit != "seconds"
                table.setdefault((method, milestone), {})[int(str(seed))] = int(first) if whole else first
    return pd.DataFrame.from_dict(table, orient="index").rename_axis(index=["method", "tau"], columns="seed")


def probe(run: Run, example: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Routing of a kept dev problem of the first seed after its last epoch; items in true order, visible ones first.

    α [iterations, items, heads], the true rank of each item, and whether its value is visible.
    """
    ranks, known = (run.trace[f"probe_{name}"][0].flatten(0, -2)[example].numpy() for name in ("ranks", "known"))
    known = known.astype(bool)
    order = np.lexsort((ranks, ~known))
    last = (run.metrics["seed"] == run.settings["seeds"][0]).sum() - 1  # the trace goes on where another trained longer
    return run.trace["alphas"][0, last, example].numpy()[:, order], ranks[order], known[order]


def reach(task: RankingTask, links: int, problems: int = 2000) -> float:
    """τ over all pairs of following at most so many pointers from each item; NaN without one at every hidden item."""
    if not isinstance(task, HintedSort) or task.informed_rate < 1:
        return float("nan")
    batch = task.sample(problems, generator=generator(0, "references"))
    return float(kendall_tau(task.solve(batch, links), batch.y).nanmean())


def halfway(task: RankingTask) -> float:
    """The τ over all pairs above which a seed has taken off: midway between what one pass can reach and the ceiling.

    One pass can follow two pointers, one in the encoder's attention and one in the block's. NaN as `reach`.
    """
    return (reach(task, links=2) + 1) / 2


def took_off(scores: pd.DataFrame, level: float) -> pd.Series:
    """How many seeds of each method ended above a level, with the 95 % interval of their share, as text."""
    texts = {}
    for method in scores:
        taus = scores[method].dropna()
        above = int((taus > level).sum())
        _, low, high = proportion_interval(above, len(taus))
        texts[method] = f"{above} of {len(taus)} [{low:.2f}, {high:.2f}]"
    return pd.Series(texts, dtype=object)


def interval_text(values: ArrayLike) -> str:
    """The mean of values of τ and its 95 % interval over seeds, within the bounds of τ."""
    mean, low, high = bounded_interval(values, -1.0)
    return f"{mean:z.3f} [{low:z.3f}, {high:z.3f}]"


def score_summary(metrics: pd.DataFrame, references: pd.DataFrame, level: float = float("nan")) -> pd.DataFrame:
    """τ on test of every method, as text, below the task's references; medians, and who took off above a level."""
    known = references.pivot(index=["kind", "name"], columns="metric", values="value").sort_index(ascending=False)
    rows = [
        (row["name"], row["kind"], *(f"{row[metric]:z.3f}" for metric in ("tau_obs", "tau_all")), "")
        for row in known.reset_index().to_dict("records")
    ]
    wide = {metric: on_test(metrics, metric) for metric in ("tau_obs", "tau_all")}
    for method in wide["tau_all"]:
        texts = [interval_text(each[method]) for each in wide.values()]
        rows.append((method, "measured", *texts, f"{wide['tau_all'][method].median():z.3f}"))
    columns = ["ranking", "kind", "observed pairs [95 %]", "all pairs [95 %]", "median, all pairs"]
    table = pd.DataFrame(rows, columns=columns).set_index("ranking")
    if not np.isnan(level):
        table[f"took off (τ > {level:.3f})"] = took_off(wide["tau_all"], level).reindex(table.index, fill_value="")
    return table


def tier_rows(baseline: ArrayLike, hrm: ArrayLike, ceiling: float) -> pd.DataFrame:
    """The document's tiers for τ [seeds] of two models, paired by seed: what each asks for, and what was reached.

    By the means, as the document states them; by intervals (yes or no where those of both τ and of the gain lie wholly
    on one side); reachable: whether a perfect ranking would reach it beside this baseline.
    """
    gain = np.subtract(ratio_interval(hrm, baseline), 1.0)
    measured = (bounded_interval(baseline, -1.0), bounded_interval(hrm, -1.0), gain)
    few = np.isfinite(np.subtract(hrm, baseline)).sum() < LEAST_SEEDS
    rows = []
    for tier in TIERS:
        pairs = list(zip(measured, tier[1:], strict=True))
        decided = "yes" if all(each[1] > asked for each, asked in pairs) else "undecided"
        decided = "no" if any(each[2] < asked for each, asked in pairs) else decided
        rows.append(
            {
                "tier": tier.name,
                "asks for": f"τ > {tier.baseline}, τ > {tier.hrm}, + {100 * tier.gain:.0f} %",
                "baseline": f"{measured[0][0]:z.3f}",
                "model": f"{measured[1][0]:z.3f}",
                "gain": f"{100 * gain[0]:+z.0f} % [{100 * gain[1]:+z.0f}, {100 * gain[2]:+z.0f}]",
                "by the means": "yes" if all(each[0] > asked for each, asked in pairs) else "no",
                "by intervals": "undecided" if few else decided,
                "reachable": "yes" if ceiling > max(tier.hrm, measured[0][0] * (1 + tier.gain)) else "no",
            }
        )
    return pd.DataFrame(rows).set_index("tier")


def ceiling_of(references: pd.DataFrame, metric: str) -> float:
    """The best possible τ of `SPACES`; in index space, where none is known, that of a perfect order."""
    exact = references[references["kind"] == "ceiling"].set_index("metric")["value"]
    return float(exact.get(metric, 1.0))


def sweep_claims(names: Iterable[str], baseline: str, centre: str, metric: str) -> list[Claim]:
    """That each value of a sweep ranks better than the document's own (primary, margin `MARGIN`), and than one pass."""
    values = [name for name in names if name not in (baseline, centre)]
    shared: dict[str, Any] = {"metric": metric, "margin": MARGIN, "section": "experiments 2–5"}
    against_centre = [
        Claim(f"{v} ranks better than {centre}", lower=centre, higher=v, primary=True, **shared) for v in values
    ]
    expects = "by 20 % and more"
    return against_centre + [
        Claim(f"{v} ranks better than one pass", lower=baseline, higher=v, expects=expects, **shared)
        for v in (centre, *values)
    ]


def judge_sweep(
    metrics: pd.DataFrame, baseline: str, centre: str, metric: str, references: pd.DataFrame | None = None
) -> Verdicts:
    """`sweep_claims` judged on test scores; the family that Holm's method corrects is all values against centre."""
    claims = sweep_claims(metrics["method"].unique(), baseline, centre, metric)
    return judge(claims, tested(metrics), references=references, larger_is_better=True)


def of_sweep(grid: Kept, field: str) -> tuple[pd.DataFrame, str]:
    """The metrics of a kept grid's baseline and models that differ in one field, and the name of the document's own."""
    centre = f"{field} = {grid.provenance['hrm']['config'][field]:g}"
    metrics = grid.metrics.replace({"method": {"hrm": centre}})
    own = (method for method in metrics["method"].unique() if method.startswith(f"{field} ="))
    ordered = ["baseline", *sorted(own, key=lambda method: float(method.split()[-1]))]
    parts = [
        metrics[metrics["method"] == method].assign(method=method.replace(field, SHORT[field])) for method in ordered
    ]
    return pd.concat(parts, ignore_index=True), centre.replace(field, SHORT[field])


def sweep_answer(field: str, hinted: Kept, plain: Kept) -> str:
    """What the kept grids say of one field, in Markdown: each value against the document's own, with scope."""
    metrics, centre = of_sweep(hinted, field)
    verdicts = judge_sweep(metrics, "baseline", centre, "tau_all").table
    words = {"supported": "better", "refuted": "worse"}
    said = [
        f"{row['claim'].split(' ranks ')[0].split()[-1]} is {words.get(row['verdict'], row['verdict'])} "
        f"({-row['estimate']:+z.3f} [{-row['high']:+z.3f}, {-row['low']:+z.3f}])"
        for row in verdicts[verdicts["primary"]].to_dict("records")
    ]
    taus = on_test(metrics, "tau_all").drop(columns="baseline")
    seeds, settings = (taus.max() - taus.min()).max(), np.ptp(taus.mean())
    observed = on_test(of_sweep(plain, field)[0], "tau_obs").to_numpy().min()
    return (
        f"Beside {SHORT[field]} {centre.split()[-1]}: **{'; '.join(said)}**. Differences of τ over all pairs on hinted "
        f"sorting, paired by seed, 95 % intervals, equivalent within ± {MARGIN}, by Holm's method over these "
        f"({hinted.scope}). Seeds of one setting lie up to {seeds:.2f} apart, means of settings {settings:.3f}. On the "
        f"document's own task nothing can be told: τ over observed pairs is at least {observed:.4f} in every run, one "
        f"pass included ({plain.scope})."
    )


def keep_in_grid(runs: Mapping[str, Run], references: pd.DataFrame, config: RankingConfig, centre: str = "hrm") -> Kept:
    """Put runs into the kept grid of their task, "hrm" or "hrm_hinted", the run at `centre` under the name "hrm".

    Raises `ParameterError` where what is kept there was trained otherwise: a grid's models differ in one field each.
    """
    name = "hrm_hinted" if config.task == "hinted_sort" else "hrm"
    if name in kept_results.names():
        there = kept_results.load(name).provenance["hrm"]["config"]
        for field in SAME:
            value = config.model_dump(mode="json")[field]
            if value != there[field]:
                raise ParameterError(f"{field} = {value}: kept result '{name}' has {there[field]}, and keeps no other")
    renamed = {"hrm" if method == centre else method: run for method, run in runs.items()}
    return kept_results.keep(name, renamed, references, add=True)
