"""Routing of a finished ranking run: α of single problems, iteration by iteration, as training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anm_nb.analysis.style import PALETTE
from anm_nb.config import ParameterError
from anm_nb.ranking.routing import routing_entropy
from anm_nb.run import Run
from anm_nb.widgets.controls import Control
from anm_nb.widgets.explorer import Explorer
from anm_nb.widgets.picture import WIDTH, panels, still_label

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
    def suits(cls, run: Run) -> bool:
        """Whether it is a ranking run that keeps the routing of some problems."""
        return run.summary["family"] == "ranking" and "routing" in run.settings

    def make_controls(self) -> Sequence[Control]:
        """Seed, epoch, problem and iteration."""
        self.seed = Control("seed", "Seed", "The seed of the run")
        self.epoch = Control("epoch", "Epoch", "Epochs trained before what is shown", "player")
        kept = "The dev problem that is shown, of those whose routing was kept"
        self.sample = Control("sample", "Sample", kept, "slider")
        self.iteration = Control("iteration", "Iteration", "The iteration of the model that is shown", "player")
        return [self.seed, self.epoch, self.sample, self.iteration]

    def make_figure(self) -> tuple[Figure, Sequence[Artist]]:
        """A heatmap with its colour bar, and two curves over iterations with one cursor."""
        figure = Figure(figsize=(WIDTH, 3.9))
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
        """Read the routing weights and the problems they belong to."""
        if "probe_ranks" not in run.trace:
            raise ParameterError(f"run {run.key} keeps no problems, as an older version trained it: train it again")
        self.alphas = run.trace["alphas"].float().numpy()  # [seeds, records, samples, iterations, items, heads]
        samples, iterations, _, heads = self.alphas.shape[2:]
        self.seed.offer([(f"seed {seed}", place) for place, seed in enumerate(run.settings["seeds"])])
        self.sample.offer([(str(sample + 1), sample) for sample in range(samples)])
        self.iteration.offer([(str(iteration + 1), iteration) for iteration in range(iterations)])
        self._offer_epochs()
        self.image.set_clim(0, float(np.nanmax(self.alphas)))
        self.heat.set_xticks(range(heads), [str(head + 1) for head in range(heads)])
        self.above.set(ylim=(0, 1.35 * np.log(max(heads, 2))))
        self.uniform.set_data([0.5, iterations + 0.5], [np.log(heads)] * 2)
        for axes in (self.above, self.below):
            axes.set_xlim(0.5, iterations + 0.5)

    def draw(self) -> tuple[str, Mapping[str, str]]:
        """The heatmap of one problem after one iteration, and the curves of that epoch."""
        with self._settle():
            self._offer_epochs()
        place, record, iteration = self.seed.value, self.epoch.value, self.iteration.value
        alphas, names = self.shown()
        own = routing_entropy(torch.from_numpy(alphas)).mean(-1).numpy()
        mean, *taus = (self.run.trace[name][place, record].double().numpy() for name in ("entropies", *self.taus))
        self._draw_heatmap(alphas[iteration], names)
        iterations = np.arange(1, len(alphas) + 1)
        for line, values in zip((self.own, self.mean, *self.taus.values()), (own, mean, *taus), strict=True):
            line.set_data(iterations, values)
        for cursor in self.cursors:
            cursor.set_xdata([iteration + 1] * 2)
        readouts = {
            "epoch": self.epoch.label,
            "iteration": str(iteration + 1),
            "entropy": f"{own[iteration]:.3f} nats",
            "mean entropy": f"{mean[iteration]:.3f} nats",
            "largest α": f"{alphas[iteration].max():.3f}",
            **{name: f"{values[iteration]:.3f}" for name, values in zip(self.taus, taus, strict=True)},
        }
        return self._alt(alphas[iteration], names, readouts), readouts

    def shown(self) -> tuple[np.ndarray, list[str]]:
        """α [iterations, items, heads] of the chosen problem at the chosen epoch, and its items' names.

        Items are in true order, the visible ones first; a name is the true rank from 1, in brackets where hidden.
        """
        place, sample = self.seed.value, self.sample.value
        ranks, known = (self.run.trace[name][place, 0, sample].numpy() for name in ("probe_ranks", "probe_known"))
        order = np.lexsort((ranks, ~known))
        names = [str(rank + 1) if visible else f"({rank + 1})" for rank, visible in zip(ranks, known, strict=True)]
        return self.alphas[place, self.epoch.value, sample][:, order], [names[item] for item in order]

    def _offer_epochs(self) -> None:
        """The recorded epochs of the chosen seed, which may have stopped before others."""
        metrics = self.run.metrics
        of_seed = metrics[metrics["seed"] == self.run.settings["seeds"][self.seed.value]]
        options = [(str(int(epoch)), record) for record, epoch in enumerate(of_seed["epoch"])]
        if self.epoch.values != [record for _, record in options] or self.epoch.label not in dict(options):
            self.epoch.offer(options, len(options) - 1)

    def _draw_heatmap(self, alphas: np.ndarray, names: Sequence[str]) -> None:
        items, heads = alphas.shape
        self.image.set(data=alphas, extent=(-0.5, heads - 0.5, items - 0.5, -0.5))
        every = -(-items // 20)  # as many labels as there is room for
        self.heat.set_yticks(range(0, items, every), names[::every])
        self.heat.title.set_text(f"iteration {self.iteration.label}, epoch {self.epoch.label}")
        visible = sum(not name.startswith("(") for name in names)
        self.border.set_visible(0 < visible < items)
        self.border.set_ydata([visible - 0.5] * 2)

    def _alt(self, alphas: np.ndarray, names: Sequence[str], readouts: Mapping[str, str]) -> str:
        items, heads = alphas.shape
        item, head = divmod(int(alphas.argmax()), heads)
        return (
            f"Heatmap of the routing weights of {items} items over {heads} heads, {self.method} routing, "
            f"{self.seed.label}, sample {self.sample.label}, epoch {readouts['epoch']}, after iteration "
            f"{readouts['iteration']} of {len(self.iteration.values)}: the largest weight is {readouts['largest α']}, "
            f"of the item of rank {names[item]} on head {head + 1}. Beside it, after each iteration, the entropy, "
            f"{readouts['entropy']} for this problem and {readouts['mean entropy']} on average, where uniform routing "
            f"has {np.log(heads):.3f}; and Kendall tau, {readouts['tau_obs']} over observed pairs and "
            f"{readouts['tau_all']} over all pairs."
        )
