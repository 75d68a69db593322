"""Which finished runs an explorer can open: what the store lists, newest first, in a labelled list."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from anm_nb.analysis.figures import label
from anm_nb.analysis.widgets.controls import Choice
from anm_nb.config import ParameterError
from anm_nb.run import CorruptRun, Run, flat
from anm_nb.store import scan

NAMED = 3  # config values named where runs are alike in all that a label says


@dataclass(frozen=True)
class Stored:
    """A run in the store as the picker knows it: its manifest's summary and its config as plain data."""

    listed: Run
    settings: dict[str, Any]

    @property
    def method(self) -> str:
        """What the run's family compares: its negative strategy, or its routing."""
        return str(self.listed.summary["method"])

    def is_like(self, other: Stored) -> bool:
        """Whether the configs differ in nothing but the negative strategy."""
        mine, others = ({**each.settings, "negatives": None} for each in (self, other))
        return self.listed.summary["class"] == other.listed.summary["class"] and mine == others


def stored_runs(suits: Callable[[Stored], bool]) -> tuple[list[Stored], dict[str, str]]:
    """The finished runs that suit, newest first, and why others, by key, cannot be read; no weights, no arrays."""
    found, unreadable = [], {}
    for listed in reversed(scan()[0]):
        try:
            stored = Stored(listed, Run(listed.path).settings)
            if suits(stored):
                labels_of([stored])
                found.append(stored)
        except Exception as error:  # of any kind: what is in a file may be anything
            unreadable[listed.key] = reason(error)
    return found, unreadable


def reason(error: Exception) -> str:
    """What an error says, after its kind where it was not written to be read."""
    return str(error) if isinstance(error, ParameterError | CorruptRun) else f"{type(error).__name__}: {error}"


def labels_of(runs: Sequence[Stored]) -> list[str]:
    """Task, size, strategy, seeds and steps of each run, what sets it apart from others of the same, and when it ended.

    Plain text, ending with the beginning of the key.
    """
    plain, settings = [_described(run) for run in runs], [flat(run.settings) for run in runs]
    alike = defaultdict(list)
    for text, own in zip(plain, settings, strict=True):
        alike[text].append(own)
    differing = {text: _differing(group) for text, group in alike.items()}
    return [
        " · ".join([text, *_apart(own, differing[text]), _finished(run), run.listed.key[:8]])
        for text, own, run in zip(plain, settings, runs, strict=True)
    ]


def _described(run: Stored) -> str:
    summary = run.listed.summary
    seeds = ", ".join(map(str, summary["seeds"]))
    parts = [f"{summary['task']}, size {run.settings['size']}", label(run.method), f"seeds {seeds}"]
    return " · ".join([*parts, f"{summary['steps']} steps"])


def _differing(group: Sequence[dict[str, Any]]) -> list[str]:
    """The config values that not all runs of the same description have, in the configs' order."""
    names = dict.fromkeys(name for settings in group for name, value in settings.items() if not isinstance(value, dict))
    first = group[0]
    return [name for name in names if any(each.get(name) != first.get(name) for each in group)]


def _apart(settings: dict[str, Any], differing: Sequence[str]) -> list[str]:
    """The first few config values that set a run apart."""
    own = [name for name in differing if not isinstance(settings.get(name, {}), dict)]
    return [f"{name.rpartition('.')[2]} = {settings[name]}" for name in own[:NAMED]]


def _finished(run: Stored) -> str:
    return datetime.fromisoformat(run.listed.summary["finished"]).astimezone().strftime("%d %b %Y %H:%M")


class RunPicker:
    """A labelled list of the finished runs that an explorer can open, the newest first; `runs` is empty where none is.

    `unreadable` says by key why a run is left out. `run` is the list; `strategy` has the picked run and those that
    differ from it in their negatives alone. Opens at `chosen`, or at the newest. Raises `ParameterError` where `chosen`
    is not among them.
    """

    def __init__(self, suits: Callable[[Stored], bool], chosen: Run | None = None) -> None:
        found, self.unreadable = stored_runs(suits)
        self.runs = {stored.listed.key: stored for stored in found}
        self.run = Choice("run", "Run", "The finished run that is shown; the newest come first", width="auto")
        self.strategy = Choice("strategy", "Strategy", "Negatives of a run that is alike in everything else")
        if chosen and chosen.key not in self.runs:
            if chosen.key in self.unreadable:
                raise ParameterError(f"run {chosen.key} cannot be read: {self.unreadable[chosen.key]}")
            raise ParameterError(f"run {chosen.key}: not among the {len(self.runs)} in the store that can be shown")
        if self.runs:
            labels = labels_of(list(self.runs.values()))
            self.run.offer(list(zip(labels, self.runs, strict=True)), chosen.key if chosen else None)
            self.run.input.disabled = False  # to be read even where it is the only one
        self._offering = False
        self.strategy.input.observe(self._switch, "index")

    @property
    def stored(self) -> Stored:
        """The run that is picked."""
        return self.runs[self.run.value]

    def offer_siblings(self) -> None:
        """Let `strategy` offer the runs that differ from the picked one in their negatives alone, the newest of each.

        It stays out of sight where the picked run has none, as a ranking has not.
        """
        newest = {self.stored.method: self.stored.listed.key}
        for run in self.runs.values():
            if run.is_like(self.stored):
                newest.setdefault(run.method, run.listed.key)
        self._offering = True
        self.strategy.offer([(label(method), key) for method, key in sorted(newest.items())])
        self.strategy.value = self.stored.listed.key
        self._offering = False
        self.strategy.input.layout.display = None if "negatives" in self.stored.settings else "none"

    def _switch(self, change: Any) -> None:
        if not self._offering:
            self.run.value = self.strategy.value
