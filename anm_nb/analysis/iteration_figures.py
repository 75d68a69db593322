"""Figures of the study of where iteration helps: tables of `iteration_tables` in, Figure out.

τ over all pairs is drawn on an axis stretched toward 1, where models that follow chains of pointers lie: it is
almost as far from 0.9 to 0.99 as from 0 to 0.9.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from anm_nb.analysis.figures import colours, house_style, interval_line, label, new_figure
from anm_nb.analysis.iteration_verdicts import BASELINE, HRM, TIED
from anm_nb.analysis.stats import mean_interval
from anm_nb.analysis.style import points

# Nine models in one panel cannot be told apart: a panel for each question, of what differs in it.
PANELS = {
    "iteration, weight tying": (BASELINE, "deep untied", TIED),
    "routing": (TIED, "random α", "untrained controller", HRM),
    "parts of HRM": ("one timescale", "equal timescales", "HRM per sequence", HRM),
}
BEYOND_ONE = 0.01  # what the axis shows beyond τ = 1, whose logarithm would be infinite
TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
NO_POINTERS, POINTERS = "value, hidden ones at the median", "chains of pointers"
REFERENCES: dict[str, tuple[str, Any]] = {
    "ceiling": ("best possible", (0, (4, 3))),
    POINTERS: ("chains of pointers", (0, (6, 1.5, 1, 1.5))),
    NO_POINTERS: ("best without pointers", (0, (1, 1.5))),
    "random scores": ("random scores", (0, (1, 4))),
}
MULTIPLES: dict[int, Any] = {1: "-", 2: (0, (4, 1.5)), 4: (0, (1, 1.2))}


def tau_by_chain_length(chain_lengths: pd.DataFrame, references: pd.DataFrame) -> Figure:
    """τ against the longest run of hidden items, a panel for each question, beside the references at each length."""
    with house_style():
        figure, panels = new_figure(1, len(PANELS), 2.8, sharey=True)
        for axes, (title, models) in zip(panels, PANELS.items(), strict=True):
            _lines(axes, chain_lengths, "chain_length", models)
            _reference_curves(axes, references, "chain_length")
            axes.set(title=title, xlabel="longest run of hidden items")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _finish(figure, panels)
    return figure


def tau_by_test_iterations(test_iterations: pd.DataFrame, beyond: bool = True) -> Figure:
    """τ after each iteration at test, a panel for each question; dotted: how many the models were trained with.

    Without `beyond` only up to that number, on a linear axis.
    """
    trained = int(test_iterations["trained"].max())
    rows = test_iterations if beyond else test_iterations[test_iterations["iterations"] <= test_iterations["trained"]]
    with house_style():
        figure, panels = new_figure(1, len(PANELS), 2.8, sharey=True)
        for axes, (title, models) in zip(panels, PANELS.items(), strict=True):
            _lines(axes, rows, "iterations", models)
            _own_number(axes, rows, models)
            axes.axhline(1, color="black", linewidth=0.7, linestyle=REFERENCES["ceiling"][1], zorder=1)
            axes.set(title=title, xlabel="iterations at test")
            if beyond:
                axes.axvline(trained, color="black", linewidth=0.8, linestyle=":")
                axes.set_xscale("log", base=2)
                axes.xaxis.set_major_formatter("{x:g}")
            else:
                axes.xaxis.set_major_locator(FixedLocator(range(1, trained + 1)))
        _finish(figure, panels, references=("ceiling",))
    return figure


def tau_by_length(lengths: pd.DataFrame, references: pd.DataFrame) -> Figure:
    """τ of models trained on short arrays against the length at test, one panel each.

    Lines: as many iterations as trained with, twice and four times as many. Diamond: the same model trained at the
    settings' size, there, with its 95 % interval. The vertical line marks the length of training.
    """
    short = int(lengths["train_length"].min())
    models = list(lengths["model"].unique())
    with house_style():
        figure, panels = new_figure(1, len(models), 2.6, sharey=True)
        for axes, model in zip(panels, models, strict=True):
            rows = lengths[lengths["model"] == model]
            for times, part in rows[rows["train_length"] == short].groupby("times"):
                _multiple(axes, part, model, int(times))
            for length, part in rows[(rows["train_length"] != short) & (rows["times"] == 1)].groupby("length"):
                mean, low, high = mean_interval(part["tau_all"])
                reach = [[mean - low], [high - mean]]
                axes.errorbar(length, mean, reach, fmt="D", color="black", markersize=3.5, capsize=2, linewidth=0.8)
            axes.axvline(short, color="black", linewidth=0.8, linestyle=":")
            _reference_curves(axes, references, "length", (NO_POINTERS, "ceiling"))
            axes.set(title=label(model), xlabel="items at test")
        styles = [
            Line2D([], [], color="black", linestyle=MULTIPLES[times], label=text)
            for times, text in {1: "iterations as trained", 2: "twice as many", 4: "four times"}.items()
        ]
        styles.append(Line2D([], [], color="black", marker="D", linestyle="", markersize=3.5, label="trained there"))
        _toward_one(panels)
        panels[0].set_ylabel("Kendall τ, all pairs")
        handles = [*styles, *_reference_handles(("ceiling", NO_POINTERS))]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def tau_by_training(train_sizes: pd.DataFrame, mask_rates: pd.DataFrame, references: pd.DataFrame) -> Figure:
    """τ against the number of training problems at equally many steps, and against the share of hidden items."""
    models = list(train_sizes["model"].unique())
    with house_style():
        figure, (left, right) = new_figure(1, 2, 2.8, sharey=True)
        _lines(left, train_sizes, "train_samples", models)
        sizes = sorted(train_sizes["train_samples"].unique())
        left.set(xscale="log", title="sample efficiency", xlabel="training problems, equally many steps")
        left.set_xticks(sizes, [f"{size:g}" for size in sizes])
        left.xaxis.set_minor_locator(NullLocator())
        _lines(right, mask_rates, "mask_rate", models)
        _reference_curves(right, references, "mask_rate", ("ceiling", NO_POINTERS))
        right.set(title="difficulty", xlabel="share of hidden items")
        _finish(figure, np.array([left, right]), references=("ceiling", NO_POINTERS))
    return figure


def tau_by_noise(noise: pd.DataFrame, references: pd.DataFrame) -> Figure:
    """τ against the share of wrong pointers at test: models trained without such, and with; beside what is possible."""
    rates = sorted(noise["train_wrong_rate"].unique())
    models = list(noise["model"].unique())
    with house_style():
        figure, panels = new_figure(1, len(rates), 2.9, sharey=True)
        for axes, rate in zip(panels, rates, strict=True):
            _lines(axes, noise[noise["train_wrong_rate"] == rate], "wrong_rate", models)
            _reference_curves(axes, references, "wrong_rate")
            axes.set(title=f"trained with {100 * rate:.0f} % wrong pointers", xlabel="share of wrong pointers at test")
        _finish(figure, panels, names={"ceiling": "best possible, wrong pointers taken out"})
    return figure


def tau_by_halting(halting: pd.DataFrame, test_iterations: pd.DataFrame) -> Figure:
    """τ against the iterations made: halted at each patience (numbered dots), and stopped after equally many (line).

    Bars: 95 % intervals over seeds. A dot above the line answers better than what spends as much on every problem.
    """
    models = list(halting["model"].unique())
    with house_style():
        figure, panels = new_figure(1, len(models), 2.4, sharey=True)
        for axes, model in zip(panels, models, strict=True):
            rows = test_iterations[test_iterations["model"] == model]
            interval_line(
                axes,
                rows[rows["iterations"] <= rows["trained"]],
                "iterations",
                "tau_all",
                model,
                colours([model])[model],
            )
            for patience, part in halting[halting["model"] == model].dropna(subset=["patience"]).groupby("patience"):
                mean, low, high = mean_interval(part["tau_all"])
                made = float(part["iterations"].mean())
                axes.errorbar(
                    made, mean, [[mean - low], [high - mean]], fmt="o", color="black", markersize=4, capsize=2
                )
                axes.annotate(
                    f"{patience}", (made, mean), xytext=(5, -9), textcoords="offset points", fontsize=points(7)
                )
            axes.set(title=label(model), xlabel="iterations, mean over problems")
        handles = [
            Line2D([], [], color="black", label="the same number for every problem"),
            Line2D([], [], color="black", marker="o", linestyle="", markersize=4, label="halted, by patience"),
        ]
        _toward_one(panels)
        panels[0].set_ylabel("Kendall τ, all pairs")
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def tau_by_hints(control: pd.DataFrame, references: pd.DataFrame) -> Figure:
    """τ on true and on shuffled pointers, every seed a dot, mean and 95 % interval; bars mark what is possible."""
    models, kinds = list(control["model"].unique()), list(control["hints"].unique())
    with house_style():
        figure, (axes,) = new_figure(1, 1, 2.5)
        for place, hints in enumerate(kinds):
            for model, shift in zip(models, np.linspace(-0.25, 0.25, len(models)), strict=True):
                taus = control.loc[(control["model"] == model) & (control["hints"] == hints), "tau_all"]
                mean, low, high = mean_interval(taus)
                style: dict[str, Any] = {"color": colours(models)[model], "capsize": 2, "fmt": "D", "markersize": 4}
                text = label(model) if place == 0 else None
                axes.errorbar(place + shift, mean, [[mean - low], [high - mean]], label=text, **style)
                axes.plot(np.full(len(taus), place + shift), taus, "o", color=style["color"], alpha=0.4, markersize=3)
            known = references[(references["varied"] == "hints") & (references["value"] == place)]
            ceiling = float(known.loc[known["kind"] == "ceiling", "tau_all"].iloc[0])
            axes.hlines(
                ceiling, place - 0.4, place + 0.4, color="black", linewidth=0.8, linestyle=REFERENCES["ceiling"][1]
            )
            axes.annotate(
                "best possible",
                (place + 0.4, ceiling),
                xytext=(0, -8),
                textcoords="offset points",
                ha="right",
                fontsize=points(6.5),
            )
        axes.set_xticks(range(len(kinds)), [f"{hints} pointers" for hints in kinds])
        axes.set(ylabel="Kendall τ, all pairs", xlim=(-0.5, len(kinds) - 0.5))
        figure.legend(loc="outside lower center", ncols=len(models))
    return figure


def headline(
    chain_lengths: pd.DataFrame, effects: pd.DataFrame, scores: pd.DataFrame, references: pd.DataFrame
) -> Figure:
    """The study at a glance: τ against chain length for what differs in iteration and routing, and every component."""
    models = [BASELINE, "deep untied", TIED, HRM]
    with house_style():
        figure, (left, right) = new_figure(1, 2, 3.7, width_ratios=(1, 1.15))
        _lines(left, chain_lengths, "chain_length", models)
        _reference_curves(left, references, "chain_length", ("ceiling", NO_POINTERS))
        left.set(xlabel="longest run of hidden items", ylabel="Kendall τ, all pairs", title="τ by length of chains")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        _toward_one([left])
        handles, _ = left.get_legend_handles_labels()
        figure.legend(
            handles=[*handles, *_reference_handles(("ceiling", NO_POINTERS))], loc="outside lower center", ncols=3
        )
        _forest(right, effects, scores)
        right.set_title("what each component adds")
    return figure


def _lines(axes: Axes, table: pd.DataFrame, x: str, models: Sequence[str]) -> None:
    for model in models:
        interval_line(axes, table[table["model"] == model], x, "tau_all", model, colours(models)[model], dots=True)


def _multiple(axes: Axes, rows: pd.DataFrame, model: str, times: int) -> None:
    """One line of a model's length generalisation, its style by how many iterations were made."""
    bands = np.array(rows.groupby("length")["tau_all"].apply(mean_interval).tolist())
    x = sorted(rows["length"].unique())
    colour = colours([model])[model]
    axes.plot(x, bands[:, 0], marker=".", color=colour, linestyle=MULTIPLES[times])
    axes.fill_between(x, bands[:, 1], bands[:, 2], color=colour, alpha=0.12, linewidth=0)


def _own_number(axes: Axes, rows: pd.DataFrame, models: Sequence[str]) -> None:
    """A ring where each line has as many iterations as its model was trained with."""
    own = rows[rows["iterations"] == rows["trained"]]
    for model in models:
        part = own[own["model"] == model]
        style: dict[str, Any] = {
            "color": colours(models)[model],
            "markerfacecolor": "white",
            "markersize": 5,
            "zorder": 4,
        }
        axes.plot(part["trained"].iloc[0], part["tau_all"].mean(), "o", **style)


def _forest(axes: Axes, effects: pd.DataFrame, scores: pd.DataFrame) -> None:
    places = np.arange(len(effects))
    shades = {"supported": "#117733", "refuted": "#cc6677", "undecided": "#6e6e6e"}
    for place, row in zip(places, effects.to_dict("records"), strict=True):
        seeds = scores[row["better"]] - scores[row["base"]]
        axes.plot(seeds, np.full(len(seeds), place + 0.25), "o", color="black", alpha=0.35, markersize=2.5, linewidth=0)
        reach = [[row["gain"] - row["low"]], [row["high"] - row["gain"]]]
        face = "white" if row["state"] == "undecided" else shades[row["state"]]
        style: dict[str, Any] = {"color": shades[row["state"]], "markerfacecolor": face, "markersize": 4.5}
        axes.errorbar(row["gain"], place, xerr=reach, fmt="o", capsize=2, **style)
    axes.axvline(0, color="black", linewidth=0.7)
    axes.set_yticks(
        places, [f"{row.component}\n{row.better} − {row.base}" for row in effects.itertuples()], fontsize=points(6)
    )
    axes.set_ylim(len(effects) - 0.5, -0.5)
    axes.set_xlabel("difference of τ (dots: seeds)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", linewidth=0.3, color="#dddddd")


def _reference_curves(
    axes: Axes, references: pd.DataFrame, varied: str, names: Iterable[str] = tuple(REFERENCES)
) -> None:
    """Reference τ at each value of what was varied, for some of `REFERENCES`."""
    known = references[references["varied"] == varied]
    for name in names:
        rows = known[known["kind"] == "ceiling"] if name == "ceiling" else known[known["name"] == name]
        rows = rows.sort_values("value")
        axes.plot(rows["value"], rows["tau_all"], color="black", linewidth=0.8, linestyle=REFERENCES[name][1], zorder=1)


def _reference_handles(names: Iterable[str], texts: dict[str, str] | None = None) -> list[Line2D]:
    return [
        Line2D([], [], color="black", linewidth=0.8, linestyle=style, label=(texts or {}).get(name, text))
        for name, (text, style) in ((name, REFERENCES[name]) for name in names)
    ]


def _finish(
    figure: Figure,
    panels: np.ndarray,
    references: Iterable[str] = tuple(REFERENCES),
    names: dict[str, str] | None = None,
) -> None:
    """The τ axis, and one legend for all panels."""
    _toward_one(panels)
    panels[0].set_ylabel("Kendall τ, all pairs")
    found = {text: handle for axes in panels for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    handles = [*found.values(), *_reference_handles(references, names)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4 if len(handles) > 6 else 3)


def _toward_one(panels: Iterable[Axes]) -> None:
    """Stretch the τ axis of each panel toward 1, and let it end a little below the lowest mean."""
    for axes in panels:
        drawn = [np.asarray(line.get_ydata(), float) for line in axes.lines]
        lowest = min([0.0, *(float(np.nanmin(taus)) for taus in drawn if len(taus) > 2)])
        axes.set_yscale("function", functions=(_stretched, _unstretched))
        axes.yaxis.set_major_locator(FixedLocator(TICKS))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(max(lowest - 0.1, -0.9), 1 + BEYOND_ONE / 4)


def _stretched(tau: Any) -> Any:
    return -np.log10(1 + BEYOND_ONE - np.minimum(tau, 1 + BEYOND_ONE / 2))


def _unstretched(place: Any) -> Any:
    return 1 + BEYOND_ONE - 10.0 ** -np.asarray(place)
