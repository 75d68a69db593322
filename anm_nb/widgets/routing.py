"""Routing of a finished ranking run: α of single problems, iteration by iteration, as training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from anm_nb.analysis.style import PALETTE
from anm_nb.ranking.networks import routing_entropy
from anm_nb.run import Run
from anm_nb.widgets.view import Control, View, nearest, numbers

CURVES: dict[str, dict[str, Any]] = {  # over iterations: what the trace calls them, and how they look
    "own": {"marker": "s", "color": PALETTE["anm"], "label": "this problem"},
    "entropies": {"marker": "o", "color": "#6e6e6e", "label": "dev mean"},
    "tau_obs": {"marker": "o", "color": PALETTE["baseline"], "label": "observed"},
    "tau_all": {"marker": "s", "color": PALETTE["hrm"], "linestyle": "--", "label": "all"},
}


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
            "epoch": lambda values: [(str(epoch), epoch) for epoch in self.epochs[values["seed"]]],
            "sample": numbers(self.alphas.shape[2]),
            "iteration": numbers(self.alphas.shape[3]),
        }
        last = self.alphas[0, len(self.epochs[0]) - 1, 0]  # [iterations, items, heads]
        self.start = {"epoch": self.epochs[0][-1], "iteration": int(last.std(1).mean(1).argmax())}

    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> None:
        (heat, every, entropy, tau), largest = axes, float(np.nanmax(self.alphas))
        alphas, names, curves, _, iteration = self.shown(values)
        count, items, heads = alphas.shape
        gaps = np.pad(alphas, ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)  # between one iteration and the next
        for panel, array in ((heat, alphas[iteration]), (every, np.hstack(list(gaps))[:, :-1])):
            panel.imshow(array, aspect="auto", cmap="cividis", clim=(0, largest))
            panel.axhline(sum(not name.startswith("(") for name in names) - 0.5, color="white", linewidth=1.2)
        apart = -(-items // 16)  # as many labels as there is room for
        heat.set_yticks(range(0, items, apart), names[::apart])
        heat.set_xticks(range(heads), [str(head + 1) for head in range(heads)])
        heat.set(xlabel=f"head (α: blue 0, yellow {largest:.2f})", ylabel="item, by true rank (hidden)")
        every.add_patch(Rectangle(((heads + 1) * iteration - 0.5, -0.5), heads, items, fill=False, lw=2, clip_on=False))
        places = range(0, count, -(-count // 8))
        every.set_xticks([(heads + 1) * place + (heads - 1) / 2 for place in places], [str(1 + i) for i in places])
        every.set(yticks=[], xlabel="all iterations (framed: that on the left)")
        entropy.axhline(np.log(heads), color="black", linewidth=0.8, linestyle=":", label="uniform")
        for name, style in CURVES.items():
            axes[2 + name.startswith("tau")].plot(range(1, count + 1), curves[name], markersize=3, **style)
        entropy.set(ylabel="routing entropy, nats", ylim=(0, 1.35 * np.log(max(heads, 2))))
        tau.set(ylabel="Kendall τ of pairs of dev", ylim=(-1.05, 1.05))
        for panel in (entropy, tau):
            panel.axvline(iteration + 1, color="black", linewidth=0.8, zorder=0)
            panel.set(xlabel="iteration", xlim=(0.5, count + 0.5))
            panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            if panel.get_legend() is None:
                panel.legend(loc="lower right", fontsize="small")

    def read_out(self, values: Mapping[str, Any]) -> dict[str, str]:
        alphas, _, curves, epoch, iteration = self.shown(values)
        told = {"epoch": str(epoch), "iteration": str(iteration + 1), "largest α": f"{alphas[iteration].max():.3f}"}
        told["entropy"], told["mean entropy"] = (f"{curves[name][iteration]:.3f} nats" for name in ("own", "entropies"))
        return told | {name: f"{curves[name][iteration]:.3f}" for name in ("tau_obs", "tau_all")}

    def shown(self, values: Mapping[str, Any]) -> tuple[np.ndarray, list[str], dict[str, np.ndarray], int, int]:
        """α [iterations, items, heads] of the chosen problem, names of items, curves, the epoch and the iteration.

        Items are in true order, the visible ones first; a name is the true rank from 1, in brackets where hidden.
        Curves are over iterations, by the names of `CURVES`. Epoch and iteration are the nearest that this run has.
        """
        place, sample, trace = self.seed_place(values), values["sample"], self.run.trace
        record = nearest(self.epochs[place], values["epoch"])
        ranks, known = (trace[f"probe_{of}"][place, 0, sample].numpy() for of in ("ranks", "known"))
        order = np.lexsort((ranks, ~known))
        names = [f"{ranks[item] + 1}" if known[item] else f"({ranks[item] + 1})" for item in order]
        alphas = self.alphas[place, record, sample][:, order]
        curves = {name: trace[name][place, record].double().numpy() for name in CURVES if name != "own"}
        curves["own"] = routing_entropy(torch.from_numpy(alphas)).mean(-1).numpy()
        return alphas, names, curves, self.epochs[place][record], min(values["iteration"], len(alphas) - 1)
