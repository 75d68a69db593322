"""What any score has to be read against: tables and verdicts over `anm_nb.tasks.base.reference_scores`.

`references` holds its rows throughout: task, split, seed, name, kind, metric, value, low, high.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from anm_nb.analysis.plots import legend_below
from anm_nb.analysis.published import IRED_MSE
from anm_nb.analysis.stats import mean_interval
from anm_nb.analysis.style import PALETTE, house_style, new_figure, points
from anm_nb.analysis.tables import rounded, skill
from anm_nb.analysis.verdicts import Verdict, judge, judge_band
from anm_nb.tasks import task_class

KIND_COLOURS = {"trivial": "#6e6e6e", "classical": "#cc79a7", "ceiling": "#000000", "published": PALETTE["stock"]}
FILLED = {"same": True, "harder": False}
EXACT = 1e-6  # errors below are those of rounding
METRIC_LABELS = {"mse": "MSE", "tau_obs": "τ, observed pairs", "tau_all": "τ, all pairs"}


def metric_label(task: str) -> str:
    """A task's own metric as tables and axes name it."""
    metric = task_class(task).metric
    return METRIC_LABELS.get(metric, metric.replace("_", " "))


def native(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows in each task's own metric."""
    return scores[scores["metric"] == scores["task"].map(lambda task: task_class(task).metric)]


@dataclass(frozen=True)
class Known:
    """One task's references on one kind of problems, in its own metric: kinds and mean values over seeds, by name."""

    kinds: dict[str, str]
    values: dict[str, float]

    @property
    def ceiling(self) -> float:
        """The best possible score."""
        return next(self.values[name] for name, kind in self.kinds.items() if kind == "ceiling")

    def best(self, kind: str) -> str:
        """The name of the reference of a kind that lies nearest the ceiling."""
        names = [name for name, own in self.kinds.items() if own == kind]
        return min(names, key=lambda name: abs(self.values[name] - self.ceiling))


def references_of(references: pd.DataFrame, task: str, split: str) -> Known:
    """One task's references on one kind of problems."""
    own = native(references)
    own = own[(own["task"] == task) & (own["split"] == split)]
    values = own.groupby("name", sort=False)["value"].mean()
    kinds = own.drop_duplicates("name")
    by_name = {str(name): float(value) for name, value in values.items()}
    return Known(dict(zip(kinds["name"], kinds["kind"], strict=True)), by_name)


def reference_text(references: pd.DataFrame) -> pd.DataFrame:
    """Every reference as text to read: mean and 95 % interval over seeds for both kinds of problems, and skill."""
    rows = []
    for task in references["task"].unique():
        splits = {split: references_of(references, task, split) for split in ("same", "harder")}
        for name, kind in splits["same"].kinds.items():
            row = {"task": task, "metric": metric_label(task), "predictor": name, "kind": kind}
            for split, known in splits.items():
                own = _values(references, task, split, name)
                mean, low, high = mean_interval(own)
                exact = low == high or not len(own) > 1
                row[split] = rounded(mean) if exact else f"{rounded(mean)} [{rounded(low)}, {rounded(high)}]"
                trivial = known.values[known.best("trivial")]
                row[f"skill, {split}"] = f"{float(skill(mean, trivial, known.ceiling)):z.2f}"
            rows.append(row)
    return pd.DataFrame(rows).set_index(["task", "metric", "predictor"])


def published_skill(references: pd.DataFrame) -> pd.DataFrame:
    """IRED's published MSEs beside the best trivial and the classical one, with the skill they amount to.

    The published scores are for 20×20, so the references have to be for that size too.
    """
    rows = []
    for (task, split), score in IRED_MSE.items():
        if task not in set(references["task"]):
            continue
        known = references_of(references, task, split)
        trivial, classical = known.best("trivial"), known.best("classical")
        of_published = skill(score, known.values[trivial], known.ceiling)
        rows.append(
            {
                "task": task,
                "problems": split,
                "published IRED": f"{score:.4f}",
                "best trivial": f"{rounded(known.values[trivial])} ({trivial})",
                "classical": f"{rounded(known.values[classical])} ({classical})",
                "skill of the published score": f"{float(of_published):z.2f}",
            }
        )
    return pd.DataFrame(rows).set_index(["task", "problems"])


def reference_verdicts(references: pd.DataFrame) -> list[Verdict]:
    """What the references alone say about the published scores at 20×20, paired by seed."""
    verdicts = []
    present = set(references["task"])
    for (task, split), score in IRED_MSE.items():
        if task not in present:
            continue
        known = references_of(references, task, split)
        trivial = known.best("trivial")
        values = _values(references, task, split, trivial)
        skills = skill(np.full(len(values), score), values, 0.0)
        verdicts.append(
            judge_band(
                f"the published score on {task}, {split} problems, is more than a trivial predictor's: skill above 0.1",
                skills,
                low=0.1,
                high=1.0,
                unit=f"skill against '{trivial}'",
            )
        )
    for split in ("same", "harder") if "lowrank" in present else ():
        verdicts.append(
            judge(
                f"a classical method is better than copying on lowrank, {split} problems",
                lower=_values(references, "lowrank", split, "soft-impute"),
                higher=_values(references, "lowrank", split, "copy the observed"),
                names=("soft-impute", "copying"),
                unit="MSE",
            )
        )
    return verdicts


def _values(references: pd.DataFrame, task: str, split: str, name: str) -> np.ndarray:
    """One reference's value for each seed."""
    own = native(references)
    own = own[(own["task"] == task) & (own["split"] == split) & (own["name"] == name)]
    return own.sort_values("seed")["value"].to_numpy()


def reference_panels(references: pd.DataFrame) -> Figure:
    """Every task's references, a panel each: problems as trained on filled, harder ones open; the published beside."""
    tasks = list(references["task"].unique())
    with house_style():
        figure, panels = _panels(len(tasks))
        for axes, task in zip(panels, tasks, strict=True):
            _reference_panel(axes, references, task)
        for label, face in (("problems as in training", "black"), ("harder problems", "white")):
            panels[0].plot([], [], "o", color="black", markerfacecolor=face, markersize=4, label=label)
        legend_below(figure, panels[0], at_most=2)
    return figure


def _reference_panel(axes: Axes, references: pd.DataFrame, task: str) -> None:
    """One task's references from top to bottom, trivial ones first, and the published scores last."""
    splits = {split: references_of(references, task, split) for split in FILLED}
    kinds = dict(splits["same"].kinds)
    scores = {(name, split): known.values[name] for split, known in splits.items() for name in kinds}
    published = {("published IRED", split): IRED_MSE[task, split] for split in FILLED if (task, split) in IRED_MSE}
    kinds |= {name: "published" for name, _ in published}
    is_error = task_class(task).metric == "mse"
    for (name, split), score in (scores | published).items():
        height, colour = list(kinds).index(name), KIND_COLOURS[kinds[name]]
        if not is_error or score > EXACT:
            face = colour if FILLED[split] else "white"
            axes.plot(score, height, "o", color=colour, markerfacecolor=face, markersize=4)
        elif split == "same":  # an exact method has no place on a logarithmic axis
            axes.text(
                0.02, height, "0 (exact)", transform=axes.get_yaxis_transform(), va="center", fontsize=points(6.5)
            )
    axes.set_yticks(range(len(kinds)), [name.replace(", ", ",\n") for name in kinds])
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelsize=points(6.5))
    axes.grid(axis="y", linewidth=0.3, color="#dddddd")
    axes.set(title=task, xlabel=f"{metric_label(task)}{' (log scale)' if is_error else ''}")
    if is_error:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """An empty figure of so many panels, up to three in a row."""
    columns = min(3, count)
    rows = -(-count // columns)
    figure, grid = new_figure(rows, columns, 0.55 + 1.5 * rows, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return figure, list(grid.flat[:count])
