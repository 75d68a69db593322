"""Runs by what a person asks for: a key or the beginning of one, a folder, or filters over the whole store."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from anm_nb.config import ParameterError, unknown_name
from anm_nb.runs.listing import Listed, run_folders, scan
from anm_nb.runs.manifest import CorruptRun, Manifest
from anm_nb.runs.places import store_root
from anm_nb.runs.store import Run

NEAREST = 3  # keys named where the one asked for is not there
FAMILIES = ("energy", "ranking")
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def find_run(asked: str) -> Run:
    """The finished run of a key, of an unambiguous beginning of one, or in a folder.

    Raises `ParameterError` where there is none, naming the nearest keys; where several begin so, naming them; for a
    folder that holds no finished run; and for an empty store, saying what to run.
    """
    folder = Path(asked)
    if asked and folder.is_dir():
        try:
            Manifest.read(folder)
        except CorruptRun as error:
            raise ParameterError(f"{folder} is no finished run: {error}") from None
        return Run(folder.resolve())
    stored = {run.key: run for run in scan()[0]}
    return Run(stored[_key_of(asked, {key: described(run.summary) for key, run in stored.items()})].path)


def find_folder(asked: str) -> Path:
    """Like `find_run`, for any folder of the store, be there a whole run in it or not."""
    return store_root() / _key_of(asked, {folder.name: "" for folder in run_folders()})


def _key_of(asked: str, stored: Mapping[str, str]) -> str:
    if not stored:
        raise ParameterError(f"no finished runs in {store_root()}; train some: anm-nb demo, or any notebook")
    matches = [asked] if asked in stored else [key for key in stored if asked and key.startswith(asked)]
    if len(matches) == 1:
        return matches[0]
    near = matches or difflib.get_close_matches(asked, stored, n=NEAREST, cutoff=0.0)
    named = ", ".join(f"{key} ({stored[key]})" if stored[key] else key for key in near)
    if matches:
        raise ParameterError(f"'{asked}' begins {len(matches)} keys: {named}")
    raise ParameterError(f"unknown run '{asked}' in {store_root()} ({len(stored)} runs); nearest: {named}")


def described(summary: Mapping[str, Any]) -> str:
    """Family, task and method of a run, as far as it has them."""
    return ", ".join(str(summary[name]) for name in ("family", "task", "method") if summary.get(name))


@dataclass(frozen=True)
class Filter:
    """Which runs to list; None and nothing let everything pass. `where` holds `name=value` texts, names dotted."""

    family: str | None = None
    task: str | None = None
    method: str | None = None
    where: Sequence[str] = ()
    since: datetime | None = None

    def of(self, runs: Sequence[Listed]) -> list[Listed]:
        """The runs that pass, in their order. Raises `ParameterError` for a name that nothing has."""
        for name in ("family", "task", "method"):
            asked = getattr(self, name)
            if asked is not None:
                _known(name, asked, {str(run.summary[name]) for run in runs if run.summary.get(name)})
                runs = [run for run in runs if run.summary.get(name) == asked]
        if self.since:
            earliest = self.since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            runs = [run for run in runs if (run.summary.get("finished") or "") >= earliest]
        return _where(runs, self.where) if self.where else list(runs)


def _known(kind: str, asked: str, stored: set[str]) -> None:
    """Refuse a name that neither a run nor, of families and tasks, the package has."""
    if asked in stored:
        return
    allowed = set(stored)
    if kind == "family":
        allowed |= set(FAMILIES)
    if kind == "task":
        from anm_nb.tasks import task_names  # not before it is needed: it may bring torch along

        allowed |= set(task_names())
    if asked not in allowed:
        raise ParameterError(unknown_name(kind, asked, allowed))


def _where(runs: Sequence[Listed], conditions: Sequence[str]) -> list[Listed]:
    """Runs whose config has these values. Raises `ParameterError` for a name that no config has."""
    settings = {run.key: flat(Run(run.path).settings) for run in runs}
    kept = list(runs)
    for condition in conditions:
        name, equals, text = condition.partition("=")
        if not equals:
            raise ParameterError(f"--where {condition}: needs name=value, such as loop.steps=300")
        names = {each for values in settings.values() for each in values}
        if runs and name not in names:
            raise ParameterError(unknown_name("config value", name, names))
        wanted = yaml.safe_load(text)
        kept = [run for run in kept if _equal(settings[run.key].get(name, _MISSING), wanted, text)]
    return kept


_MISSING = object()


def _equal(value: Any, wanted: Any, text: str) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, int | float) and not isinstance(wanted, int | float):
        try:
            return value == float(text)  # YAML takes 1e-3 for a text
        except ValueError:
            return False
    return value in (wanted, text)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, the groups beside what is in them."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        values[prefix + name] = value
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{name}.")
    return values


def duration_from(text: str) -> timedelta:
    """`30d`, `12h`, `45m` or `2w` as a span of time. Raises `ParameterError`."""
    match = re.fullmatch(r"(\d+)\s*([mhdw])", text.strip())
    if match is None:
        raise ParameterError(f"'{text}' is no span of time; allowed: a number and a unit, such as 45m, 12h, 30d, 2w")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


def moment_from(text: str, now: datetime | None = None) -> datetime:
    """A date (`2026-11-01`, with a time of day or without) or a span of time before now. Raises `ParameterError`."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        pass
    try:
        return (now or datetime.now(UTC)) - duration_from(text)
    except ParameterError:
        raise ParameterError(
            f"'{text}' is neither a date, such as 2026-11-01, nor a span of time, such as 7d"
        ) from None
