"""Routing of a finished ranking run: α of single problems, iteration by iteration, as training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anm_nb.analysis.figures import PALETTE, label
from anm_nb.analysis.widgets.controls import Choice, Slider
from anm_nb.analysis.widgets.explorer import Explorer
from anm_nb.analysis.widgets.picker import Stored
from anm_nb.analysis.widgets.picture import WIDTH, panels, still_label
from anm_nb.analysis.widgets.routing_records import RoutingRecords, Sample
from anm_nb.store import Run

HEIGHT = 3.9  # inches
TAU_COLOURS = {"tau_obs": PALETTE["baseline"], "tau_all": PALETTE["hrm"]}
TAU_LABELS = {"tau_obs": "observed pairs", "tau_all": "all pairs"}


class RoutingExplorer(Explorer):
    """Routing weights α of a problem, items × heads, after one iteration of one epoch; entropy and τ per iteration.

    Items stand in true order, the visible ones first. Entropy is that of the problem and the mean over dev; τ is the
    mean over dev.
    """

    name: ClassVar[str] = "routing"
    needs: ClassVar[str] = "Train a ranking: run notebook 20_hrm_vs_baseline, or anm-nb demo in a terminal."

    @classmethod
    def suits(cls, stored: Stored) -> bool:
        """Whether it is a ranking run that keeps the routing of some problems."""
        return stored.listed.summary["family"] == "ranking" and "routing" in stored.settings

    def make_controls(self) -> Sequence[Choice]:
        """Seed, epoch, problem and iteration."""
        self.seed = Choice("seed", "Seed", "The seed of the run")
        self.epoch = Slider("epoch", "Epoch", "Epochs trained before what is shown", playable=True)
        self.sample = Slider("sample", "Sample", "The dev problem that is shown, of those whose routing was kept")
        self.iteration = Slider("iteration", "Iteration", "The iteration of the model that is shown", playable=True)
        return [self.seed, self.epoch, self.sample, self.iteration]

    def make_figure(self) -> tuple[Figure, Sequence[Artist]]:
        """A heatmap with its colour bar, and two curves over iterations with one cursor."""
        figure = Figure(figsize=(WIDTH, HEIGHT))
        (self.heat,) = panels(figure, 1, 1, left=0.09, right=0.43, bottom=0.12, top=0.93).flat
        (scale,) = panels(figure, 1, 1, left=0.445, right=0.46, bottom=0.12, top=0.93).flat
        self.image = self.heat.imshow([[0.0]], aspect="auto", cmap="cividis", vmin=0)
        self.border = self.heat.axhline(0, color="white", linewidth=1.2)
        self.heat.set_xlabel("head")
        still_label(self.heat, "rank of the item, in brackets where hidden", 0.01)
        figure.colorbar(self.image, cax=scale, label="routing weight α")
        (self.above,), (self.below,) = panels(figure, 2, 1, left=0.61, right=0.985, bottom=0.12, top=0.93, hspace=0.3)
        (self.uniform,) = self.above.plot([], [], color="black", linewidth=0.8, linestyle=":", label="uniform")
        (self.mean,) = self.above.plot([], [], "o-", markersize=3, color="#6e6e6e", label="mean over dev")
        (self.own,) = self.above.plot([], [], "s-", markersize=3, color=PALETTE["anm"], label="this problem")
        self.taus = {
            name: self.below.plot([], [], marker, markersize=3, color=colour, label=TAU_LABELS[name])[0]
            for (name, colour), marker in zip(TAU_COLOURS.items(), ("o-", "s--"), strict=True)
        }
        self.cursors = [axes.axvline(1, color="black", linewidth=0.8, zorder=0) for axes in (self.above, self.below)]
        self.above.set_ylabel("routing entropy, nats")
        self.below.set(ylabel="Kendall τ on dev", xlabel="iteration", ylim=(-1.05, 1.05))
        for axes in (self.above, self.below):
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            axes.legend(loc="lower right", ncols=3, columnspacing=1, handlelength=1.6)
        of_heatmap = [self.heat.yaxis, self.heat.title, self.image, self.border]
        return figure, [*of_heatmap, *self.cursors, self.mean, self.own, *self.taus.values()]

    def open(self, run: Run) -> None:
        """Read the arrays of the run's trace."""
        self.records = RoutingRecords(run)
        self.seed.offer([(f"seed {seed}", place) for place, seed in enumerate(self.records.seeds)])
        self.sample.offer([(str(sample + 1), sample) for sample in range(self.records.samples)])
        self.iteration.offer([(str(i + 1), i) for i in range(self.records.iterations)])
        self._offer_epochs()
        heads, iterations = self.records.heads, self.records.iterations
        self.image.set_clim(0, self.records.largest)
        self.heat.set_xticks(range(heads), [str(head + 1) for head in range(heads)])
        self.above.set(ylim=(0, 1.35 * np.log(max(heads, 2))))
        self.uniform.set_data([0.5, iterations + 0.5], [np.log(heads)] * 2)
        for axes in (self.above, self.below):
            axes.set_xlim(0.5, iterations + 0.5)

    def draw(self) -> tuple[str, Mapping[str, str]]:
        """The heatmap of one problem after one iteration, and the curves of that epoch."""
        with self._moved_by_us():
            self._offer_epochs()
        shown = self.shown()
        iteration = self.iteration.value
        self._draw_heatmap(shown, iteration)
        iterations = np.arange(1, self.records.iterations + 1)
        self.mean.set_data(iterations, shown.mean_entropy)
        self.own.set_data(iterations, shown.entropy)
        for name, line in self.taus.items():
            line.set_data(iterations, shown.tau[name])
        for cursor in self.cursors:
            cursor.set_xdata([iteration + 1] * 2)
        readouts = {
            "epoch": self.epoch.label,
            "iteration": str(iteration + 1),
            "entropy": f"{shown.entropy[iteration]:.3f} nats",
            "mean entropy": f"{shown.mean_entropy[iteration]:.3f} nats",
            "largest α": f"{shown.alphas[iteration].max():.3f}",
            "tau_obs": f"{shown.tau['tau_obs'][iteration]:.3f}",
            "tau_all": f"{shown.tau['tau_all'][iteration]:.3f}",
        }
        return self._alt(shown, readouts), readouts

    def shown(self) -> Sample:
        """What is known of the chosen problem at the chosen epoch, after every iteration."""
        return self.records.sample(self.seed.value, self.epoch.value, self.sample.value)

    def _offer_epochs(self) -> None:
        """The epochs of the chosen seed, which may have stopped before others."""
        epochs = self.records.epochs(self.seed.value)
        options: list[tuple[str, Any]] = [(str(epoch), record) for record, epoch in enumerate(epochs)]
        if self.epoch.values != list(range(len(epochs))) or self.epoch.label not in dict(options):
            self.epoch.offer(options, len(epochs) - 1)

    def _draw_heatmap(self, shown: Sample, iteration: int) -> None:
        alphas = shown.alphas[iteration]
        items, heads = alphas.shape
        self.image.set(data=alphas, extent=(-0.5, heads - 0.5, items - 0.5, -0.5))
        every = -(-items // 20)  # as many labels as there is room for
        self.heat.set_yticks(range(0, items, every), [shown.names[item] for item in range(0, items, every)])
        self.heat.title.set_text(f"iteration {iteration + 1}, epoch {self.epoch.label}")
        visible = int(shown.known.sum())
        self.border.set_visible(0 < visible < items)
        self.border.set_ydata([visible - 0.5] * 2)

    def _alt(self, shown: Sample, readouts: Mapping[str, str]) -> str:
        alphas = shown.alphas[self.iteration.value]
        items, heads = alphas.shape
        item, head = np.unravel_index(int(alphas.argmax()), alphas.shape)
        return (
            f"Heatmap of the routing weights of {items} items over {heads} heads, {label(self.picker.stored.method)} "
            f"routing, {self.seed.label}, sample {self.sample.label}, epoch {readouts['epoch']}, after iteration "
            f"{readouts['iteration']} of {self.records.iterations}: the largest weight is {readouts['largest α']}, of "
            f"the item of rank {shown.names[item]} on head {head + 1}. Beside it, after each iteration, the entropy, "
            f"{readouts['entropy']} for this problem and {readouts['mean entropy']} on average, where uniform routing "
            f"has {np.log(heads):.3f}; and Kendall tau, {readouts['tau_obs']} over observed pairs and "
            f"{readouts['tau_all']} over all pairs."
        )
