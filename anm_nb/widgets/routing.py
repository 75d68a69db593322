"""Routing of a finished ranking run: α of single problems, iteration by iteration, as training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from anm_nb.analysis.style import PALETTE
from anm_nb.config import ParameterError
from anm_nb.ranking.routing import routing_entropy
from anm_nb.run import Run
from anm_nb.widgets.controls import Control
from anm_nb.widgets.explorer import Explorer
from anm_nb.widgets.picture import panels

CURVES: dict[str, dict[str, Any]] = {  # over iterations: what the trace calls them, and how they look
    "own": {"marker": "s", "color": PALETTE["anm"], "label": "this problem"},
    "entropies": {"marker": "o", "color": "#6e6e6e", "label": "mean over dev"},
    "tau_obs": {"marker": "o", "color": PALETTE["baseline"], "label": "observed pairs"},
    "tau_all": {"marker": "s", "color": PALETTE["hrm"], "linestyle": "--", "label": "all pairs"},
}
UNIFORM: dict[str, Any] = {"color": "black", "linewidth": 0.8, "linestyle": ":", "label": "uniform"}


class RoutingExplorer(Explorer):
    """Routing weights α of a problem, items × heads, after one iteration of one epoch; entropy and τ per iteration.

    Items stand in true order, the visible ones first. Entropy is that of the problem and the mean over dev; τ is the
    mean over dev.
    """

    name: ClassVar[str] = "routing"
    needs: ClassVar[str] = "Train a ranking: run notebook 20_hrm_vs_baseline, or anm-nb demo in a terminal."
    height: ClassVar[float] = 3.9

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

    def make_axes(self, figure: Figure) -> Sequence[Axis]:
        """A heatmap with its colour bar, and two curves over iterations."""
        self.heat = panels(figure, 1, 1, left=0.09, right=0.43, bottom=0.12, top=0.93)[0, 0]
        self.heat.set_xlabel("head")
        figure.text(0.01, 0.525, "rank of the item, in brackets where hidden", rotation=90, va="center")
        scale = panels(figure, 1, 1, left=0.445, right=0.46, bottom=0.12, top=0.93)[0, 0]
        self.colours = ScalarMappable(cmap="cividis")
        figure.colorbar(self.colours, cax=scale, label="routing weight α")
        self.curves = panels(figure, 2, 1, left=0.61, right=0.985, bottom=0.12, top=0.93, hspace=0.3)[:, 0]
        self.curves[0].set_ylabel("routing entropy, nats")
        self.curves[1].set(ylabel="Kendall τ on dev", xlabel="iteration", ylim=(-1.05, 1.05))
        styles = [UNIFORM, *CURVES.values()]
        for axes, shown in zip(self.curves, (styles[:3], styles[3:]), strict=True):
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            handles = [Line2D([], [], markersize=3, **style) for style in shown]
            axes.legend(handles=handles, loc="lower right", ncols=3, columnspacing=1, handlelength=1.6)
        return [self.heat.yaxis]

    def open(self, run: Run) -> None:
        """Read the routing weights and the problems they belong to."""
        if "probe_ranks" not in run.trace:
            raise ParameterError(f"run {run.key} keeps no problems, as an older version trained it: train it again")
        self.alphas = run.trace["alphas"].float().numpy()  # [seeds, records, samples, iterations, items, heads]
        samples, iterations, items, heads = self.alphas.shape[2:]
        self.offer_seeds()
        self.sample.offer_range(samples, first=1)
        self.iteration.offer_range(iterations, first=1)
        self._offer_epochs()
        self.colours.set_clim(0, float(np.nanmax(self.alphas)))
        self.heat.set(xlim=(-0.5, heads - 0.5), ylim=(items - 0.5, -0.5))
        self.heat.set_xticks(range(heads), [str(head + 1) for head in range(heads)])
        self.curves[0].set(ylim=(0, 1.35 * np.log(max(heads, 2))))
        for axes in self.curves:
            axes.set_xlim(0.5, iterations + 0.5)

    def draw(self) -> tuple[str, Mapping[str, str]]:
        """The heatmap of one problem after one iteration, and the curves of that epoch."""
        with self._settle():
            self._offer_epochs()
        alphas, names = self.shown()
        iteration, trace, where = self.iteration.value, self.run.trace, (self.seed.value, self.epoch.value)
        values = {name: trace[name][where].double().numpy() for name in CURVES if name != "own"}
        values["own"] = routing_entropy(torch.from_numpy(alphas)).mean(-1).numpy()
        self._draw_heatmap(alphas[iteration], names)
        self.curves[0].axhline(np.log(alphas.shape[-1]), **UNIFORM)
        self.cursors = [axes.axvline(iteration + 1, color="black", linewidth=0.8, zorder=0) for axes in self.curves]
        self.lines = {}
        for name, style in CURVES.items():
            axes = self.curves[int(name.startswith("tau"))]
            (self.lines[name],) = axes.plot(range(1, len(alphas) + 1), values[name], markersize=3, **style)
        told = {"entropy": "own", "mean entropy": "entropies", "tau_obs": "tau_obs", "tau_all": "tau_all"}
        readouts = {"epoch": self.epoch.label, "iteration": str(iteration + 1)}
        readouts["largest α"] = f"{alphas[iteration].max():.3f}"
        readouts |= {name: f"{values[of][iteration]:.3f}" for name, of in told.items()}
        for name in ("entropy", "mean entropy"):
            readouts[name] += " nats"
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
        items = len(alphas)
        self.image = self.heat.imshow(alphas, aspect="auto", cmap="cividis", clim=self.colours.get_clim())
        every = -(-items // 20)  # as many labels as there is room for
        self.heat.set_yticks(range(0, items, every), names[::every])
        title = f"iteration {self.iteration.label}, epoch {self.epoch.label}"
        self.heat.text(0, 1.02, title, transform=self.heat.transAxes)
        visible = sum(not name.startswith("(") for name in names)
        self.border = visible - 0.5  # where the visible items end
        if 0 < visible < items:
            self.heat.axhline(self.border, color="white", linewidth=1.2)

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
