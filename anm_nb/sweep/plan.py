"""Sweep files: which cases one means, checked as a whole before anything starts, and which of them are finished."""

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from anm_nb import files, store
from anm_nb.bounds import Seeds
from anm_nb.config import ParameterError, Parameters, shown, unknown_name
from anm_nb.sweep.case import Case, Outcome, read_outcomes
from anm_nb.sweep.parameters import as_text, case_digest, case_names, check_of, code_digest
from anm_nb.yaml_file import read_yaml, stands_for

Values = dict[str, Any]
MOST_CASES = 10_000  # of a sweep file, each checked before the first one runs
OTHERS_FOLDERS = ("check", "figures", "quick", "reference", "runs")  # in outputs/


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
            raise ParameterError(
                f"only base may stand beside union; {', '.join(beside)} belongs into the files it names"
            )
        if self.union is None and self.notebook is None:
            raise ParameterError("a sweep needs a notebook, or a union of sweep files")
        for name, values in (self.grid or {}).items():
            if not values:
                raise ParameterError(f"grid.{name} = []: needs at least 1 item")
            counts = Counter(map(as_text, values))
            repeated = [value for value in values if counts[as_text(value)] > 1]
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


@dataclass
class Sweep:
    """The distinct cases of a sweep file, in its order, and how many more it says that are the same as one of them.

    `outcomes` are those stored in the folder that still hold: of the same parameters, notebook, sources and result;
    `problems` has a sentence for each outcome, or executed notebook, that is not as it was written.
    """

    cases: list[Case]
    folded: int
    folder: Path = Path()
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Look at what is stored in the folder now."""
        found, self.problems = read_outcomes(self.folder)
        stored = {outcome.name: outcome for outcome in found}
        self.outcomes = {}
        for case in self.cases:
            outcome = stored.get(case.name)
            if outcome is None or outcome.digest != case.digest:
                continue
            if outcome.notebook == (files.sha256_of(case.output) if case.output.is_file() else None):
                self.outcomes[case.name] = outcome
            else:
                self.problems.append(f"{case.output} is not the notebook that was written")

    def status(self, case: Case) -> Literal["done", "failed", "new"]:
        """How a case ended, if it did as it is now."""
        return self.outcomes[case.name].status if case.name in self.outcomes else "new"

    def only(self, asked: Sequence[str]) -> list[Case]:
        """The cases whose parameters have the values asked for by `name=value`; a name given twice may have either.

        `notebook` is a name too. Raises ParameterError for a name that no case has, and where no case is left.
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
            raise ParameterError(f"--only {' --only '.join(asked)}: none of the {len(self.cases)} cases is like that")
        return chosen


def find_sweep(asked: str) -> Path:
    """A sweep file by its path, or by its name in `params/sweeps`. Raises ParameterError where there is none."""
    if (path := Path(asked)).is_file():
        return path
    folder = files.project_root() / "params" / "sweeps"
    if (named := folder / f"{asked}.yaml").is_file():
        return named
    raise ParameterError(unknown_name("sweep file", asked, (file.stem for file in folder.glob("*.yaml"))))


def open_sweep(file: Path, profile: str | None = None, folder: Path | None = None) -> Sweep:
    """The sweep of a file, checked, with its results in a folder: `outputs/<sweep>` if none is given.

    Another profile than the file's own has a folder of its own, `outputs/<sweep>-<profile>`, so that a quick look costs
    nobody a long result. Raises ParameterError as `plan` and `check_folder` do.
    """
    sweep = plan(file, profile)
    if folder is None:
        if file.stem.startswith(".") or file.stem in OTHERS_FOLDERS:
            raise ParameterError(
                f"{file}: a sweep of the name '{file.stem}' would write into outputs/{file.stem}, which is not "
                "its to fill; give the file another name, or the results a folder with --out"
            )
        folder = files.outputs_root() / (f"{file.stem}-{profile}" if profile else file.stem)
    sweep.folder = Path(os.path.abspath(folder))
    check_folder(sweep.folder, {case.notebook for case in sweep.cases})
    codes = {notebook: code_digest(notebook) for notebook in {case.notebook for case in sweep.cases}}
    sweep.cases = [
        replace(case, output=sweep.folder / f"{name}.ipynb", digest=case_digest(case, code), code=code)
        for name, case in zip(case_names(sweep.cases), sweep.cases, strict=True)
        for code in [codes[case.notebook]]
    ]
    sweep.read()
    return sweep


def check_folder(folder: Path, notebooks: Iterable[Path]) -> None:
    """Refuse, by ParameterError, a folder of results that holds the notebooks themselves or lies in the run store."""
    where = folder.resolve()
    if any(where == notebook.resolve().parent for notebook in notebooks):
        raise ParameterError(f"--out {folder} holds the notebooks themselves; choose another folder")
    if where.is_relative_to(store.store_root()):
        raise ParameterError(f"--out {folder} is the run store's; choose another folder")


def plan(path: Path, profile: str | None = None) -> Sweep:
    """The cases of a sweep file, without a folder, at another profile than its own where one is given.

    Raises ParameterError, with a line for each problem, for all that the file or its notebooks would not accept.
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
    check = check_of(notebook)
    own_parameters = list(file.own_parameters())
    cases, problems = [], defaultdict(list)
    for own in own_parameters:
        given = shared | own
        try:
            cases.append(Case(notebook, Path(), given, json.loads(as_text(check(given)))))
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
        if not (path := file.parent / named).is_file():
            raise ParameterError(f"{file.name}: notebook = '{named}': {path} does not exist")
        return path
    known = {path.stem: path for path in (files.project_root() / "notebooks").glob("*.ipynb")}
    if named not in known:
        raise ParameterError(f"{file.name}: {unknown_name('notebook', named, known)}")
    return known[named]


def profile_values(profile: str, notebook: str) -> Values:
    """A notebook's parameters at a profile of `params/`. Raises ParameterError where it has none of that name."""
    params = files.project_root() / "params"
    profiles = {path.parent.name: path for path in params.glob(f"*/{notebook}.yaml")}
    if profile not in profiles:
        raise ParameterError(f"{notebook}: {unknown_name('profile', profile, profiles)}")
    return read_yaml(profiles[profile])
