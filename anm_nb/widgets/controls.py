"""Labelled controls: lists to choose from, and sliders over named values with buttons that play them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ipywidgets import Dropdown, HBox, Layout, Play, SelectionSlider, Widget
from traitlets import link

PLAY_EVERY = 500  # milliseconds from one value to the next


class Control:
    """Labelled values, one of them chosen, in the page by the classes `anm-control-<name>` and `anm-play-<name>`.

    A list, a slider, or a slider with buttons that play it. Keyboard: Tab reaches it, arrow keys move it, Home and End
    go to a slider's ends. ipywidgets takes None for "nothing chosen"; here it is a value like any.
    """

    def __init__(
        self,
        name: str,
        label: str,
        tooltip: str,
        form: Literal["list", "slider", "player"] = "list",
        wide: bool = False,
    ) -> None:
        self.name, self.values, self.play = name, [None], None
        self.input = (Dropdown if form == "list" else SelectionSlider)(
            options=["–"],
            description=label,
            tooltip=tooltip,
            style={"description_width": "7em"},
            layout=Layout(width="auto" if wide else "23em", max_width="100%"),
        ).add_class(f"anm-control-{name}")
        self.widget: Widget = self.input
        if form == "player":
            described = {"description": f"Play {label.lower()}", "tooltip": f"Play: {tooltip}"}
            self.play = Play(interval=PLAY_EVERY, show_repeat=False, max=0, layout=Layout(width="auto"), **described)
            self.play.add_class(f"anm-play-{name}")
            link((self.play, "value"), (self.input, "index"))
            self.widget = HBox([self.input, self.play], layout=Layout(max_width="100%"))

    values: list[Any]
    play: Play | None

    @property
    def value(self) -> Any:
        """What is chosen."""
        return self.values[self.input.index]

    @value.setter
    def value(self, value: Any) -> None:
        self.input.index = self.values.index(value)

    @property
    def label(self) -> str:
        """The label of what is chosen."""
        return self.input.label

    def offer(self, options: Sequence[tuple[str, Any]], start: Any = None) -> None:
        """Replace labels and values, at least one.

        The chosen label stays where it is still offered, else `start` is chosen, or the first value. A single value
        leaves nothing to choose, and switches the control off.
        """
        labels, self.values = [label for label, _ in options], [value for _, value in options]
        default = self.values.index(start) if start in self.values else 0
        place = labels.index(self.label) if self.label in labels else default
        if self.play:  # its range has to hold the old place and the new one
            self.play.max = max(self.play.max, len(labels) - 1)
        self.input.options = labels
        self.input.index = place
        self.input.disabled = len(labels) < 2
        if self.play:
            self.play.max = len(labels) - 1
            self.play.disabled = len(labels) < 2

    def offer_range(self, count: int, first: int = 0, start: Any = None) -> None:
        """Offer the numbers 0, 1, …, labelled from `first` on."""
        self.offer([(str(place + first), place) for place in range(count)], start)
