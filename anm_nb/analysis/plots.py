"""Plots shared by at least two notebooks, and reproducible figure files for papers."""

import contextlib
import hashlib
import json
import os
import re
import textwrap
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anm_nb.analysis import kept
from anm_nb.analysis.style import LINE_STYLES, PAGE, PALETTE, VENUE, colours, house_style, label, new_figure, points
from anm_nb.analysis.tables import score_interval
from anm_nb.config import ParameterError
from anm_nb.files import KEPT, NOTEBOOK, RUNS_USED, locked, replace_whole
from anm_nb.store import CorruptRun, Run, store_root

FIGURES = "ANM_NB_FIGURES"  # environment variable: the folder for published figures
MANIFEST = "manifest.json"
UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}  # metadata
SAME_LINE = 1.05  # two values of a smaller ratio coincide on an axis of several decades


def legend_below(figure: Figure, axes: Axes, at_most: int) -> None:
    """Add a legend for one panel below all panels, with as many columns (up to `at_most`) as fit the width."""
    handles, names = axes.get_legend_handles_labels()
    renderer = FigureCanvasAgg(figure).get_renderer()
    even = [-(-len(names) // rows) for rows in range(2, len(names) + 1)]  # columns that fill their rows evenly
    for columns in [at_most, *(count for count in even if count < at_most)]:
        legend = figure.legend(handles, names, loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent(renderer).width <= figure.bbox.width:
            return
        legend.remove()


def interval_line(axes: Axes, rows: pd.DataFrame, x: str, y: str, method: str, colour: str, dots: bool = False) -> None:
    """Plot one method's mean of y over seeds against x with its 95 % interval: a band, or a bar if x has one value.

    `rows` has one row per seed and x. Rows with a missing y are ignored; without any other row nothing is drawn.
    `dots` marks the means if there are fewer than 20.
    """
    bands = rows.dropna(subset=[y]).groupby(x)[y].apply(score_interval, metric=y)
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


def curves(axes: Axes, metrics: pd.DataFrame, column: str) -> None:
    """Plot each method's mean of a column over seeds against the step, with its 95 % interval as a band."""
    if column not in metrics:  # recorded by none of the methods
        return
    for method, colour in colours(list(metrics["method"].unique())).items():
        interval_line(axes, metrics[metrics["method"] == method], "step", column, method, colour)
    axes.set_xlabel("training step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def reference_lines(references: pd.DataFrame) -> list[tuple[str, float]]:
    """Names and values of reference lines, in ascending order; values too close to distinguish share a line."""
    lines: list[tuple[str, float]] = []
    for name, value in references.sort_values("value")[["name", "value"]].itertuples(index=False):
        if lines and value < SAME_LINE * lines[-1][1]:
            lines[-1] = (f"{lines[-1][0]},\n{name}", lines[-1][1])
        else:
            lines.append((name, value))
    return lines


@house_style()
def seed_strips(
    scores: pd.DataFrame, references: pd.DataFrame, metric: str = "mse", unit: str = "held-out MSE", scale: str = "log"
) -> Figure:
    """Plot final scores [seeds × methods]: a dot per seed, mean and 95 % interval, and references as lines.

    `references` has the columns name, kind, metric, value; the kinds trivial, classical and ceiling are drawn.
    """
    styles = {"trivial": (0, (4, 3)), "classical": (0, (1, 1.5)), "ceiling": "-"}
    figure, (axes,) = new_figure(1, 1, 0.9 + 0.28 * scores.shape[1])
    for height, (method, colour) in enumerate(colours(list(map(str, scores))).items()):
        mean, low, high = score_interval(scores[method], metric)
        axes.plot(scores[method], np.full(len(scores), height), "o", color=colour, alpha=0.45, markersize=3.5)
        axes.plot([low, high], [height] * 2, color=colour, linewidth=2)
        axes.plot(mean, height, "D", color=colour, markersize=5)
    axes.set_yticks(range(scores.shape[1]), [label(str(method)) for method in scores])
    axes.invert_yaxis()
    shown = references[(references["metric"] == metric) & references["kind"].isin(styles)]
    shown = shown[shown["value"] > 0] if scale == "log" else shown
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "xytext": (0, 2), "textcoords": "offset points"}
    for kind, rows in shown.groupby("kind", sort=False):
        for name, value in reference_lines(rows):
            axes.axvline(value, color="black", linewidth=0.7, linestyle=styles[str(kind)])
            axes.annotate(name, (value, 1), ha="center", fontsize=points(7), **place)
    note = f"{scale} scale; " if scale != "linear" else ""
    axes.set(xscale=scale, xlabel=f"{unit} ({note}dots: seeds, diamond and bar: mean and 95 % interval)")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


@house_style()
def forest(rows: pd.DataFrame, unit: str, groups: str | None = None) -> Figure:
    """Plot differences with their intervals, one per row of a table with name, estimate, low, high, optionally method.

    `groups` names a column that splits the rows into groups with headings. A line marks zero, no difference.
    """
    blocks = [("", rows)] if groups is None else list(rows.groupby(groups, sort=False))
    figure, (axes,) = new_figure(1, 1, 0.7 + 0.2 * (len(rows) + (len(blocks) if groups else 0)))
    where = {"transform": axes.get_yaxis_transform(), "va": "center", "weight": "bold", "backgroundcolor": "white"}
    ticks: dict[int, str] = {}
    height = 0
    for title, block in blocks:
        if groups:
            axes.text(0.01, height, title, **where)
            height += 1
        for row in block.to_dict("records"):
            colour = PALETTE.get(row.get("method", ""), "#333333")
            axes.plot([row["low"], row["high"]], [height] * 2, color=colour, linewidth=2)
            axes.plot(row["estimate"], height, "D", color=colour, markersize=4)
            ticks[height] = str(row["name"])
            height += 1
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_yticks([*ticks], [*ticks.values()])
    axes.set(ylim=(height - 0.5, -0.5), xlabel=unit)
    return figure


def publish(
    figure: Figure, name: str, width: Literal["column", "text"] = "text", table: pd.DataFrame | None = None
) -> Figure:
    """Mark a figure and an optional table for export under a name by `anm-nb figures`; returns the figure.

    `width` is that of a "column" or of the "text" of the page. Raises `ParameterError` for another width, for a name
    unsuitable as a file name, and for a name that another notebook uses.
    """
    if width not in ("column", "text"):
        raise ParameterError(f"width = {width!r}: 'column' or 'text'")
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name, re.ASCII):
        raise ParameterError(f"name = {name!r}: letters, digits, _ and - only, as it names files")
    if FIGURES not in os.environ:
        return figure
    folder, inches = Path(os.environ[FIGURES]), PAGE.column if width == "column" else PAGE.text
    figure.set_size_inches(inches, figure.get_figheight())
    _fit(figure)
    files = figure_files(figure, name)
    if table is not None:
        tex = table.to_latex(index=any(table.index.names), escape=True, float_format="%.4g", na_rep="")
        files |= {f"{name}.tex": tex.encode(), f"{name}.csv": table.to_csv().encode()}
    hashes = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    entry: dict[str, Any] = {"notebook": os.environ[NOTEBOOK], "files": hashes, "width_in": inches}
    entry |= {"matplotlib": mpl.__version__, "runs": _runs_used()}
    with locked(folder / ".figures.lock", "figures are written"):
        figures = published(folder)[1]
        if (other := figures.get(name, entry)["notebook"]) != entry["notebook"]:
            raise ParameterError(f"{entry['notebook']} and {other} publish '{name}': rename one")
        figures = dict(sorted({**figures, name: entry}.items()))
        manifest = {"venue": os.environ[VENUE], "page": PAGE.source, "figures": figures}
        files[MANIFEST] = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
        for file, data in files.items():
            replace_whole(folder / file, data)
    return figure


def published(folder: Path) -> tuple[str, dict[str, Any]]:
    """Venue and manifest entries, by name, of the figures in a folder; empty if it has no manifest."""
    if not (folder / MANIFEST).exists():
        return "", {}
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    return manifest["venue"], manifest["figures"]


@house_style()
def figure_files(figure: Figure, name: str) -> dict[str, bytes]:
    """Save a figure as PDF, SVG and PNG without dates, so that equal figures give equal bytes; by file name."""
    files = {}
    for kind, undated in UNDATED.items():
        figure.savefig(buffer := BytesIO(), format=kind, metadata=undated)
        files[f"{name}.{kind}"] = buffer.getvalue()
    return files


@house_style()
def _fit(figure: Figure) -> None:
    """Wrap titles and x labels that are wider than their panels, and hide tick labels that would overlap."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        room = axes.get_window_extent().width
        for text in (axes.title, axes._left_title, axes.xaxis.label):  # type: ignore[attr-defined]
            words, width = text.get_text(), text.get_window_extent().width
            if width > room and "\n" not in words:
                text.set_text(textwrap.fill(words, int(0.95 * len(words) * room / width), break_long_words=False))
    figure.draw_without_rendering()
    for axis in (axes.xaxis for axes in figure.axes):
        low, high = sorted(axis.get_view_interval())
        ticks = [t for t in (*axis.get_major_ticks(), *axis.get_minor_ticks()) if low <= t.get_loc() <= high]
        end = -np.inf  # right end of the last visible label, in pixels
        for text in sorted((t.label1 for t in ticks), key=lambda text: text.get_window_extent().x0):
            box = text.get_window_extent()
            text.set_visible(text.get_visible() and box.x0 > end + 2)
            end = box.x1 if text.get_visible() and text.get_text() else end


def _runs_used() -> list[dict[str, Any]]:
    """Key and commit of every run that this notebook has received so far from the store or from a kept result."""
    file, runs = Path(os.environ.get(RUNS_USED, os.devnull)), []
    for line in sorted(set(file.read_text("utf-8").split())) if file.exists() else []:
        if line.startswith(KEPT):
            name = line.removeprefix(KEPT)
            for method, run in kept.load(name).provenance.items():
                commit = run["provenance"]["commit"]
                runs.append({"kept": name, "method": method, "key": run["key"], "commit": commit})
        else:
            runs.append({"key": line, "commit": None})
            with contextlib.suppress(CorruptRun):
                runs[-1]["commit"] = Run(store_root() / line).summary["commit"]
    return runs
