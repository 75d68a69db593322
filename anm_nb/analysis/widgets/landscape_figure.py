"""The figure of the landscape explorer: its panels, made once, and what moves in them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anm_nb.analysis.figures import LINE_STYLES, PALETTE, label
from anm_nb.analysis.widgets.picture import WIDTH, panels, still_label
from anm_nb.energy.landscape import SCAN_GRID
from anm_nb.studies.landscape_study import PLANE

HEIGHT = 3.7  # inches
T, S, ACROSS = SCAN_GRID.numpy(), PLANE["s"].numpy(), PLANE["t"].numpy()


class LandscapeFigure:
    """φ(t) − φ(0) of several problems, one of them in colour, on the left; E − E(truth) of that one on a plane."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(WIDTH, HEIGHT))
        self._make_profiles()
        self._make_plane()
        of_profiles: list[Artist] = [self.profiles.yaxis, self.zero, self.others, self.optimal, self.own, self.height]
        self.moving = [*of_profiles, self.scale.yaxis, self.image, self.own_level, *self.marks]

    def _make_profiles(self) -> None:
        (self.profiles,) = panels(self.figure, 1, 1, left=0.085, right=0.46, bottom=0.16, top=0.86).flat
        for place in (0, 1):
            self.profiles.axvline(place, color="black", linewidth=0.6, linestyle=(0, (4, 3)))
        self.zero = self.profiles.axhline(0, color="black", linewidth=0.6)
        self.others = self.profiles.add_collection(LineCollection([], colors="#b8b8b8", linewidths=0.8))
        self.others.set_label("other problems")
        (self.optimal,) = self.profiles.plot(
            T, 0 * T, color=PALETTE["optimal"], label=label("optimal"), **LINE_STYLES["optimal"]
        )
        (self.own,) = self.profiles.plot(T, 0 * T, linewidth=1.8, label="this problem")
        (self.height,) = self.profiles.plot([], [], color="black", linewidth=1.2, marker="_", label="barrier")
        self.profiles.set_xticks([-0.5, 0, 0.5, 1, 1.5], ["−0.5", "0\ntruth", "0.5", "1\nnegative", "1.5"])
        self.profiles.set(xlim=(T[0], T[-1]), xlabel="t, place on the line")
        still_label(self.profiles, "φ(t) − φ(0), nats", 0.012)
        self.profiles.yaxis.set_major_locator(MaxNLocator(5))

    def _make_plane(self) -> None:
        (self.plane,) = panels(self.figure, 1, 1, left=0.56, right=0.87, bottom=0.16, top=0.86).flat
        (self.scale,) = panels(self.figure, 1, 1, left=0.885, right=0.9, bottom=0.16, top=0.86).flat
        half = (S[1] - S[0]) / 2
        extent = (S[0] - half, S[-1] + half, ACROSS[0] - half, ACROSS[-1] + half)
        self.image = self.plane.imshow(
            np.zeros((len(ACROSS), len(S))), origin="lower", extent=extent, cmap="cividis", aspect="auto"
        )
        self.own_level = Contour(self.plane)
        marks = {"linestyle": "", "color": "white", "markeredgecolor": "black", "markersize": 6, "clip_on": False}
        self.marks = [
            self.plane.plot(place, 0, marker, label=name, **marks)[0]
            for place, marker, name in ((0, "o", "truth"), (1, "X", "negative"))
        ]
        self.plane.set(xlabel="s, towards the negative", ylabel="t, random direction")
        self.plane.set_xticks([-0.5, 0, 0.5, 1, 1.5])
        self.plane.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
        self.shades = self.scale.imshow(np.linspace(0, 1, 256)[:, None], origin="lower", cmap="cividis", aspect="auto")
        self.scale.set(xticks=[])
        still_label(self.scale, "E − E(truth), nats", 0.97)
        self.scale.yaxis.tick_right()
        self.scale.yaxis.set_major_locator(MaxNLocator(5))
        self.scale.spines[:].set_visible(False)

    def open(self, colour: str) -> None:
        """Set up for another run, drawn in its strategy's colour."""
        self.own.set_color(colour)
        self.profiles.legend(
            handles=[self.own, self.height, self.others, self.optimal], loc="lower left", bbox_to_anchor=(0, 1.0),
            ncols=2, columnspacing=1,
        )  # fmt: skip

    def draw_profiles(self, rises: np.ndarray, optimal: np.ndarray, problem: int, height: float) -> None:
        """All profiles [problems, T], one problem's own in colour with its barrier, and a perfect denoiser's for it."""
        self.own.set_ydata(rises[problem])
        self.optimal.set_ydata(optimal)
        self.others.set_segments([np.column_stack([T, rise]) for rise in np.delete(rises, problem, 0)])
        between = np.where((T >= 0) & (T <= 1), rises[problem], -np.inf)
        self.height.set_data([T[between.argmax()]] * 2, [0, height])
        low, high = min(rises.min(), 0.0), max(rises.max(), 0.0)
        room = 0.05 * (high - low) or 1.0
        self.profiles.set_ylim(low - room, high + room)

    def draw_plane(self, rises: np.ndarray) -> None:
        """E − E(truth) [T, S] in colours, and the line where it is 0."""
        low, high = float(rises.min()), float(rises.max())
        high = high if high > low else low + 1.0
        self.image.set_data(rises)
        self.image.set_clim(low, high)
        self.shades.set_extent((0, 1, low, high))
        self.scale.set(xlim=(0, 1), ylim=(low, high))
        self.own_level.replace(rises)


class Contour(Artist):
    """The line where E = E(truth): a contour cannot be moved, so that each picture has one of its own."""

    def __init__(self, axes: Axes) -> None:
        super().__init__()
        self.on = axes
        self.line: QuadContourSet | None = None

    def replace(self, rises: np.ndarray) -> None:
        """The contour of other values [T, S]."""
        if self.line is not None:
            self.line.remove()
        self.line = None
        if rises.min() < 0 < rises.max():
            self.line = self.on.contour(S, ACROSS, rises, levels=[0.0], colors="white", linewidths=1.0)
            self.line.set_animated(True)

    def draw(self, renderer: Any) -> None:
        """Draw it where there is one."""
        if self.line is not None:
            self.line.draw(renderer)
