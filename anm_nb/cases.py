"""Sweep files: which cases one means, checked as a whole before anything starts, and the code that they depend on."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from itertools import product
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field, model_validator

from anm_nb import files
from anm_nb.config import ParameterError, Parameters, in_place_of_the_kernel, read_yaml, unknown_name

Values = dict[str, Any]
LONGEST = 120  # characters of a case's name; file systems allow 255 bytes, with an ending and a folder's prefix


@dataclass(frozen=True)
class Case:
    """One notebook to run: where it is, where its executed copy goes, and the parameters it is given.

    `values` are all parameters that it runs with, defaults included. `digest` is of all that the result depends on,
    `code` of the part of it (`code_digest`) that must still hold when the case has run; `env` is over the environment.
    """

    notebook: Path
    output: Path = Path()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = None
    code: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The output's name without its ending."""
        return self.output.name.removesuffix(".ipynb")


class SweepFile(Parameters):
    """What a file in `params/sweeps` may say: one notebook at many parameters, or the union of such files.

    A case's parameters are those of `params/<profile>/<notebook>.yaml` (without a profile, the notebook's defaults),
    with `base` over them, and over that the case's own: each combination of the values in `grid`, then each mapping in
    `cases`; without either there is one case. In a union `base` is over the base of each of its files.
    """

    notebook: str | None = None  # a name in notebooks/, or the path of an .ipynb file from the sweep file's folder
    profile: str | None = None
    base: Values = Field(default_factory=dict)
    grid: Annotated[dict[str, list[Any]], Field(min_length=1)] | None = None
    cases: Annotated[list[Values], Field(min_length=1)] | None = None
    union: Annotated[list[str], Field(min_length=1)] | None = None  # paths of other sweep files, from this one's folder

    @model_validator(mode="after")
    def _says_one_thing(self) -> SweepFile:
        beside = sorted(self.model_fields_set - {"union", "base"})
        if self.union is not None and beside:
            raise ParameterError(f"only base may stand beside union; move {', '.join(beside)} into the files it names")
        if self.union is None and self.notebook is None:
            raise ParameterError("a sweep needs a notebook, or a union of sweep files")
        if not 0 < (count := math.prod(map(len, (self.grid or {}).values()))) <= 10_000:
            raise ParameterError(f"grid: {count:,} cases; from 1 to 10,000 in one sweep")
        return self

    def own_values(self) -> list[Values]:
        """What each case sets beyond the base."""
        grid = [dict(zip(self.grid, point, strict=True)) for point in product(*self.grid.values())] if self.grid else []
        return grid + (self.cases or []) or [{}]


def open_sweep(asked: str | Path, profile: str | None = None, folder: Path | None = None) -> list[Case]:
    """The distinct cases of a sweep file, by path or name in `params/sweeps`, in its order, with names and digests.

    `profile` stands in for the file's own. Results go to `outputs/<sweep>` or `outputs/<sweep>-<profile>` if no folder
    is given. Raises `ParameterError`, with a line for each problem, for all that file or notebooks would not accept.
    """
    path = Path(asked) if Path(asked).is_file() else files.project_root() / "params" / "sweeps" / f"{asked}.yaml"
    if not path.is_file():
        raise ParameterError(unknown_name("sweep file", str(asked), (each.stem for each in path.parent.glob("*.yaml"))))
    file, found = _read(path), dict[str, Case]()
    for member in file.union or [path.name]:
        for case in _cases(path.parent / member, profile, file.base if file.union else {}):
            found.setdefault(digest_of([str(case.notebook.resolve()), case.values]), case)
    cases = list(found.values())
    folder = (folder or files.outputs_root() / (f"{path.stem}-{profile}" if profile else path.stem)).absolute()
    check_folder(folder, (case.notebook for case in cases))
    codes = {notebook: code_digest(notebook) for notebook in {case.notebook for case in cases}}
    for place, (case, name) in enumerate(zip(cases, case_names(cases), strict=True)):
        code = codes[case.notebook]
        digest = digest_of([case.notebook.stem, case.values, code])[:16]
        cases[place] = replace(case, output=folder / f"{name}.ipynb", digest=digest, code=code)
    return cases


def check_folder(folder: Path, notebooks: Iterable[Path]) -> None:
    """Raise `ParameterError` for a folder of results that holds the notebooks themselves."""
    if folder.resolve() in {notebook.resolve().parent for notebook in notebooks}:
        raise ParameterError(f"--out {folder} holds the notebooks themselves; choose another folder")


@contextmanager
def _within(place: str) -> Iterator[None]:
    """Name the place in the problems that arise there."""
    try:
        yield
    except ParameterError as error:
        raise error.within(place) from None


def _read(path: Path) -> SweepFile:
    content = read_yaml(path)
    with _within(path.name):
        return SweepFile(**content)


def _cases(path: Path, profile: str | None, over: Values) -> list[Case]:
    """The cases of a file that is no union, with values over its base."""
    file, root, shared, cases = _read(path), files.project_root(), dict[str, Any](), []
    with _within(path.name):
        if file.notebook is None:
            raise ParameterError("a union of unions; name the sweeps themselves")
        notebooks = {each.stem: each for each in (root / "notebooks").glob("*.ipynb")}
        notebook = path.parent / file.notebook if file.notebook.endswith(".ipynb") else notebooks.get(file.notebook)
        if notebook is None or not notebook.is_file():
            raise ParameterError(unknown_name("notebook", file.notebook, notebooks))
        if named := profile or file.profile:
            profiles = {each.parent.name: each for each in (root / "params").glob(f"*/{notebook.stem}.yaml")}
            if named not in profiles:
                raise ParameterError(f"{notebook.stem}: {unknown_name('profile', named, profiles)}")
            shared = read_yaml(profiles[named])
    shared, check = shared | file.base | over, check_of(notebook)
    for own in file.own_values():
        with _within(f"{path.name}, case {own}" if own else path.name):
            cases.append(Case(notebook, parameters=shared | own, values=check(shared | own)))
    return cases


def differing(cases: Sequence[Case]) -> list[str]:
    """The parameters whose values are not the same in all cases of one of the notebooks, in their notebook's order."""
    seen: dict[tuple[Path, str], set[str]] = defaultdict(set)
    for case in cases:
        for name, value in case.values.items():
            seen[case.notebook, name].add(repr(value))
    return list(dict.fromkeys(name for (_, name), values in seen.items() if len(values) > 1))


def case_names(cases: Sequence[Case]) -> list[str]:
    """A name for each case, good as a file name: its notebook where there are several, and what differs in its cases.

    `size=5,strategies=stock_anm`; too long a name, or one that two cases would share, ends in a digest of them.
    """
    notebooks = {case.notebook for case in cases}
    varied = {notebook: differing([case for case in cases if case.notebook == notebook]) for notebook in notebooks}
    names = []
    for case in cases:
        head = [case.notebook.stem] if len(notebooks) > 1 or not varied[case.notebook] else []
        plain = {name: re.sub(r"[^A-Za-z0-9.+-]+", "_", str(case.values.get(name))) for name in varied[case.notebook]}
        names.append(",".join(head + [f"{name}={value.strip('_')}" for name, value in plain.items()]))
    shared = Counter(name.casefold() for name in names)  # some file systems do not tell A from a
    for place, (name, case) in enumerate(zip(names, cases, strict=True)):
        if len(name) > LONGEST or shared[name.casefold()] > 1:
            names[place] = f"{name[: LONGEST - 9]}-{digest_of([str(case.notebook), case.values])[:8]}"
    return names


def check_of(notebook: Path) -> Callable[[Mapping[str, Any]], Values]:
    """A function from the values given to a notebook to all its parameters, defaults included, as plain data.

    The function raises `ParameterError` for what the notebook would refuse: it executes the notebook's cells tagged
    `settings`, the first of which calls `from_notebook()`, in a module of their own. A notebook without any is held to
    the names in its parameter cell.
    """
    cells: dict[str, list[tuple[str, str]]] = {"parameters": [], "settings": []}  # place and source, by tag
    for number, (source, tags) in enumerate(code_cells(notebook), 1):
        for tag in cells.keys() & tags:
            cells[tag].append((f"{notebook.name}, code cell {number} ({tag})", source))
    names: Values = {}
    for place, source in cells["parameters"]:
        _execute(re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE), place, names)  # without magics
    defaults = {name: value for name, value in names.items() if not name.startswith("_")}

    def check(values: Mapping[str, Any]) -> Values:
        given = defaults | dict(values)
        if not cells["settings"]:
            if unknown := [unknown_name("parameter", name, defaults) for name in values if name not in defaults]:
                raise ParameterError("\n".join(unknown))
            return given
        module = sys.modules["notebook_settings"] = ModuleType("notebook_settings")  # where pydantic finds annotations
        module.__dict__.update(given)
        sys.path.insert(0, str(notebook.parent))  # the kernel imports what lies beside the notebook
        try:
            with in_place_of_the_kernel(given) as checked:
                for place, source in cells["settings"]:
                    _execute(source, place, module.__dict__)
        finally:
            sys.path.remove(str(notebook.parent))
        if not checked:
            raise ParameterError(f"{cells['settings'][0][0]}: does not call from_notebook()")
        return checked[-1].model_dump(mode="json")

    return check


def _execute(source: str, place: str, names: Values) -> None:
    """Execute a cell's source; what it raises, `ParameterError` aside, becomes one that names the cell and the line."""
    try:
        with redirect_stdout(StringIO()):
            exec(compile(source, place, "exec"), names)
    except ParameterError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == place]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1]
        raise ParameterError(f"{place}, line {line}: {type(error).__name__}: {error}") from error


def code_cells(notebook: Path) -> list[tuple[str, list[str]]]:
    """Source and tags of every code cell."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return [("".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in code]


def digest_of(value: Any) -> str:
    """The SHA-256 of plain data, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def package_digest() -> str:
    """A digest of this package's sources."""
    package = Path(__file__).parent
    sources = (file for file in package.rglob("*") if file.suffix in (".py", ".yaml", ".mplstyle"))
    return digest_of({file.relative_to(package).as_posix(): files.sha256_of(file) for file in sources})


def code_digest(notebook: Path) -> str:
    """A digest of a notebook's code cells, not of outputs, and of this package's sources."""
    return digest_of([code_cells(notebook), package_digest()])
