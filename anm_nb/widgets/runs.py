"""The stored runs that an explorer can show, and labels that tell them apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from anm_nb.analysis.style import label
from anm_nb.config import ParameterError
from anm_nb.run import CorruptRun, Run, flat
from anm_nb.store import scan

DESCRIBED = ("task", "size", "negatives", "negatives.name", "routing", "seeds", "steps")  # in every label anyway


def stored_runs(suits: Callable[[Run], bool]) -> tuple[dict[str, Run], list[str], dict[str, str]]:
    """The finished runs that suit, newest first, by key; their labels; and why others, by key, cannot be read.

    A label has task, size, method, seeds, steps, every other field that differs within the list, the time, and the
    beginning of the key. Manifests alone are read; no class of a user's own is needed.
    """
    runs, described, unreadable = {}, [], {}
    for run in reversed(scan()[0]):
        try:
            if suits(run):
                described.append((*_description(run), flat(run.settings)))
                runs[run.key] = run
        except Exception as error:  # of any kind: what is in a file may be anything
            unreadable[run.key] = reason(error)
    apart = _differing([settings for *_, settings in described])
    labels = [" · ".join([*start, *own, *end]) for (start, end, _), own in zip(described, apart, strict=True)]
    return runs, labels, unreadable


def alike(run: Run, other: Run) -> bool:
    """Whether the configs of two energies differ in nothing but the negative strategy."""
    mine, others = ({**each.settings, "negatives": None} for each in (run, other))
    return run.summary["class"] == other.summary["class"] and mine == others


def reason(error: Exception) -> str:
    """What an error says, after its kind where it was not written to be read."""
    return str(error) if isinstance(error, ParameterError | CorruptRun) else f"{type(error).__name__}: {error}"


def _description(run: Run) -> tuple[list[str], list[str]]:
    """The beginning and the end of a label."""
    summary, seeds = run.summary, ", ".join(map(str, run.summary["seeds"]))
    finished = datetime.fromisoformat(summary["finished"]).astimezone()
    task, method = f"{summary['task']}, size {run.settings.get('size')}", label(str(summary["method"]))
    return [task, method, f"seeds {seeds}", f"{summary['steps']} steps"], [f"{finished:%d %b %Y %H:%M}", run.key[:8]]


def _differing(settings: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Of each run the fields in which not all runs that have them agree, as "name = value", in the configs' order."""
    seen: dict[str, set[str]] = {}
    for own in settings:
        for name, value in own.items():
            if name not in DESCRIBED and not isinstance(value, dict):
                seen.setdefault(name, set()).add(json.dumps(value))
    last = [name.rpartition(".")[2] for name in seen]
    names = {}
    for name, end in zip(seen, last, strict=True):
        if len(seen[name]) > 1:
            names[name] = name if last.count(end) > 1 or end in DESCRIBED else end
    return [[f"{names[name]} = {own[name]}" for name in names if name in own] for own in settings]
