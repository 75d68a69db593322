"""What training runs have recorded: margins of pairs (checklist, section A), and routing weights of rankings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.patches import Polygon, Rectangle, StepPatch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from anm_nb.analysis.stats import proportion_interval
from anm_nb.analysis.style import PALETTE
from anm_nb.analysis.tables import rounded, score_interval
from anm_nb.ranking.networks import routing_entropy
from anm_nb.store import Run
from anm_nb.widgets.view import Control, View, nearest, numbers

HELD_OUT, BATCH = "held-out pairs", "the batch's own pairs"
ARRAYS = {HELD_OUT: "dev_margins", BATCH: "margins"}  # in the trace, each [seeds, records, pairs]
ALL = -1  # of seeds or levels
BARS = 40
WITHIN = 0.95  # share of all recorded margins that lie between the outermost bars
QUARTILES = {"first quartile": 0.25, "median": 0.5, "third quartile": 0.75}
CURVES: dict[str, dict[str, Any]] = {  # over iterations: what the trace calls them, and how they look
    "own": {"marker": "s", "color": PALETTE["anm"], "label": "this problem"},
    "entropies": {"marker": "o", "color": "#6e6e6e", "label": "dev mean"},
    "tau_obs": {"marker": "o", "color": PALETTE["baseline"], "label": "observed pairs"},
    "tau_all": {"marker": "s", "color": PALETTE["hrm"], "linestyle": "--", "label": "all pairs"},
}


class Chosen(NamedTuple):
    """Margins of chosen pairs over all records."""

    counts: np.ndarray  # of pairs in each bar [records, bars]
    edges: np.ndarray  # of the bars, nats
    hard: np.ndarray  # [records, 3]: the share below 0 with its 95 % interval
    quartiles: np.ndarray  # [records, 3], nats; NaN where there are no pairs
    over: str  # what the interval is over: seeds or pairs


class Margins(View):
    """Margins E⁻ − E⁺ of a run's pairs: histogram with quartiles, and p_hard over training.

    Held-out pairs have negatives that are legitimate by construction, the same at every record; a batch's own pairs are
    those that the run was trained on at that step, of which the store keeps the margins alone.
    """

    name = "margin"
    about = "Histogram of margins with marks for quartiles, and beside it p_hard over training."
    needs = "Train an energy: run notebook 10_anm_vs_corruption, or anm-nb demo in a terminal."
    controls = (
        Control("pairs", "Pairs", "Held-out pairs, or those of the batch that was trained on"),
        Control("seed", "Seed", "One seed of the run, or all of them pooled"),
        Control("step", "Training step", "The recorded training step that is shown", "player"),
        Control("level", "Noise level", "Held-out pairs of one level k, 0 having the least noise, or all", "slider"),
    )
    widths = (1.4, 1)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.steps: list[int] = sorted(run.metrics["step"].unique().tolist())
        self.margins = {kind: run.trace[name].numpy() for kind, name in ARRAYS.items() if name in run.trace}
        self.reaches = {kind: float(np.nanquantile(np.abs(each), WITHIN)) or 1.0 for kind, each in self.margins.items()}
        self.levels = run.trace["dev_levels"][:, 0].numpy()  # [seeds, pairs]; of a batch they are not kept
        self.chosen = cache(self._chosen)
        self.options = {
            "pairs": [(kind, kind) for kind in self.margins],
            "seed": [*([("all", ALL)] if len(self.seeds) > 1 else []), *self.seed_options],
            "step": [(str(step), step) for step in self.steps],
            "level": [("all", ALL), *numbers(run.settings["levels"], 0)],
        }
        self.start = {"step": self.steps[-1]}

    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> dict[str, str]:
        (histogram, curve), record = axes, nearest(self.steps, values["step"])
        reach = max(view.reaches[values["pairs"]] for view in self.together)  # the same bars in all rows
        level = values["level"] if values["pairs"] == HELD_OUT else ALL
        chosen = self.chosen(values["pairs"], values["seed"], level, reach)
        heights, edges = chosen.counts / np.maximum(1, chosen.counts.sum(1, keepdims=True)), chosen.edges
        # artists of their own are drawn faster than `stairs` and `fill_between`, which look for limits
        histogram.add_artist(StepPatch(heights[record], edges, fill=True, color=self.colour, alpha=0.75, linewidth=0))
        histogram.axvline(0, color="black", linewidth=0.8)
        marks = np.clip(chosen.quartiles[record], edges[0], edges[-1])
        across = histogram.get_xaxis_transform()
        histogram.plot(marks, [0.97] * len(marks), "k|", markersize=8, markeredgewidth=1.2, transform=across)
        highest = max(0.01, heights.max())  # of all steps, so that the axis stays
        histogram.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.12 * highest))
        histogram.set(xlabel="margin E⁻ − E⁺, nats (marks at the top: quartiles)", ylabel="share of pairs")
        share, low, high = chosen.hard.T
        curve.plot(self.steps, share, marker=".", color=self.colour)
        band = np.column_stack([[*self.steps, *self.steps[::-1]], [*low, *high[::-1]]])
        curve.add_artist(Polygon(band, color=self.colour, alpha=0.18, linewidth=0))
        curve.axvline(self.steps[record], color="black", linewidth=0.8)
        curve.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        curve.set(xlabel="training step", ylabel=f"p_hard (95 % over {chosen.over})", ylim=(-0.03, 1.03))
        for axis in (histogram.yaxis, curve.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        counts, ends = chosen.counts[record], [*map(rounded, edges)]
        reaches = [f"below {ends[1]}", *(" to ".join(pair) for pair in pairwise(ends[1:-1])), f"{ends[-2]} and more"]
        told = [f"{reach} nats: {count} of {counts.sum()} pairs" for reach, count in zip(reaches, counts, strict=True)]
        self.bars = [(bar / BARS, 1 / BARS, words) for bar, words in enumerate(told) if counts[bar]]
        now, *span = 100 * chosen.hard[record]
        return {
            "step": str(self.steps[record]),
            "pairs": f"{counts.sum()}{' of all levels' if values['pairs'] == BATCH else ''}",
            "p_hard": f"{now:.1f} % [{span[0]:.1f}, {span[1]:.1f} over {chosen.over}]",
            **{name: f"{rounded(at)} nats" for name, at in zip(QUARTILES, chosen.quartiles[record], strict=True)},
        }

    def _chosen(self, pairs: str, seed: int, level: int, reach: float) -> Chosen:
        """The interval is over seeds, of one seed Wilson's over its pairs; quartiles are of all pairs together."""
        margins = self.margins[pairs]
        kept = np.ones((len(margins), margins.shape[2]), bool)
        if seed != ALL:
            kept &= np.arange(len(margins))[:, np.newaxis] == self.seed_place({"seed": seed})
        if level != ALL:
            kept &= self.levels == level
        # NaN where seed or level is another, a batch short or a seed stopped
        margins = np.where(kept[:, np.newaxis], margins, np.nan)
        hard, counted = (margins < 0).sum(2), np.isfinite(margins).sum(2)
        over = "seeds" if seed == ALL and len(self.seeds) > 1 else "pairs"
        if over == "seeds":
            with np.errstate(invalid="ignore"):
                bands = [score_interval(each, "p_hard") for each in (hard / counted).T]
        else:
            bands = [proportion_interval(*each) for each in zip(hard.sum(0), counted.sum(0), strict=True)]
        pooled = pd.DataFrame(margins.swapaxes(0, 1).reshape(margins.shape[1], -1))
        quartiles = pooled.quantile([*QUARTILES.values()], axis=1).T.to_numpy()
        # A bar holds its lower edge and not its upper one, so that bars left of 0 hold the hard pairs and no others;
        # what lies beyond the outermost bars counts in them.
        edges = np.linspace(-reach, reach, BARS + 1)  # 0 is one of them
        rows = (np.clip(row[np.isfinite(row)], -reach, reach) for row in pooled.to_numpy())
        return Chosen(np.array([np.histogram(row, edges)[0] for row in rows]), edges, np.array(bands), quartiles, over)


class Routing(View):
    """Routing weights α of a problem, items × heads, after one iteration and after each; entropy and τ per iteration.

    Items stand in true order, the visible ones first. Entropy is that of the problem and the mean over dev; τ is the
    mean over dev. It opens at the iteration whose weights differ most from item to item.
    """

    family, name = "ranking", "routing"
    about = "Routing weights, items by heads, after one iteration and after each, routing entropy and Kendall tau."
    needs = "Train a ranking: run notebook 20_hrm_vs_baseline, or anm-nb demo in a terminal."
    controls = (
        Control("seed", "Seed", "The seed of the run"),
        Control("epoch", "Epoch", "Epochs trained before what is shown", "player"),
        Control("sample", "Sample", "The dev problem that is shown, of those whose routing was kept", "slider"),
        Control("iteration", "Iteration", "The iteration of the model that is shown", "player"),
    )
    widths = (0.9, 1.5, 1, 1)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.alphas = run.trace["alphas"].float().numpy()  # [seeds, records, samples, iterations, items, heads]
        rows = run.metrics.groupby("seed")["epoch"]
        self.epochs = [rows.get_group(seed).astype(int).tolist() for seed in self.seeds]  # one seed may stop early
        self.options = {
            "seed": self.seed_options,
            "epoch": [(str(epoch), epoch) for epoch in max(self.epochs, key=len)],
            "sample": numbers(self.alphas.shape[2]),
            "iteration": numbers(self.alphas.shape[3]),
        }
        last = self.alphas[0, len(self.epochs[0]) - 1, 0]  # [iterations, items, heads]
        self.start = {"epoch": self.epochs[0][-1], "iteration": int(last.std(1).mean(1).argmax())}

    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> dict[str, str]:
        (heat, every, entropy, tau), largest = axes, float(np.nanmax(self.alphas))
        place, sample, trace = self.seed_place(values), values["sample"], self.run.trace
        record = nearest(self.epochs[place], values["epoch"])
        ranks, known = (trace[f"probe_{of}"][place, 0, sample].numpy() for of in ("ranks", "known"))
        order = np.lexsort((ranks, ~known))  # true order, the visible ones first; named by rank, in brackets if hidden
        names = [f"{ranks[item] + 1}" if known[item] else f"({ranks[item] + 1})" for item in order]
        alphas = self.alphas[place, record, sample][:, order]
        curves = {name: trace[name][place, record].double().numpy() for name in CURVES if name != "own"}
        curves["own"] = routing_entropy(torch.from_numpy(alphas)).mean(-1).numpy()
        iteration = min(values["iteration"], len(alphas) - 1)
        count, items, heads = alphas.shape
        gaps = np.pad(alphas, ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)  # between one iteration and the next
        for panel, array in ((heat, alphas[iteration]), (every, np.hstack(list(gaps))[:, :-1])):
            panel.imshow(array, aspect="auto", cmap="cividis", clim=(0, largest))
            panel.axhline(known.sum() - 0.5, color="white", linewidth=1.2)
        apart = -(-items // 16)  # as many labels as there is room for
        heat.set_yticks(range(0, items, apart), names[::apart])
        heat.set_xticks(range(heads), [str(head + 1) for head in range(heads)])
        heat.set(xlabel=f"head (α: blue 0, yellow {largest:.2f})", ylabel="item, by true rank (hidden)")
        every.add_patch(Rectangle(((heads + 1) * iteration - 0.5, -0.5), heads, items, fill=False, lw=2, clip_on=False))
        places = range(0, count, -(-count // 8))
        every.set_xticks([(heads + 1) * place + (heads - 1) / 2 for place in places], [str(1 + i) for i in places])
        every.set(yticks=[], xlabel="iteration (framed: on the left)")
        entropy.axhline(np.log(heads), color="black", linewidth=0.8, linestyle=":", label="uniform")
        for name, style in CURVES.items():
            axes[2 + name.startswith("tau")].plot(range(1, count + 1), curves[name], markersize=3, **style)
        entropy.set(ylabel="routing entropy, nats", ylim=(0, 1.35 * np.log(max(heads, 2))))
        tau.set(ylabel="Kendall τ, mean over dev", ylim=(-1.05, 1.05))
        for panel in (entropy, tau):
            panel.axvline(iteration + 1, color="black", linewidth=0.8, zorder=0)
            panel.set(xlabel="iteration", xlim=(0.5, count + 0.5))
            panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            if panel.get_legend() is None:
                panel.legend(loc="lower left", fontsize="small", handlelength=1.2, borderpad=0)
        told = {name: f"{curves[name][iteration]:.3f}" for name in CURVES}
        return {
            "epoch": str(self.epochs[place][record]),
            "iteration": str(iteration + 1),
            "largest α": f"{alphas[iteration].max():.3f}",
            "entropy": f"{told.pop('own')} nats",
            "mean entropy": f"{told.pop('entropies')} nats",
            **told,
        }
