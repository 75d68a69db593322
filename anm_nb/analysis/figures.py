"""Figures: tables in, Figure out; one function each, one palette, one style."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from anm_nb.analysis.layout import NOTEBOOK, figure_width, points, scaled
from anm_nb.config import ParameterError

# One colour per method everywhere; Okabe & Ito's palette, told apart by every common kind of colour vision. On white,
# `random`, `hrm` and `published baseline` have less contrast than 3:1: they are not for hairlines or letters.
PALETTE = {
    "none": "#6e6e6e",
    "stock": "#0072b2",
    "random": "#e69f00",
    "anm": "#d55e00",
    "anm_orthogonal": "#009e73",
    "anm_simplex": "#aa3377",  # the discrete miners: Tol's bright and muted palettes
    "anm_simplex_legitimate": "#117733",
    "optimal": "#000000",
    # the ranking family: Tol's muted palette, safe alike
    "baseline": "#332288",
    "hrm": "#44aa99",
    "published baseline": "#ddcc77",
    "published": "#999933",
    # its comparators; the first and the last are the two above by other names
    "no iteration": "#332288",
    "deep untied": "#88ccee",
    "weight-tied": "#cc6677",
    "random α": "#771155",
    "untrained controller": "#bbbbbb",
    "one timescale": "#ee9955",
    "equal timescales": "#4477aa",
    "HRM per sequence": "#555522",
    "HRM per token, shuffled hints": "#bbcc33",
    "HRM per token": "#44aa99",
}
OTHER_COLOURS = ("#cc79a7", "#56b4e9", "#8c564b")  # methods of a user's own, in order of appearance
LABELS = {
    "none": "no negatives",
    "stock": "stock (IRED)",
    "random": "random",
    "anm": "ANM as written",
    "anm_orthogonal": "ANM ⊥ ε",
    "anm_simplex": "simplex ANM",
    "anm_simplex_legitimate": "legitimate simplex ANM",
    "optimal": "perfect denoiser",
    "baseline": "baseline (no iteration)",
    "hrm": "HRM",
    "published baseline": "published, no iteration",
    "published": "published, HRM",
    "no iteration": "no iteration",
    "deep untied": "deep untied",
    "weight-tied": "weight-tied",
    "random α": "random α",
    "untrained controller": "untrained controller",
    "one timescale": "one timescale",
    "equal timescales": "equal timescales",
    "HRM per sequence": "HRM per sequence",
    "HRM per token, shuffled hints": "HRM per token, trained on shuffled",
    "HRM per token": "HRM per token",
}
# What all others are measured against is dashed and on top, so that it is never hidden beneath them.
LINE_STYLES: dict[str, dict[str, Any]] = {
    "none": {"linestyle": (0, (4, 1.5)), "zorder": 3},
    "optimal": {"linestyle": (0, (1, 1.2)), "zorder": 3.1},
    "weight-tied": {"linestyle": (0, (4, 1.5)), "zorder": 3},
    "deep untied": {"linestyle": (0, (6, 1.5, 1, 1.5))},
    "random α": {"linestyle": (0, (1, 1.2)), "zorder": 3.1},
    "untrained controller": {"linestyle": (0, (6, 1.5, 1, 1.5))},
    "one timescale": {"linestyle": (0, (1, 1.2)), "zorder": 3.1},
    "equal timescales": {"linestyle": (0, (4, 1.5))},
    "HRM per sequence": {"linestyle": (0, (6, 1.5, 1, 1.5))},
}
WIDTH = NOTEBOOK.width
TEXT_SIZES = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, and has every sign that the figures write
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "savefig.dpi": 300,
    "savefig.facecolor": "white",  # also on a page that is dark
    "pdf.fonttype": 42,  # TrueType, which publishers take; matplotlib's default of Type 3 they do not
    "svg.fonttype": "path",  # the outlines of letters: a browser has not the font that they were laid out with
    "svg.hashsalt": "anm-nb",
}


def colours(methods: Sequence[str]) -> dict[str, str]:
    """The colour of each method; methods the palette does not know get spare ones in order of appearance."""
    unknown = iter(OTHER_COLOURS * len(methods))
    return {method: PALETTE.get(method) or next(unknown) for method in methods}


def label(method: str) -> str:
    """A method's name as figures show it."""
    return LABELS.get(method, method)


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's own defaults with the project's style over them, and the text of the current layout.

    Nothing of a person's matplotlibrc is left (TeX, dark axes, fonts), and all of it is there again afterwards. Figures
    are made, drawn and saved within: some settings count when an artist is made, others when it is drawn.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE | {name: points(size) for name, size in TEXT_SIZES.items()})
        yield


class PaperFigure(Figure):
    """A figure that shows itself in a notebook without pyplot, its global state and its import time.

    Drawn, shown or saved it is in the project's style, whatever matplotlib is set to then.
    """

    def draw(self, renderer: Any) -> None:
        """As for any figure; tick labels are written only now."""
        with house_style():
            super().draw(renderer)

    def savefig(self, *args: Any, **options: Any) -> None:
        """As for any figure."""
        with house_style():
            super().savefig(*args, **options)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=130)
        return buffer.getvalue()


def new_figure(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """An empty figure of the layout's width and its panels; options as for `Figure.subplots`.

    The height is in inches where text has the size it has in a notebook, and in step with it elsewhere.
    """
    figure = PaperFigure(figsize=(figure_width(), scaled(height)), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(rows, columns, **options))


def legend_below(figure: Figure, axes: Axes, at_most: int) -> None:
    """Name a panel's methods beneath all panels, in as many columns, up to `at_most`, as the width has room for."""
    handles, names = axes.get_legend_handles_labels()
    renderer = FigureCanvasAgg(figure).get_renderer()
    even = [-(-len(names) // rows) for rows in range(2, len(names) + 1)]
    for columns in [at_most, *(count for count in even if count < at_most)]:
        legend = figure.legend(handles, names, loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent(renderer).width <= figure.bbox.width:
            return
        legend.remove()


def require_columns(table: pd.DataFrame, *columns: str) -> None:
    """Raises `ParameterError` for a table that lacks one of the columns, or has no rows to draw."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise ParameterError(f"table without {', '.join(missing)}; it needs the columns {', '.join(columns)}")
    if table.empty:
        raise ParameterError("table without rows: there is nothing to draw")


def interval_line(axes: Axes, rows: pd.DataFrame, x: str, y: str, method: str, colour: str, dots: bool = False) -> None:
    """Mean of y over seeds against x with its 95 % t-interval, for one method: a band, or a bar where x has one value.

    `rows` holds one row for each seed and x; those without y are left out, and nothing is drawn where none is left.
    `dots` marks the means where there are fewer than 20.
    """
    from anm_nb.analysis.stats import mean_interval

    bands = rows.dropna(subset=[y]).groupby(x)[y].apply(mean_interval)
    if bands.empty:
        return
    mean, low, high = np.array(bands.tolist()).T
    style: dict[str, Any] = {"color": colour, "label": label(method)}
    if len(bands) == 1:
        axes.errorbar(bands.index, mean, [mean - low, high - mean], fmt="o", markersize=4, capsize=2, **style)
        return
    marker = "." if dots and len(bands) < 20 else None
    axes.plot(bands.index, mean, marker=marker, **style, **LINE_STYLES.get(method, {}))
    axes.fill_between(bands.index, low, high, color=colour, alpha=0.18, linewidth=0)


def _curves(axes: Axes, metrics: pd.DataFrame, column: str) -> None:
    """Mean over seeds of a column against the step, with its 95 % t-interval as a band, for each method."""
    if column not in metrics:  # no method of these has it
        return
    for method, colour in colours(list(metrics["method"].unique())).items():
        interval_line(axes, metrics[metrics["method"] == method], "step", column, method, colour)
    axes.set_xlabel("training step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


SAME_LINE = 1.05  # on axes of several decades


def learning_curves(
    metrics: pd.DataFrame, references: pd.DataFrame, column: str = "mse", unit: str = "held-out MSE"
) -> Figure:
    """The task's score against the step, over the first 20 % and all of training, beside its trivial references."""
    with house_style():
        figure, (early, whole) = new_figure(1, 2, 2.5, sharey=True)
        for axes in (early, whole):
            _curves(axes, metrics, column)
            axes.set_yscale("log")
        last = metrics["step"].max()
        early.set(title="first 20 % of steps", ylabel=f"{unit} (log scale)", xlim=(0, last / 5))
        whole.set(title="all of training", xlim=(0, last))
        for name, value in _lines(references[references["kind"] == "trivial"]):
            for axes in (early, whole):
                axes.axhline(value, color="black", linewidth=0.7, linestyle=(0, (4, 3)))
            whole.annotate(
                name,
                (1, value),
                xycoords=("axes fraction", "data"),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=points(7),
            )
        legend_below(figure, whole, at_most=5)
    return figure


def _lines(references: pd.DataFrame) -> list[tuple[str, float]]:
    """Names and values of references; those too near to each other to be told apart make one line with all names."""
    lines: list[tuple[str, float]] = []
    for name, value in references.sort_values("value")[["name", "value"]].itertuples(index=False):
        if lines and value < SAME_LINE * lines[-1][1]:
            lines[-1] = (f"{lines[-1][0]},\n{name}", lines[-1][1])
        else:
            lines.append((name, value))
    return lines


CHECKLIST_PANELS = {
    "p_hard": "share of negatives\nbelow the positive (A)",
    "illegitimate_fraction": "illegitimate share\n(optimal margin < 0)",
    "margin_mean": "mean margin E⁻ − E⁺ (A)",
    "loss_con": "contrastive loss, nats (A)",
    "grad_share_contrast": "gradient share r of the\ncontrastive loss (D)",
    "dev_p_hard": "held-out pairs ordered\nwrongly (H, J)",
}


def checklist_panels(metrics: pd.DataFrame, panels: Mapping[str, str] = CHECKLIST_PANELS) -> Figure:
    """Instruments of the checklist against the step, one panel each; method colours throughout."""
    with house_style():
        figure, grid = new_figure(2, 3, 3.6, sharex=True)
        for axes, (column, title) in zip(grid.flat, panels.items(), strict=True):
            _curves(axes, metrics, column)
            axes.set_title(title)
            if column in ("p_hard", "illegitimate_fraction", "grad_share_contrast"):
                axes.set_ylim(-0.03, 1.03)
            if column == "grad_share_contrast":
                axes.axhspan(0.3, 0.7, color="black", alpha=0.06, linewidth=0)
                axes.text(
                    0.98, 0.68, "target band", transform=axes.transAxes, ha="right", va="top", fontsize=points(6.5)
                )
            if column == "margin_mean":
                axes.set_yscale("symlog", linthresh=1)
                axes.yaxis.set_minor_formatter(NullFormatter())
                axes.axhline(0, color="black", linewidth=0.6)
        for axes in grid[0]:
            axes.set_xlabel("")
        legend_below(figure, grid[1, 2], at_most=5)
    return figure


def energy_trends(metrics: pd.DataFrame) -> Figure:
    """E⁺ and E⁻ against the step, a panel for each method: do they part, or rise together (checklist, section K)?"""
    contrasted = metrics.dropna(subset=["e_neg"]) if "e_neg" in metrics else metrics.iloc[:0]
    methods = list(contrasted["method"].unique())
    with house_style():
        figure, panels = new_figure(1, max(1, len(methods)), 1.9, sharey=True, sharex=True)
        if not methods:
            panels[0].set_axis_off()
            panels[0].text(0.5, 0.5, "no method here has negatives", ha="center")
            return figure
        for axes, method in zip(panels, methods, strict=True):
            rows = contrasted[contrasted["method"] == method]
            for column, style, name in (("e_neg", "-", "E⁻ negative"), ("e_pos", (0, (3, 2)), "E⁺ positive")):
                mean = rows.groupby("step")[column].mean()
                axes.plot(mean.index, mean, linestyle=style, color=colours(methods)[method], label=name)
            axes.set(title=label(method), xlabel="training step", yscale="symlog")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        panels[0].set_ylabel("mean energy (symlog)")
        panels[0].legend(loc="best")
    return figure


def margin_histograms(margins: Mapping[str, np.ndarray], steps: Sequence[int]) -> Figure:
    """Histograms of margins, a row for each method and a column for each of up to four recorded steps (checklist A).

    `margins[method]` is [records, examples], all seeds pooled, NaN where a batch was short; margins beyond ±`reach` sit
    in the outermost bars.
    """
    shown = np.unique(np.linspace(0, len(steps) - 1, min(4, len(steps))).round().astype(int))
    with house_style():
        figure, grid = new_figure(
            len(margins), len(shown), 1.0 + 0.85 * len(margins), sharex=True, sharey="row", squeeze=False
        )
        pooled = np.concatenate([values[shown].ravel() for values in margins.values()])
        reach = float(np.nanquantile(np.abs(pooled), 0.9))
        bins = np.linspace(-reach, reach, 41)
        for row, (method, values) in zip(grid, margins.items(), strict=True):
            colour = colours(list(margins))[method]
            for axes, record in zip(row, shown, strict=True):
                present = values[record][np.isfinite(values[record])]
                axes.hist(np.clip(present, -reach, reach), bins, color=colour, density=True)
                axes.axvline(0, color="black", linewidth=0.6)
                for quartile in np.quantile(present, [0.25, 0.5, 0.75]):
                    axes.axvline(np.clip(quartile, -reach, reach), color="black", linewidth=0.7, ymin=0.86)
                axes.set_yticks([])
            row[0].set_ylabel(label(method), rotation=0, ha="right", va="center")
        for axes, record in zip(grid[0], shown, strict=True):
            axes.set_title(f"step {steps[record]}")
        figure.supxlabel("margin E⁻ − E⁺ of the batch's own negatives (ticks above: quartiles)", fontsize=points(8))
    return figure


def contrastive_loss_shape(margin: np.ndarray, loss: np.ndarray, by_pos: np.ndarray, by_neg: np.ndarray) -> Figure:
    """The contrastive loss and its gradients by both energies: measured as dots, closed forms as lines."""
    softplus, sigmoid = np.logaddexp(0, -margin), np.exp(-np.logaddexp(0, margin))
    with house_style():
        figure, (left, right) = new_figure(1, 2, 2.2, sharex=True)
        left.plot(margin, softplus, color=PALETTE["stock"], label="log(1 + e⁻ᵐ)")
        left.plot(margin, loss, ".", color="black", markersize=3, label="computed")
        right.plot(margin, sigmoid, color=PALETTE["anm_orthogonal"], label="by E⁺: σ(−m)")
        right.plot(margin, -sigmoid, color=PALETTE["anm"], label="by E⁻: −σ(−m)")
        right.plot(
            np.tile(margin, 2), np.concatenate([by_pos, by_neg]), ".", color="black", markersize=3, label="autograd"
        )
        left.set(xlabel="margin E⁻ − E⁺, nats", ylabel="contrastive loss, nats")
        right.set(xlabel="margin E⁻ − E⁺, nats", ylabel="gradient of the loss")
        left.legend()
        right.legend()
    return figure


def score_summary(scores: pd.DataFrame, table: pd.DataFrame, metric: str = "mse", unit: str = "held-out MSE") -> Figure:
    """Final scores: every seed as a dot, mean and 95 % interval, with the trivial references as lines."""
    methods = list(scores.columns)
    measured = table[table["kind"] == "measured"]
    with house_style():
        figure, (axes,) = new_figure(1, 1, 0.9 + 0.28 * len(methods))
        for height, method in enumerate(methods):
            row, colour = measured.loc[method], colours(methods)[method]
            axes.plot(scores[method], np.full(len(scores), height), "o", color=colour, alpha=0.45, markersize=3.5)
            axes.plot([row["low"], row["high"]], [height] * 2, color=colour, linewidth=2)
            axes.plot(row[metric], height, "D", color=colour, markersize=5)
        axes.set_yticks(range(len(methods)), [label(method) for method in methods])
        axes.invert_yaxis()
        for name, value in table.loc[table["kind"] == "trivial", metric].items():
            axes.axvline(value, color="black", linewidth=0.7, linestyle=(0, (4, 3)))
            axes.annotate(
                str(name),
                (value, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=points(7),
            )
        axes.set(xscale="log", xlabel=f"{unit} (log scale; dots: seeds, diamond and bar: mean and 95 % interval)")
        sns.despine(figure, left=True)
        axes.tick_params(axis="y", length=0)
    return figure
