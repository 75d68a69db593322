"""Explorers of recorded values: margins of pairs (checklist, section A) and routing weights of ranking models."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.patches import Polygon, Rectangle, StepPatch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from anm_nb.analysis.stats import proportion_interval
from anm_nb.analysis.tables import rounded
from anm_nb.store import Run
from anm_nb.widgets.explorer import View

BARS = 40
WITHIN = 0.95  # share of all recorded margins between the outermost bars
QUARTILES = {"first quartile": 0.25, "median": 0.5, "third quartile": 0.75}


class Margins(View):
    """Histogram of the margins E⁻ − E⁺ of held-out pairs, and beside it p_hard over training.

    Held-out pairs have negatives that are legitimate by construction, and are the same at every record.
    """

    name = "margin"
    controls = (
        ("step", "Training step", "The recorded training step that is shown"),
        ("level", "Noise level", "Pairs of one noise level k, or all; 0 has the least noise"),
    )
    widths = (1.4, 1)

    def __init__(self, run: Run) -> None:
        self.steps: list[int] = sorted(run.metrics["step"].unique().tolist())
        levels = ["all", *range(run.settings["levels"])]
        super().__init__(run, step=(self.steps, self.steps[-1]), level=(levels, "all"))
        self.margins = run.trace["dev_margins"].numpy()  # [seeds, records, pairs]
        self.levels = run.trace["dev_levels"][:, 0].numpy()  # [seeds, pairs]
        self.reach = float(np.quantile(np.abs(self.margins), WITHIN)) or 1.0
        self.chosen = cache(self._chosen)

    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> dict[str, str]:
        (histogram, curve), record = axes, self.steps.index(values["step"])
        margins, hard = self.chosen(self.seeds.index(values["seed"]), values["level"])
        pairs, reach = margins.shape[1], max(view.reach for view in self.together)  # the same bars in all rows
        # A bar includes its lower edge and excludes its upper one, so that the bars left of 0 hold exactly the hard
        # pairs; the outermost bars include all margins beyond them.
        edges = np.linspace(-reach, reach, BARS + 1)
        bins = np.array([-np.inf, *edges[1:-1], np.inf])
        counts = np.array([np.histogram(row, bins)[0] for row in margins])  # of all steps, so that the y axis stays
        shares = counts / max(1, pairs)
        # adding an artist is ten times as fast as `stairs` or `fill_between`, which update the limits
        histogram.add_artist(StepPatch(shares[record], edges, fill=True, color=self.colour, alpha=0.75, linewidth=0))
        histogram.axvline(0, color="black", linewidth=0.8)
        histogram.set(xlim=(-reach, reach), ylim=(0, 1.12 * max(0.01, shares.max())), ylabel="share of pairs")
        histogram.set_xlabel("margin E⁻ − E⁺, nats")
        share, low, high = hard.T
        curve.plot(self.steps, share, marker=".", color=self.colour)
        band = np.column_stack([[*self.steps, *self.steps[::-1]], [*low, *high[::-1]]])
        curve.add_artist(Polygon(band, color=self.colour, alpha=0.18, linewidth=0))
        curve.axvline(self.steps[record], color="black", linewidth=0.8)
        curve.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        curve.set(xlabel="training step", ylabel="p_hard (95 % over pairs)", ylim=(-0.03, 1.03))
        for axis in (histogram.yaxis, curve.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        ends = [*map(rounded, bins)]
        self.bars = [
            (bar / BARS, 1 / BARS, f"{ends[bar]} to {ends[bar + 1]} nats: {count} of {pairs} pairs")
            for bar, count in enumerate(counts[record])
            if count
        ]
        now, *interval = 100 * hard[record]
        quartiles = pd.Series(margins[record]).quantile([*QUARTILES.values()])  # NaN without pairs
        return {
            "step": str(self.steps[record]),
            "pairs": str(pairs),
            "p_hard": f"{now:.1f} % [{interval[0]:.1f}, {interval[1]:.1f} over pairs]",
            **{name: f"{rounded(value)} nats" for name, value in zip(QUARTILES, quartiles, strict=True)},
        }

    def _chosen(self, seed: int, level: Any) -> tuple[np.ndarray, np.ndarray]:
        """Margins [records, pairs] of one level or "all"; p_hard with Wilson's 95 % interval [records, 3]."""
        margins = self.margins[seed][:, (self.levels[seed] == level) | (level == "all")]
        return margins, np.array([proportion_interval(int((row < 0).sum()), len(row)) for row in margins])


class Routing(View):
    """Routing weights, items by heads, after one iteration and after each, routing entropy and Kendall tau.

    Items are in true order, visible ones first. Entropy and τ are means over dev. The initial iteration is the one
    whose weights differ most between items.
    """

    family, name = "ranking", "routing"
    controls = (
        ("epoch", "Epoch", "The number of trained epochs"),
        ("sample", "Sample", "One of the dev problems whose routing was recorded"),
        ("iteration", "Iteration", "The iteration of the model that is shown"),
    )
    widths = (0.9, 1.5, 1, 1)

    def __init__(self, run: Run) -> None:
        self.alphas = run.trace["alphas"].float().numpy()  # [seeds, records, samples, iterations, items, heads]
        rows = run.metrics.groupby("seed")["epoch"]
        self.epochs = {seed: rows.get_group(seed).astype(int).tolist() for seed in rows.groups}  # a seed may stop early
        samples, iterations = (range(1, count + 1) for count in self.alphas.shape[2:4])
        first, longest = next(iter(self.epochs.values())), max(self.epochs.values(), key=len)
        most = 1 + int(self.alphas[0, len(first) - 1, 0].std(1).mean(1).argmax())
        super().__init__(run, epoch=(longest, first[-1]), sample=(samples, 1), iteration=(iterations, most))

    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> dict[str, str]:
        (heat, every, entropy, tau), trace, largest = axes, self.run.trace, float(np.nanmax(self.alphas))
        seed, epochs = self.seeds.index(values["seed"]), self.epochs[values["seed"]]
        record = int(np.abs(np.array(epochs) - values["epoch"]).argmin())
        sample, iteration = values["sample"] - 1, values["iteration"]
        ranks, known = (trace[f"probe_{name}"][seed, 0, sample].numpy() for name in ("ranks", "known"))
        order = np.lexsort((ranks, ~known))  # named by rank, in brackets if hidden
        names = [f"{ranks[item] + 1}" if known[item] else f"({ranks[item] + 1})" for item in order]
        alphas = self.alphas[seed, record, sample][:, order]
        count, items, heads = alphas.shape
        gaps = np.pad(alphas, ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)  # between one iteration and the next
        for panel, array in ((heat, alphas[iteration - 1]), (every, np.hstack(list(gaps))[:, :-1])):
            image = panel.imshow(array, aspect="auto", cmap="cividis", clim=(0, largest))
            panel.axhline(known.sum() - 0.5, color="white", linewidth=1.2)
        if not heat.child_axes:
            scale = heat.figure.colorbar(image, cax=heat.inset_axes((1.05, 0, 0.05, 1)))
            scale.set_ticks([0, largest / 2, largest], labels=["0", "α", f"{largest:.2f}"])
            scale.ax.tick_params(length=0)
        apart = -(-items // 16)  # as many labels as fit
        heat.set_yticks(range(0, items, apart), names[::apart])
        heat.set_xticks(range(heads), range(1, heads + 1))
        heat.set(xlabel="head", ylabel="item, by true rank (hidden)")
        left, apart = (heads + 1) * np.arange(count) - 0.5, -(-count // 8)  # left edge of each iteration's block
        every.add_patch(Rectangle((left[iteration - 1], -0.5), heads, items, fill=False, lw=2, clip_on=False))
        every.set_xticks(left[::apart] + heads / 2, range(1, count + 1, apart))
        every.set(yticks=[], xlabel="iteration (framed: left)")
        entropy.axhline(np.log(heads), color="black", linewidth=0.8, linestyle=":", label="uniform")
        curves = {name: trace[name][seed, record].double().numpy() for name in ("entropies", "tau_obs", "tau_all")}
        iterations, look = range(1, count + 1), {"markersize": 3, "color": self.colour}
        entropy.plot(iterations, curves["entropies"], "o-", label="routing", **look)
        tau.plot(iterations, curves["tau_obs"], "o-", label="observed pairs", **look)
        tau.plot(iterations, curves["tau_all"], "s--", label="all pairs", **look)
        entropy.set(ylabel="routing entropy, nats", ylim=(0, 1.35 * np.log(max(heads, 2))))
        tau.set(ylabel="Kendall τ, mean over dev", ylim=(-1.05, 1.05), yticks=[-1, 0, 1])
        for panel in (entropy, tau):
            panel.axvline(iteration, color="black", linewidth=0.8, zorder=0)
            panel.set(xlabel="iteration", xlim=(0.5, count + 0.5))
            panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            if panel.get_legend() is None:
                panel.legend(loc="lower left", fontsize="small", handlelength=1.2, borderpad=0)
        return {
            "epoch": str(epochs[record]),
            "largest α": f"{alphas[iteration - 1].max():.3f}",
            "mean entropy": f"{curves['entropies'][iteration - 1]:.3f} nats",
            **{name: f"{curves[name][iteration - 1]:.3f}" for name in ("tau_obs", "tau_all")},
        }
