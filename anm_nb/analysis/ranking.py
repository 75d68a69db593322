"""Tables, claims and figures of ranking runs, shared by notebooks 02 and 20 to 26."""

from collections.abc import Mapping
from typing import Any

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
from anm_nb.analysis.style import colours, house_style, new_figure, points
from anm_nb.config import ParameterError
from anm_nb.ranking.train import RankingConfig
from anm_nb.store import Run
from anm_nb.tasks.kendall import kendall_tau
from anm_nb.tasks.ordering import HintedSort, PartialSort
from anm_nb.training.seeds import generator

# Titles and metric names of τ, from the published mistake to the one that the task asks for.
SPACES = {"index space": "tau_index", "all pairs": "tau_all", "observed pairs": "tau_obs"}
# Healthy ranges of routing statistics in the document ("Validation checks", 3).
BANDS = {"entropy": (0.5, 2.0), "herfindahl": (float("-inf"), 0.5), "max_alpha": (0.3, 0.6)}
MARGIN = 0.01  # in τ: smaller differences count as none; fixed before the runs
# Fields that all models of a kept grid share, and short names of fields.
SAME = ("task", "task_options", "size", "mask_rate", "width", "n_heads", "train_samples", "epochs", "seeds")
SHORT = {"max_inner_iters": "iterations", "hrm_period": "T"}


def tested(metrics: pd.DataFrame) -> pd.DataFrame:
    """The final evaluation on test: one row per method and seed, columns method, seed and the τs of `SPACES`."""
    columns = ["method", "seed", *(f"test_{tau}" for tau in SPACES.values())]
    return metrics[columns].rename(columns=lambda name: name.removeprefix("test_")).dropna(ignore_index=True)


def on_test(metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One τ of `tested`: a row per seed, a column per method in order of appearance."""
    return tested(metrics).pivot(index="seed", columns="method", values=metric)[list(metrics["method"].unique())]


def tau_by_iteration(runs: Mapping[str, Run]) -> pd.DataFrame:
    """τ on test after each iteration (the first is 1): columns method, seed, iteration, tau_obs and tau_all."""
    parts = []
    for method, run in runs.items():
        scores, ranks, known = (run.trace[f"test_{name}"][:, 0] for name in ("scores", "ranks", "known"))
        for place, seed in enumerate(run.settings["seeds"]):
            pred, true, seen = scores[place], ranks[place].unsqueeze(1), known[place].unsqueeze(1)
            taus = {"tau_obs": kendall_tau(pred, true, seen).nanmean(0), "tau_all": kendall_tau(pred, true).nanmean(0)}
            iterations = range(1, pred.shape[1] + 1)
            parts.append(pd.DataFrame({"method": method, "seed": seed, "iteration": iterations, **taus}))
    return pd.concat(parts, ignore_index=True)


def reach(task: PartialSort, links: int) -> float:
    """τ over all pairs if up to `links` pointers are followed per item; NaN unless all pointers exist and are true."""
    if not isinstance(task, HintedSort) or task.informed_rate < 1:
        return float("nan")
    batch = task.sample(2000, generator=generator(0, "references"))
    return float(kendall_tau(task.solve(batch, links), batch.y).nanmean())


def halfway(task: PartialSort) -> float:
    """The τ over all pairs above which a seed has taken off: halfway from the reach of one pass to the ceiling of 1.

    One pass can follow two pointers, one in the encoder's attention and one in the block's. NaN where `reach` is.
    """
    return (reach(task, links=2) + 1) / 2


def took_off(scores: pd.DataFrame, level: float) -> pd.Series:
    """Per method, as text: how many seeds ended above the level, and the 95 % interval of their proportion."""

    def share(taus: pd.Series) -> str:
        above, seeds = (taus > level).sum(), taus.count()
        _, low, high = proportion_interval(above, seeds)
        return f"{above} of {seeds} [{low:.2f}, {high:.2f}]"

    return scores.apply(share)


def interval_text(values: ArrayLike) -> str:
    """The mean of τ over seeds and its 95 % interval, which stays within [−1, 1], as text."""
    return "{:z.3f} [{:z.3f}, {:z.3f}]".format(*bounded_interval(values, -1.0))


def score_summary(metrics: pd.DataFrame, references: pd.DataFrame, level: float = float("nan")) -> pd.DataFrame:
    """Reference scores, then τ on test per method, medians and, given a `level`, how many seeds took off, as text."""
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
    """The best possible τ; 1, the bound of τ, where the best is unknown, as in index space."""
    return float(references[references["kind"] == "ceiling"].set_index("metric")["value"].get(metric, 1.0))


def judge_sweep(
    metrics: pd.DataFrame, baseline: str, centre: str, metric: str, references: pd.DataFrame | None = None
) -> Verdicts:
    """Judge whether each value of a sweep beats the document's value, `centre` (primary), and one pass, `baseline`."""
    values = [name for name in metrics["method"].unique() if name not in (baseline, centre)]
    shared: dict[str, Any] = {"metric": metric, "margin": MARGIN, "section": "experiments 2–5"}
    centred = [Claim(f"{v} ranks better than {centre}", lower=centre, higher=v, primary=True, **shared) for v in values]
    shared |= {"lower": baseline, "expects": "by 20 % and more"}
    simple = [Claim(f"{v} ranks better than one pass", higher=v, **shared) for v in (centre, *values)]
    return judge([*centred, *simple], tested(metrics), references=references, larger_is_better=True)


def of_sweep(grid: Kept, field: str) -> tuple[pd.DataFrame, str]:
    """The metrics of a kept grid's baseline and models that vary one field, and the name of the document's model."""
    name = SHORT.get(field, field.replace("_", " "))
    centre = f"{name} = {grid.provenance['hrm']['config'][field]:g}"
    names = {"hrm": centre} | {old: old.replace(field, name) for old in grid.metrics["method"].unique() if field in old}
    ordered = ["baseline", *sorted(names.values(), key=lambda method: float(method.split()[-1]))]
    metrics = grid.metrics.replace({"method": names})
    return pd.concat([metrics[metrics["method"] == method] for method in ordered], ignore_index=True), centre


def sweep_answer(field: str, hinted: Kept, plain: Kept) -> str:
    """Summarise the kept grids for one field, in Markdown: each value against the document's, with the scope."""
    metrics, centre = of_sweep(hinted, field)
    judged = judge_sweep(metrics, "baseline", centre, "tau_all").table.query("primary").copy()
    judged["value"] = judged["claim"].str.split(" ranks ").str[0].str.split().str[-1]
    better = " and ".join(judged.loc[judged["verdict"] == "supported", "value"]) or "No other value"
    words = {"supported": "better", "refuted": "worse"}
    compared = [
        f"{row['value']} is {words.get(row['verdict'], row['verdict'])}: "
        f"{-row['estimate']:+z.3f} [{-row['high']:+z.3f}, {-row['low']:+z.3f}]"
        for row in judged.to_dict("records")
    ]
    taus = on_test(metrics, "tau_all").drop(columns="baseline")
    observed = np.floor(1e4 * on_test(of_sweep(plain, field)[0], "tau_obs").to_numpy().min()) / 1e4
    return (
        f"**{better} is shown to rank better than the document's own, {centre}.** Difference in Kendall τ over all "
        f"pairs of hinted sorting: {'; '.join(compared).replace('-', '−')} (paired by seed, 95 % intervals; "
        f"equivalent: within ± {MARGIN}; Holm's correction; {hinted.scope}). Seeds of one setting differ by up to "
        f"{(taus.max() - taus.min()).max():.2f}, means of settings by {np.ptp(taus.mean()):.3f}. The document's own "
        f"task cannot separate the settings: τ over observed pairs is at least {observed:.4f} in every run, also with "
        f"one pass ({plain.scope})."
    )


def keep_in_grid(runs: Mapping[str, Run], references: pd.DataFrame, config: RankingConfig, centre: str = "hrm") -> Kept:
    """Add runs to the kept grid of their task, `centre` as "hrm"; `ParameterError` if a field of `SAME` differs."""
    name = "hrm_hinted" if config.task == "hinted_sort" else "hrm"
    new = config.model_dump(mode="json")
    old = kept.load(name).provenance["hrm"]["config"] if name in kept.names() else new
    for field in SAME:
        if new[field] != old[field]:
            raise ParameterError(f"{field} = {new[field]}: kept result '{name}' has {old[field]} only")
    named = {"hrm" if method == centre else method: run for method, run in runs.items()}
    return kept.keep(name, named, references, add=True)


@house_style()
def tau_lines(table: pd.DataFrame, references: pd.DataFrame, x: str, unit: str) -> Figure:
    """τ over observed and all pairs against column x, labelled `unit`, with 95 % intervals and ceilings."""
    methods = list(table["method"].unique())
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (0, 2), "textcoords": "offset points"}
    figure, panels = new_figure(1, 2, 2.6)
    for axes, (title, metric) in zip(panels, [*SPACES.items()][:0:-1], strict=True):
        for method, colour in colours(methods).items():
            interval_line(axes, table[table["method"] == method], x, metric, method, colour, dots=True)
        ceiling = ceiling_of(references, metric)
        axes.axhline(ceiling, color="black", linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
        label = "ceiling" if metric in {*references.query("kind == 'ceiling'")["metric"]} else "bound of τ"
        axes.annotate(label, (1, ceiling), ha="right", va="bottom", fontsize=points(6.5), **place)
        # limits by the means: wide intervals of few seeds would flatten the curves; at least 30 % below the ceiling
        lowest = min(float(table.groupby(["method", x])[metric].mean().min()), 0.7 * ceiling)
        axes.set(title=title, xlabel=unit, ylim=(lowest - 0.02, ceiling + 0.15 * (ceiling - lowest) + 0.02))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panels[0].set_ylabel("Kendall τ")
    legend_below(figure, panels[0], at_most=min(len(methods), 3))
    return figure


@house_style()
def routing_curves(metrics: pd.DataFrame, n_heads: int) -> Figure:
    """Routing entropy, Herfindahl index and largest α over epochs, with healthy bands and uniform routing (dotted)."""
    routed = [method for method in metrics["method"].unique() if "baseline" not in method]
    titles = {
        "entropy": ("mean routing entropy, nats", np.log(n_heads), "bottom", 2.1),  # uniform routing is an extreme,
        "herfindahl": ("Herfindahl index Σα²", 1 / n_heads, "top", 1.0),  # so its label lies beyond the curves
        "max_alpha": ("largest α, mean over tokens", 1 / n_heads, "top", 1.0),
    }
    figure, panels = new_figure(1, 3, 2.4)
    for axes, (quantity, (title, uniform, away, top)) in zip(panels, titles.items(), strict=True):
        axes.axhspan(max(BANDS[quantity][0], 0.0), BANDS[quantity][1], color="black", alpha=0.06, linewidth=0)
        axes.axhline(uniform, color="black", linewidth=0.8, linestyle=":")
        axes.text(0.02, uniform, "uniform", transform=axes.get_yaxis_transform(), fontsize=points(6.5), va=away)
        for method, colour in colours(routed).items():
            interval_line(axes, metrics[metrics["method"] == method], "epoch", quantity, method, colour, dots=True)
        axes.set(title=title, xlabel="epochs trained", ylim=(0, top))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    place = panels[0].get_yaxis_transform()
    panels[0].text(0.98, 1.95, "healthy band", transform=place, ha="right", va="top", fontsize=points(6.5))
    legend_below(figure, panels[0], at_most=min(len(routed), 4))
    return figure
