"""Sweep files: which cases one means, checked as a whole before anything starts, and the code that they depend on."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from anm_nb import files, store
from anm_nb.bounds import Seeds
from anm_nb.config import ParameterError, Parameters, read_yaml, shown, stands_for, unknown_name
from anm_nb.sweep.notebook import as_text, check_of, code_digest, sha256_text

Values = dict[str, Any]
MOST_CASES = 10_000  # of a sweep file, each checked before the first one runs
LONGEST = 120  # characters of a case's name; file systems allow 255 bytes, with an ending and a folder's prefix
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.+=,_-]+")
OTHERS_FOLDERS = ("check", "figures", "quick", "reference", "runs")  # in outputs/


@dataclass(frozen=True)
class Case:
    """One notebook to run: where it is, where its executed copy goes, and the parameters it is given.

    `values` are all parameters that it runs with, defaults included, where they are known. `digest` is of all that the
    result depends on; `code` is the part of it (`code_digest`) that must still hold when the case has run.
    """

    notebook: Path
    output: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = None
    code: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)  # over the environment that it runs in

    @property
    def name(self) -> str:
        """The output's name without its ending."""
        return self.output.name.removesuffix(".ipynb")


class SweepFile(Parameters):
    """What a file in `params/sweeps` may say: one notebook at many parameters, or the union of such files.

    A case's parameters are those of `params/<profile>/<notebook>.yaml` (without a profile, the notebook's defaults),
    with `base` over them, `seeds` over that, and last the case's own: each combination of the values in `grid`, then
    each mapping in `cases`; without either there is one case. Every case is given all `seeds`, since verdicts need them
    together; for a case for each seed, vary it: `grid: {seeds: [[0], [1], [2]]}`. In a union `base` is over the base of
    each of its files.
    """

    notebook: str | None = None  # a name in notebooks/, or the path of an .ipynb file from the sweep file's folder
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
            raise ParameterError(f"only base may stand beside union; move {', '.join(beside)} into the files it names")
        if self.union is None and self.notebook is None:
            raise ParameterError("a sweep needs a notebook, or a union of sweep files")
        for name, values in (self.grid or {}).items():
            if not values:
                raise ParameterError(f"grid.{name} = []: needs at least 1 item")
            counts = Counter(map(as_text, values))
            if repeated := [value for value in values if counts[as_text(value)] > 1]:
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
class Sweep:
    """The distinct cases of a sweep file, in its order; how many more of its cases equal one of them; their folder."""

    cases: list[Case]
    folded: int = 0
    folder: Path = Path()

    def only(self, asked: Sequence[str]) -> list[Case]:
        """The cases whose parameters have the values asked for by `name=value`; a name given twice may have either.

        `notebook` is a name too. Raises `ParameterError` for a name that no case has, and where no case is left.
        """
        wanted = defaultdict(list)
        for condition in asked:
            name, equals, value = condition.partition("=")
            if not equals:
                raise ParameterError(f"--only {condition}: write NAME=VALUE")
            wanted[name].append(value)
        values = [{"notebook": case.notebook.stem, **case.values} for case in self.cases]
        known = {name for each in values for name in each}
        for name in wanted.keys() - known:
            raise ParameterError(unknown_name("parameter in --only", name, known))
        chosen = [
            case
            for case, each in zip(self.cases, values, strict=True)
            if all(name in each and any(stands_for(t, each[name]) for t in texts) for name, texts in wanted.items())
        ]
        if not chosen:
            raise ParameterError(f"--only {' --only '.join(asked)}: fits none of the {len(self.cases)} cases")
        return chosen


def open_sweep(asked: str, profile: str | None = None, folder: Path | None = None) -> Sweep:
    """The sweep of a file, by path or name in `params/sweeps`, checked, with its folder and its cases' digests.

    The folder is `outputs/<sweep>` if none is given; another profile than the file's own has one of its own,
    `outputs/<sweep>-<profile>`. Raises `ParameterError` as `plan` and `check_folder` do.
    """
    file = _find(asked)
    sweep = plan(file, profile)
    if folder is None:
        if file.stem.startswith(".") or file.stem in OTHERS_FOLDERS:
            raise ParameterError(f"{file}: outputs/{file.stem} is not a sweep's; rename the file, or choose --out")
        folder = files.outputs_root() / (f"{file.stem}-{profile}" if profile else file.stem)
    folder = Path(os.path.abspath(folder))
    notebooks = {case.notebook for case in sweep.cases}
    check_folder(folder, notebooks)
    codes = {notebook: code_digest(notebook) for notebook in notebooks}
    cases = []
    for name, case in zip(case_names(sweep.cases), sweep.cases, strict=True):
        code = codes[case.notebook]
        digest = sha256_text(as_text([case.notebook.stem, case.values, code]))[:16]
        cases.append(replace(case, output=folder / f"{name}.ipynb", digest=digest, code=code))
    return Sweep(cases, sweep.folded, folder)


def _find(asked: str) -> Path:
    named = files.project_root() / "params" / "sweeps" / f"{asked}.yaml" if not Path(asked).is_file() else Path(asked)
    if not named.is_file():
        raise ParameterError(unknown_name("sweep file", asked, (file.stem for file in named.parent.glob("*.yaml"))))
    return named


def check_folder(folder: Path, notebooks: Iterable[Path]) -> None:
    """Raise `ParameterError` for a folder of results that holds the notebooks themselves or is in the run store."""
    where = folder.resolve()
    if any(where == notebook.resolve().parent for notebook in notebooks):
        raise ParameterError(f"--out {folder} holds the notebooks themselves; choose another folder")
    if where.is_relative_to(store.store_root()):
        raise ParameterError(f"--out {folder} is the run store's; choose another folder")


def plan(path: Path, profile: str | None = None) -> Sweep:
    """The cases of a sweep file, without a folder, at another profile than its own where one is given.

    Raises `ParameterError`, with a line for each problem, for all that the file or its notebooks would not accept.
    """
    file = _read(path)
    members = [path] if file.union is None else [path.parent / member for member in file.union]
    every = [case for member in members for case in _cases(member, profile, file.base if file.union else {})]
    distinct: dict[str, Case] = {}
    for case in every:
        distinct.setdefault(as_text([str(case.notebook.resolve()), case.values]), case)
    return Sweep(list(distinct.values()), len(every) - len(distinct))


def _cases(path: Path, profile: str | None, over: Values) -> list[Case]:
    """The cases of a file that is no union, with values over its base."""
    file = _read(path)
    if file.notebook is None:
        raise ParameterError(f"{path.name}: a union of unions; name the sweeps themselves")
    notebook = _notebook(file.notebook, path)
    named = profile or file.profile
    shared = (profile_values(named, notebook.stem) if named else {}) | file.base | over
    if file.seeds is not None:
        shared |= {"seeds": list(file.seeds)}
    check, own_parameters = check_of(notebook), list(file.own_parameters())
    cases, problems = [], defaultdict(list)
    for own in own_parameters:
        given = shared | own
        try:
            cases.append(Case(notebook, Path(), given, json.loads(as_text(check(given)))))
        except ParameterError as error:
            for line in str(error).split("\n"):
                problems[line].append(own)
    lines = []
    for line, affected in problems.items():
        first = ", ".join(f"{name} = {value}" for name, value in affected[0].items())
        some = len(affected) < len(own_parameters)
        where = f" (in {len(affected)} of {len(own_parameters)} cases; the first: {first})" if some else ""
        lines.append(f"{path.name}: {line}{where}")
    if lines:
        raise ParameterError("\n".join(lines))
    return cases


def _read(path: Path) -> SweepFile:
    content = read_yaml(path)
    try:
        return SweepFile(**content)
    except ParameterError as error:
        raise error.within(path.name) from None


def _notebook(named: str, file: Path) -> Path:
    if named.endswith(".ipynb"):
        if not (path := file.parent / named).is_file():
            raise ParameterError(f"{file.name}: notebook = '{named}': {path} does not exist")
        return path
    known = {path.stem: path for path in (files.project_root() / "notebooks").glob("*.ipynb")}
    if named not in known:
        raise ParameterError(f"{file.name}: {unknown_name('notebook', named, known)}")
    return known[named]


def profile_values(profile: str, notebook: str) -> Values:
    """A notebook's parameters at a profile of `params/`. Raises `ParameterError` where it has none of that name."""
    params = files.project_root() / "params"
    profiles = {path.parent.name: path for path in params.glob(f"*/{notebook}.yaml")}
    if profile not in profiles:
        raise ParameterError(f"{notebook}: {unknown_name('profile', profile, profiles)}")
    return read_yaml(profiles[profile])


def differing(cases: Sequence[Case]) -> list[str]:
    """The parameters whose values are not the same in all cases of one of the notebooks, in their notebook's order."""
    names: dict[str, None] = {}
    for notebook in dict.fromkeys(case.notebook for case in cases):
        of_notebook = [case.values for case in cases if case.notebook == notebook]
        for name in dict.fromkeys(name for values in of_notebook for name in values):
            if len({as_text(values.get(name)) for values in of_notebook}) > 1:
                names[name] = None
    return list(names)


def case_names(cases: Sequence[Case]) -> list[str]:
    """A name for each case, good as a file name: its notebook where there are several, and what differs in its cases.

    `size=5,strategies=stock-anm`; too long a name, or one that two cases would share, ends in a digest of them.
    """
    notebooks = {case.notebook for case in cases}
    varied = {notebook: differing([case for case in cases if case.notebook == notebook]) for notebook in notebooks}
    names = []
    for case in cases:
        parts = [f"{name}={_plain(case.values.get(name))}" for name in varied[case.notebook]]
        head = [case.notebook.stem] if len(notebooks) > 1 or not parts else []
        names.append(NOT_IN_NAMES.sub("_", ",".join(head + parts)))
    shared = Counter(name.casefold() for name in names)  # some file systems do not tell A from a
    for place, (name, case) in enumerate(zip(names, cases, strict=True)):
        if len(name) > LONGEST or shared[name.casefold()] > 1:
            names[place] = f"{name[: LONGEST - 9]}-{sha256_text(as_text([str(case.notebook), case.values]))[:8]}"
    return names


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_plain, value))
    if isinstance(value, Mapping):
        return "-".join(f"{name}.{_plain(each)}" for name, each in value.items())
    return format(value, ".10g") if isinstance(value, float) else str(value)
