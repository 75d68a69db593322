"""Sweep files: which cases one means, checked as a whole before anything starts."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from anm_nb import files
from anm_nb.bounds import Seeds
from anm_nb.config import ParameterError, Parameters, shown, unknown_name
from anm_nb.sweep.settings import check_of
from anm_nb.yaml_file import read_yaml

Values = dict[str, Any]
MOST_CASES = 10_000  # of a sweep file, each checked before the first one runs


class SweepFile(Parameters):
    """What a file in `params/sweeps` may say: one notebook at many parameters, or the union of such files.

    A case's parameters are those of `params/<profile>/<notebook>.yaml` (without a profile, the notebook's defaults),
    with `base` over them, `seeds` over that, and last the case's own: each combination of the values in `grid`, then
    each mapping in `cases`; without either there is one case. Every case is given all `seeds`, since verdicts need them
    together; for a case for each seed, vary it: `grid: {seeds: [[0], [1], [2]]}`. In a union `base` is over the base of
    each of its files.
    """

    notebook: str | None = (
        None  # the name of one in notebooks/, or the path of an .ipynb file from the sweep file's folder
    )
    profile: str | None = None
    base: Values = Field(default_factory=dict)
    grid: Annotated[dict[str, list[Any]], Field(min_length=1)] | None = None
    cases: Annotated[list[Values], Field(min_length=1)] | None = None
    seeds: Seeds | None = None
    union: Annotated[list[str], Field(min_length=1)] | None = None  # paths of other sweep files, from this one's folder

    @model_validator(mode="after")
    def _says_one_thing(self) -> SweepFile:
        beside = sorted(self.model_fields_set - {"union", "base"})
        if self.union is not None and beside:
            raise ParameterError(
                f"only base may stand beside union; {', '.join(beside)} belongs into the files it names"
            )
        if self.union is None and self.notebook is None:
            raise ParameterError("a sweep needs a notebook, or a union of sweep files")
        for name, values in (self.grid or {}).items():
            if not values:
                raise ParameterError(f"grid.{name} = []: needs at least 1 item")
            first: dict[str, int] = {}
            repeated = [v for place, v in enumerate(values) if first.setdefault(as_text(v), place) != place]
            if repeated:
                raise ParameterError(f"grid.{name} = {shown(values)}: {shown(repeated[0])} appears more than once")
        count = math.prod(map(len, (self.grid or {}).values())) + len(self.cases or ())
        if count > MOST_CASES:
            raise ParameterError(f"grid: {count:,} cases; at most {MOST_CASES:,} in one sweep")
        return self

    def own_parameters(self) -> Iterator[Values]:
        """What each case sets beyond the base."""
        if self.grid is not None:
            for values in product(*self.grid.values()):
                yield dict(zip(self.grid, values, strict=True))
        yield from self.cases or ([{}] if self.grid is None else [])


@dataclass(frozen=True)
class PlannedCase:
    """A case of a sweep: its notebook, the parameters that are `given` to it, and all it runs with, as plain data."""

    notebook: Path
    given: Mapping[str, Any]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """The distinct cases of a sweep file, in its order, and how many more it says that are the same as one of them."""

    name: str
    profile: str | None
    cases: tuple[PlannedCase, ...]
    folded: int


def find_sweep(asked: str) -> Path:
    """A sweep file by its path, or by its name in `params/sweeps`. Raises ParameterError where there is none."""
    path = Path(asked)
    if path.is_file():
        return path
    folder = files.project_root() / "params" / "sweeps"
    named = folder / f"{asked}.yaml"
    if named.is_file():
        return named
    raise ParameterError(unknown_name("sweep file", asked, (file.stem for file in folder.glob("*.yaml"))))


def plan(path: Path, profile: str | None = None) -> Plan:
    """The cases of a sweep file, at another profile than its own where one is given.

    Raises ParameterError, with a line for each problem, for all that the file or its notebooks would not accept.
    """
    file = _read(path)
    members = [path] if file.union is None else [path.parent / member for member in file.union]
    distinct: dict[str, PlannedCase] = {}
    count = 0
    for member in members:
        for case in _cases(member, profile, {} if file.union is None else file.base):
            count += 1
            distinct.setdefault(as_text([str(case.notebook.resolve()), case.values]), case)
    return Plan(path.stem, profile, tuple(distinct.values()), count - len(distinct))


def _cases(path: Path, profile: str | None, over: Values) -> list[PlannedCase]:
    """The cases of a file that is no union, with values over its base."""
    file = _read(path)
    if file.notebook is None:
        raise ParameterError(f"{path.name}: a union of unions; name the sweeps themselves")
    notebook = _notebook(file.notebook, path)
    shared = _profile(profile or file.profile, notebook) | file.base | over
    if file.seeds is not None:
        shared |= {"seeds": list(file.seeds)}
    check = check_of(notebook)
    own_parameters = list(file.own_parameters())
    cases, problems = [], defaultdict(list)
    for own in own_parameters:
        given = shared | own
        try:
            cases.append(PlannedCase(notebook, given, json.loads(as_text(check(given)))))
        except ParameterError as error:
            for line in str(error).split("\n"):
                problems[line].append(own)
    if problems:
        count = len(own_parameters)
        raise ParameterError("\n".join(f"{path.name}: {line}{_where(own, count)}" for line, own in problems.items()))
    return cases


def _where(affected: Sequence[Values], count: int) -> str:
    """Which cases a problem is of, unless it is of all."""
    if len(affected) == count:
        return ""
    first = ", ".join(f"{name} = {value}" for name, value in affected[0].items())
    return f" (in {len(affected)} of {count} cases; the first: {first})"


def _read(path: Path) -> SweepFile:
    content = read_yaml(path)
    try:
        return SweepFile(**content)
    except ParameterError as error:
        raise error.within(path.name) from None


def _notebook(named: str, file: Path) -> Path:
    if named.endswith(".ipynb"):
        path = file.parent / named
        if not path.is_file():
            raise ParameterError(f"{file.name}: notebook = '{named}': {path} does not exist")
        return path
    folder = files.project_root() / "notebooks"
    known = {path.stem: path for path in folder.glob("*.ipynb")}
    if named not in known:
        raise ParameterError(f"{file.name}: {unknown_name('notebook', named, known)}")
    return known[named]


def _profile(profile: str | None, notebook: Path) -> Values:
    if profile is None:
        return {}
    params = files.project_root() / "params"
    profiles = {path.parent.name: path for path in params.glob(f"*/{notebook.stem}.yaml")}
    if profile not in profiles:
        raise ParameterError(f"{notebook.stem}: {unknown_name('profile', profile, profiles)}")
    return read_yaml(profiles[profile])


def as_text(value: Any) -> str:
    """A value as JSON, whatever the order of its names: what tells values apart. Raises ParameterError for no JSON."""
    try:
        return json.dumps(value, sort_keys=True)
    except TypeError:
        raise ParameterError(f"{value!r} is no number, text, list or mapping") from None
