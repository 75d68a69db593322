"""What notebooks 02 and 20 to 26 share: ranking runs as tables, claims and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from anm_nb.analysis import kept
from anm_nb.analysis.claims import Claim, Verdicts, judge
from anm_nb.analysis.kept import Kept
from anm_nb.analysis.plots import interval_line, legend_below
from anm_nb.analysis.stats import bounded_interval, proportion_interval
from anm_nb.analysis.style import PALETTE, colours, house_style, new_figure, points
from anm_nb.config import ParameterError
from anm_nb.ranking.train import RankingConfig
from anm_nb.store import Run
from anm_nb.tasks.kendall import kendall_tau
from anm_nb.tasks.ordering import HintedSort, PartialSort
from anm_nb.training.seeds import generator

# Where τ can be measured, from the published mistake to what the task asks for, and its name in metrics.
SPACES = {"index space": "tau_index", "all pairs": "tau_all", "observed pairs": "tau_obs"}
# The document's healthy bands of routing ("Validation checks", 3).
BANDS = {"entropy": (0.5, 2.0), "herfindahl": (float("-inf"), 0.5), "max_alpha": (0.3, 0.6)}
MARGIN = 0.01  # of τ: a difference within it counts as none, stated before the runs
# What all models of a kept grid share, and short names of fields.
SAME = ("task", "task_options", "size", "mask_rate", "width", "n_heads", "train_samples", "epochs", "seeds")
SHORT = {"max_inner_iters": "iterations", "hrm_period": "T"}


def tested(metrics: pd.DataFrame) -> pd.DataFrame:
    """τ of the one evaluation on test: a row for each method and seed, columns method, seed and those of `SPACES`."""
    columns = {
        name: name.removeprefix("test_") for name in ("method", "seed", *(f"test_{tau}" for tau in SPACES.values()))
    }
    return metrics[[*columns]].rename(columns=columns).dropna(ignore_index=True)


def on_test(metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One τ of `tested`: a row for each seed, a column for each method in order of appearance."""
    return tested(metrics).pivot(index="seed", columns="method", values=metric)[list(metrics["method"].unique())]


def tau_by_iteration(runs: Mapping[str, Run]) -> pd.DataFrame:
    """τ on test of the ranking after each iteration (1 = first): columns method, seed, iteration, tau_obs, tau_all."""
    parts = []
    for method, run in runs.items():
        scores, ranks, known = (run.trace[f"test_{name}"][:, 0] for name in ("scores", "ranks", "known"))
        for seed, *of in zip(run.settings["seeds"], scores, ranks.unsqueeze(2), known.unsqueeze(2), strict=True):
            taus = {"tau_obs": kendall_tau(*of).nanmean(0), "tau_all": kendall_tau(*of[:2]).nanmean(0)}
            steps = range(1, of[0].shape[1] + 1)
            parts.append(pd.DataFrame({"method": method, "seed": seed, "iteration": steps, **taus}))
    return pd.concat(parts, ignore_index=True)


def reach(task: PartialSort, links: int) -> float:
    """τ over all pairs of following at most so many pointers from each item; NaN without one at every hidden item."""
    if not isinstance(task, HintedSort) or task.informed_rate < 1:
        return float("nan")
    batch = task.sample(2000, generator=generator(0, "references"))
    return float(kendall_tau(task.solve(batch, links), batch.y).nanmean())


def halfway(task: PartialSort) -> float:
    """The τ over all pairs above which a seed has taken off: midway between what one pass can reach and the ceiling.

    One pass can follow two pointers, one in the encoder's attention and one in the block's. NaN as `reach`.
    """
    return (reach(task, links=2) + 1) / 2


def took_off(scores: pd.DataFrame, level: float) -> pd.Series:
    """How many seeds of each method ended above a level, with the 95 % interval of their share, as text."""

    def share(taus: pd.Series) -> str:
        above, seeds = (taus > level).sum(), taus.count()
        _, low, high = proportion_interval(above, seeds)
        return f"{above} of {seeds} [{low:.2f}, {high:.2f}]"

    return scores.apply(share)


def interval_text(values: ArrayLike) -> str:
    """The mean of values of τ and its 95 % interval over seeds, within the bounds of τ."""
    return "{:z.3f} [{:z.3f}, {:z.3f}]".format(*bounded_interval(values, -1.0))


def score_summary(metrics: pd.DataFrame, references: pd.DataFrame, level: float = float("nan")) -> pd.DataFrame:
    """τ on test of every method, as text, below the task's references; medians, and who took off above a level."""
    both = ["tau_obs", "tau_all"]
    known = references.pivot(index=["kind", "name"], columns="metric", values="value").sort_index(ascending=False)
    rows = [(name, kind, *(f"{tau:z.3f}" for tau in taus), "") for (kind, name), *taus in known[both].itertuples()]
    observed, every = (on_test(metrics, metric) for metric in both)
    rows += [
        (method, "measured", interval_text(observed[method]), interval_text(taus), f"{taus.median():z.3f}")
        for method, taus in every.items()
    ]
    columns = ["ranking", "kind", "observed pairs [95 %]", "all pairs [95 %]", "median, all pairs"]
    table = pd.DataFrame(rows, columns=columns).set_index("ranking")
    if not np.isnan(level):
        table[f"took off (τ > {level:.3f})"] = took_off(every, level).reindex(table.index, fill_value="")
    return table


def ceiling_of(references: pd.DataFrame, metric: str) -> float:
    """The best possible τ of `SPACES`; where none is known, as in index space, that of a perfect order."""
    return float(references[references["kind"] == "ceiling"].set_index("metric")["value"].get(metric, 1.0))


def judge_sweep(
    metrics: pd.DataFrame, baseline: str, centre: str, metric: str, references: pd.DataFrame | None = None
) -> Verdicts:
    """That each value of a sweep ranks better than the document's own, the centre (primary), and than one pass."""
    values = [name for name in metrics["method"].unique() if name not in (baseline, centre)]
    shared: dict[str, Any] = {"metric": metric, "margin": MARGIN, "section": "experiments 2–5"}
    centred = [Claim(f"{v} ranks better than {centre}", lower=centre, higher=v, primary=True, **shared) for v in values]
    shared |= {"lower": baseline, "expects": "by 20 % and more"}
    simple = [Claim(f"{v} ranks better than one pass", higher=v, **shared) for v in (centre, *values)]
    return judge([*centred, *simple], tested(metrics), references=references, larger_is_better=True)


def of_sweep(grid: Kept, field: str) -> tuple[pd.DataFrame, str]:
    """The metrics of a kept grid's baseline and models that differ in one field, and the name of the document's own."""
    name = SHORT.get(field, field.replace("_", " "))
    centre = f"{name} = {grid.provenance['hrm']['config'][field]:g}"
    own = [method for method in grid.metrics["method"].unique() if field in method]
    methods = {"hrm": centre, **{method: method.replace(field, name) for method in own}}
    ordered = ["baseline", *sorted(methods.values(), key=lambda method: float(method.split()[-1]))]
    metrics = grid.metrics.replace({"method": methods})
    return pd.concat([metrics[metrics["method"] == each] for each in ordered], ignore_index=True), centre


def sweep_answer(field: str, hinted: Kept, plain: Kept) -> str:
    """What the kept grids say of one field, in Markdown: each value against the document's own, with scope."""
    metrics, centre = of_sweep(hinted, field)
    words = {"supported": "better", "refuted": "worse"}
    said = [
        f"{row['claim'].split(' ranks ')[0].split()[-1]} is {words.get(row['verdict'], row['verdict'])} "
        f"({-row['estimate']:+z.3f} [{-row['high']:+z.3f}, {-row['low']:+z.3f}])"
        for row in judge_sweep(metrics, "baseline", centre, "tau_all").table.query("primary").to_dict("records")
    ]
    taus = on_test(metrics, "tau_all").drop(columns="baseline")
    observed = on_test(of_sweep(plain, field)[0], "tau_obs").to_numpy().min()
    return (
        f"Beside {centre.replace(' =', '')}: **{'; '.join(said)}**. Differences of τ over all pairs on hinted "
        f"sorting, paired by seed, 95 % intervals, equivalent within ± {MARGIN}, by Holm's method over these "
        f"({hinted.scope}). Seeds of one setting lie up to {(taus.max() - taus.min()).max():.2f} apart, means of "
        f"settings {np.ptp(taus.mean()):.3f}. On the document's own task nothing can be told: τ over observed pairs is "
        f"at least {observed:.4f} in every run, one pass included ({plain.scope})."
    )


def keep_in_grid(runs: Mapping[str, Run], references: pd.DataFrame, config: RankingConfig, centre: str = "hrm") -> Kept:
    """Put runs into the kept grid of their task, that at `centre` as "hrm"; `ParameterError` if trained otherwise."""
    name = "hrm_hinted" if config.task == "hinted_sort" else "hrm"
    own = config.model_dump(mode="json")
    there = kept.load(name).provenance["hrm"]["config"] if name in kept.names() else own
    for field in (each for each in SAME if own[each] != there[each]):
        raise ParameterError(f"{field} = {own[field]}: kept result '{name}' has {there[field]}, and keeps no other")
    return kept.keep(name, {"hrm" if m == centre else m: run for m, run in runs.items()}, references, add=True)


def shades(methods: Sequence[str]) -> dict[str, str]:
    """House colours for named models; for the values of a sweep, shades from light to dark in their order."""
    values = [method for method in methods if method not in PALETTE]
    ramp = mpl.colormaps["YlOrBr"](np.linspace(0.35, 0.95, len(values)))
    return colours(methods) | dict(zip(values, map(mpl.colors.to_hex, ramp), strict=True))


@house_style()
def tau_lines(table: pd.DataFrame, references: pd.DataFrame, x: str, unit: str) -> Figure:
    """τ over observed and over all pairs against x (a column, named `unit`), with 95 % intervals, beside ceilings."""
    methods = list(table["method"].unique())
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (0, 2), "textcoords": "offset points"}
    figure, panels = new_figure(1, 2, 2.6)
    for axes, (title, metric) in zip(panels, [*SPACES.items()][:0:-1], strict=True):
        for method, colour in shades(methods).items():
            interval_line(axes, table[table["method"] == method], x, metric, method, colour, dots=True)
        ceiling = ceiling_of(references, metric)
        axes.axhline(ceiling, color="black", linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
        said = "ceiling" if metric in {*references.query("kind == 'ceiling'")["metric"]} else "bound of τ"
        axes.annotate(said, (1, ceiling), ha="right", va="bottom", fontsize=points(6.5), **place)
        # intervals of few seeds would squeeze the curves, and a model at the ceiling would fill the axis
        lowest = min(float(table.groupby(["method", x])[metric].mean().min()), 0.7 * ceiling)
        axes.set(title=title, xlabel=unit, ylim=(lowest - 0.02, ceiling + 0.15 * (ceiling - lowest) + 0.02))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panels[0].set_ylabel("Kendall τ")
    legend_below(figure, panels[0], at_most=min(len(methods), 3))
    return figure


@house_style()
def routing_curves(metrics: pd.DataFrame, n_heads: int) -> Figure:
    """Routing entropy, Herfindahl index and largest α over epochs, healthy bands shaded, uniform routing dotted."""
    routed = [method for method in metrics["method"].unique() if "baseline" not in method]
    titles = {
        "entropy": ("mean routing entropy, nats", np.log(n_heads), "bottom", 2.1),  # uniform routing is an extreme:
        "herfindahl": ("Herfindahl index Σα²", 1 / n_heads, "top", 1.0),  # it is named away from the curves
        "max_alpha": ("largest α, mean over tokens", 1 / n_heads, "top", 1.0),
    }
    figure, panels = new_figure(1, 3, 2.4)
    for axes, (quantity, (title, uniform, away, top)) in zip(panels, titles.items(), strict=True):
        axes.axhspan(max(BANDS[quantity][0], 0.0), BANDS[quantity][1], color="black", alpha=0.06, linewidth=0)
        axes.axhline(uniform, color="black", linewidth=0.8, linestyle=":")
        axes.text(0.02, uniform, "uniform", transform=axes.get_yaxis_transform(), fontsize=points(6.5), va=away)
        for method, colour in shades(routed).items():
            interval_line(axes, metrics[metrics["method"] == method], "epoch", quantity, method, colour, dots=True)
        axes.set(title=title, xlabel="epochs trained", ylim=(0, top))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    place = panels[0].get_yaxis_transform()
    panels[0].text(0.98, 1.95, "healthy band", transform=place, ha="right", va="top", fontsize=points(6.5))
    legend_below(figure, panels[0], at_most=min(len(routed), 4))
    return figure
