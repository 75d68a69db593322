"""Labelled controls: sliders over named values with buttons that play them, and lists to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ipywidgets import Dropdown, HBox, Layout, Play, SelectionSlider, Widget
from traitlets import link

STYLE = {"description_width": "7em"}
WIDE = "23em"
NOTHING = ["–"]
PLAY_EVERY = 500  # milliseconds from one value to the next


class Choice:
    """Labelled values of which one is chosen, in a list; found in the page by the class `anm-control-<name>`.

    ipywidgets takes None for "nothing chosen"; here it is a value like any.
    """

    def __init__(self, name: str, description: str, tooltip: str, width: str = WIDE) -> None:
        self.name, self.tooltip = name, tooltip
        self.values: list[Any] = [None]
        self.input = self.make_input(
            options=NOTHING,
            description=description,
            tooltip=tooltip,
            style=STYLE,
            layout=Layout(width=width, max_width="100%"),
        )
        self.input.add_class(f"anm-control-{name}")
        self.widget: Widget = self.input

    def make_input(self, **options: Any) -> Dropdown | SelectionSlider:
        """The widget that a person uses."""
        return Dropdown(**options)

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
        """Take these labels and values, at least one, in place of others.

        What is chosen stays where its label is still offered, and else is `start`, or the first where there is none
        such. A single value leaves nothing to choose, and the control is switched off.
        """
        labels, self.values = [label for label, _ in options], [value for _, value in options]
        kept = labels.index(self.label) if self.label in labels else None
        place = kept if kept is not None else self.values.index(start) if start in self.values else 0
        self.input.options = labels
        self.input.index = place
        self.input.disabled = len(labels) < 2


class Slider(Choice):
    """Labelled values in their order on a slider, where asked for with buttons that play them.

    Keyboard: Tab reaches it, arrow keys move it, Home and End go to its ends. The buttons' class is `anm-play-<name>`.
    """

    def __init__(self, name: str, description: str, tooltip: str, playable: bool = False) -> None:
        super().__init__(name, description, tooltip)
        self.play: Play | None = None
        if playable:
            self.play = Play(
                description=f"Play {description.lower()}",
                tooltip=f"Play: {tooltip}",
                interval=PLAY_EVERY,
                show_repeat=False,
                max=0,
                layout=Layout(width="auto"),
            )
            self.play.add_class(f"anm-play-{name}")
            link((self.play, "value"), (self.input, "index"))
            self.widget = HBox([self.input, self.play], layout=Layout(max_width="100%"))

    def make_input(self, **options: Any) -> Dropdown | SelectionSlider:
        """A slider in place of a list."""
        return SelectionSlider(**options)

    def offer(self, options: Sequence[tuple[str, Any]], start: Any = None) -> None:
        """As for any choice; the buttons go from the first value to the last."""
        if self.play:  # whose range has to hold both what is and what will be chosen
            self.play.max = max(self.play.max, len(options) - 1)
        super().offer(options, start)
        if self.play:
            self.play.max = len(options) - 1
            self.play.disabled = len(options) < 2
