"""Figures of cost against size: tables in, Figure out, in the house style.

The tables are those of `anm_nb.studies.scaling`. Every function raises `ParameterError` for a table without rows or a
column. Both axes are logarithmic, so that a power law is a straight line and its exponent the slope.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from anm_nb.analysis.figures import PALETTE, house_style, new_figure, require_columns
from anm_nb.analysis.scaling import exponent, stacking_ratios, time_exponent
from anm_nb.config import ParameterError

MODELS = {"ranking": ("ranking model", PALETTE["hrm"]), "energy": ("energy network", PALETTE["stock"])}
WAYS = {"in turn": (0, (4, 1.5)), "stacked": "-"}
GRADIENTS = {"full": ("all iterations", PALETTE["anm"]), "last": ("the last iteration", PALETTE["anm_orthogonal"])}
DIMENSIONS = {
    "batch": "examples in a batch",
    "items": "items L",
    "iterations": "inner iterations T",
    "side": "side n of the matrices",
}


def cost_against(operations: pd.DataFrame, times: pd.DataFrame, dimension: str) -> Figure:
    """Operations and time of a training step against one dimension, a colour for each model that has it.

    Left: counted (dots) on the closed form (line). Right: medians over rounds with their quartiles, and the closed form
    scaled to meet the largest size (dotted). Raises `ParameterError` for a dimension that is not in the table.
    """
    require_columns(operations, "model", "dimension", "size", "counted", "closed_form")
    require_columns(times, "model", "dimension", "size", "round", "seconds")
    counts, timed = (table[table["dimension"] == dimension] for table in (operations, times))
    if counts.empty or timed.empty:
        raise ParameterError(
            f"dimension = '{dimension}': not in the table; it has {', '.join(times['dimension'].unique())}"
        )
    with house_style():
        figure, (left, right) = new_figure(1, 2, 3)
        for model in counts["model"].unique():
            own = counts[counts["model"] == model].groupby("size")[["counted", "closed_form"]].mean()
            _operations(left, own, model)
            _times(right, timed[timed["model"] == model], own["closed_form"], model)
        left.set(title="operations", ylabel="GFLOP a training step")
        right.set(title="time", ylabel="ms a training step")
        for axes in (left, right):
            _size_axis(axes, sorted(counts["size"].unique()), DIMENSIONS.get(dimension, dimension))
            _legend_below(axes)
    return figure


def _operations(axes: Axes, own: pd.DataFrame, model: str) -> None:
    name, colour = MODELS[model]
    theory, counted = (exponent(own.index, own[column]) for column in ("closed_form", "counted"))
    axes.plot(own.index, own["closed_form"] / 1e9, color=colour, label=f"{name}, closed form: ∝ size^{theory:.2f}")
    axes.plot(
        own.index,
        own["counted"] / 1e9,
        "o",
        color=colour,
        markersize=4,
        label=f"counted by torch: ∝ size^{counted:.2f}",
    )


def _times(axes: Axes, times: pd.DataFrame, closed_form: pd.Series, model: str) -> None:
    name, colour = MODELS[model]
    low, median, high = _quartiles(times)
    slope, bottom, top = time_exponent(times)
    text = f"{name}: ∝ size^{slope:.2f} [{bottom:.2f}, {top:.2f}]"
    axes.errorbar(median.index, median, [median - low, high - median], fmt="o-", markersize=4, color=colour, label=text)
    scaled = closed_form / closed_form.iloc[-1] * median.iloc[-1]
    theory = exponent(closed_form.index, closed_form)
    axes.plot(
        scaled.index,
        scaled,
        color=colour,
        linestyle=(0, (1, 1.5)),
        label=f"its operations at one rate: ∝ size^{theory:.2f}",
    )


def _quartiles(times: pd.DataFrame) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Lower quartile, median and upper quartile of milliseconds by size."""
    by_size = 1e3 * times.groupby("size")["seconds"].quantile(np.array([0.25, 0.5, 0.75])).unstack()
    return by_size[0.25], by_size[0.5], by_size[0.75]


def seed_costs(times: pd.DataFrame) -> Figure:
    """Time of a training step of several seeds: in turn and stacked, and the ratio of the two with its 95 % interval.

    Columns model, way (in turn, stacked), size (the number of seeds), round and seconds.
    """
    require_columns(times, "model", "way", "size", "round", "seconds")
    ratios = stacking_ratios(times)
    with house_style():
        figure, (left, right) = new_figure(1, 2, 3)
        for model in times["model"].unique():
            name, colour = MODELS[model]
            for way, style in WAYS.items():
                own = times[(times["model"] == model) & (times["way"] == way)]
                low, median, high = _quartiles(own)
                slope, bottom, top = time_exponent(own)
                spread = [median - low, high - median]
                text = f"{name}, {way}: ∝ seeds^{slope:.2f} [{bottom:.2f}, {top:.2f}]"
                left.errorbar(
                    median.index, median, spread, marker="o", ls=style, markersize=4, color=colour, label=text
                )
            own = ratios[ratios["model"] == model]
            spread = [own["ratio"] - own["low"], own["high"] - own["ratio"]]
            right.errorbar(own["size"], own["ratio"], spread, fmt="o-", markersize=4, color=colour, label=name)
        right.axhline(1, color="black", linewidth=0.6)
        left.set(title="a step of all seeds (operations: ∝ seeds^1)", ylabel="ms")
        right.set(title="below the line, stacking is faster", ylabel="time stacked / time in turn")
        for axes in (left, right):
            _size_axis(axes, sorted(times["size"].unique()), "seeds")
            _legend_below(axes)
        right.set_yscale("linear")
        right.set_ylim(bottom=0)
    return figure


def memory_against_iterations(memory: pd.DataFrame) -> Figure:
    """Bytes kept for the backward pass against the iterations, on linear axes, means over seeds (which are alike).

    Columns gradient (full, last), iterations and bytes.
    """
    require_columns(memory, "gradient", "iterations", "bytes")
    with house_style():
        figure, (axes,) = new_figure(1, 1, 2.3)
        for gradient, (name, colour) in GRADIENTS.items():
            mean = memory[memory["gradient"] == gradient].groupby("iterations")["bytes"].mean() / 1e6
            slope, start = np.polyfit(mean.index, mean, 1)
            text = f"gradients of {name}: {1e3 * slope:,.0f} kB each further iteration"
            axes.plot(mean.index, start + slope * mean.index, color=colour, linewidth=0.9)
            axes.plot(mean.index, mean, "o", color=colour, markersize=4, label=text)
        axes.set(
            xlabel=DIMENSIONS["iterations"], ylabel="MB kept for the\nbackward pass", ylim=(0, None), xlim=(0, None)
        )
        axes.set_xticks(sorted(memory["iterations"].unique()))
        axes.legend(loc="upper left")
    return figure


def exponent_summary(table: pd.DataFrame) -> Figure:
    """Local exponents of every series, the rows of `exponents`: closed form, counted, and time with its interval."""
    require_columns(table, "closed_form", "counted", "time", "low", "high")
    with house_style():
        figure, (axes,) = new_figure(1, 1, 0.9 + 0.3 * len(table))
        for height, (model, (_, row)) in enumerate(zip(table.index.get_level_values(0), table.iterrows(), strict=True)):
            colour, marks = MODELS[model][1], height == 0
            axes.plot([row["low"], row["high"]], [height] * 2, color=colour, linewidth=2)
            axes.plot(row["time"], height, "D", color=colour, markersize=5)
            axes.plot(
                row["closed_form"], height, "|", color="black", markersize=13, label="closed form" if marks else None
            )
            axes.plot(row["counted"], height, ".", color="black", markersize=5, label="counted" if marks else None)
        axes.plot([], [], "D-", color="#6e6e6e", markersize=5, label="time, 95 % interval over rounds")
        names = [f"{MODELS[model][0]}: {DIMENSIONS[dimension]}" for model, dimension in table.index]
        axes.set_yticks(range(len(table)), names)
        axes.set_ylim(len(table) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel="local exponent over the sizes measured (1: cost doubles with the size)", xlim=(0, None))
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def _size_axis(axes: Axes, sizes: list[int], name: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=name)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _legend_below(axes: Axes) -> None:
    """The curves cross a panel from corner to corner: their names stand beneath it."""
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.24), borderaxespad=0)
