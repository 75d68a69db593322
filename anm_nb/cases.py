"""Cases: which a sweep file means, checked as a whole before anything starts, and how each ended."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from anm_nb import files
from anm_nb.analysis import VERDICT_MIME
from anm_nb.config import ParameterError, Parameters, in_place_of_the_kernel, read_yaml, unknown_name

Values = dict[str, Any]
NOTED = "anm_nb"  # where an executed notebook's metadata says how its case ended
LONGEST = 120  # characters of a case's name; file systems allow 255 bytes, with an ending and a folder's prefix


@dataclass(frozen=True)
class Case:
    """One notebook to run: where it is, where its executed copy goes, and the parameters it is given.

    `own` are those that tell it from other cases, `values` all that it runs with, defaults included, and `digest` is of
    all that the result depends on.
    """

    notebook: Path
    output: Path = Path()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def name(self) -> str:
        """The output's name without its ending."""
        return self.output.stem


@dataclass(frozen=True)
class Outcome:
    """How a case ended, and what its notebook left."""

    name: str
    seconds: float  # with the kernel's start
    error: str | None = None  # why it failed
    digest: str = ""  # the case's
    runs: Sequence[str] = ()  # keys of the stored runs that the notebook was served
    verdicts: Sequence[Mapping[str, Any]] = ()

    @property
    def status(self) -> str:
        """`done` or `failed`."""
        return "failed" if self.error else "done"


def outcome_in(case: Case) -> Outcome | None:
    """How a case ended, by its executed notebook; None where it has not, or where anything that it depends on changed.

    A notebook that is not as it was written is none, and named on stderr.
    """
    if not case.output.exists():
        return None
    try:
        notebook = json.loads(case.output.read_bytes())
        noted = notebook["metadata"].pop(NOTED)
        if noted.pop("sha256") == digest_of([notebook, noted]):
            outcome = Outcome(case.name, **noted, verdicts=verdicts_in(notebook, kept=False))
            return outcome if outcome.digest == case.digest else None
    except (ValueError, TypeError, AttributeError, KeyError):
        pass
    print(f"anm-nb: {case.output} is not the notebook that was written; its case runs again", file=sys.stderr)
    return None


def keep(case: Case, folder: Path, failed: str = "", seconds: float = 0.0) -> Outcome:
    """Put the notebook that a case's process left in its folder into place, with how it ended.

    One that `failed` did so by the error that the notebook shows, or where it shows none by that text.
    """

    def left(name: str) -> str:
        return (folder / name).read_text("utf-8") if (folder / name).exists() else ""

    try:
        notebook = json.loads(left("notebook.ipynb"))
    except ValueError:  # there is none, or half of one
        notebook = json.loads(case.notebook.read_text("utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    raised = [f"{each['ename']}: {each['evalue']}" for each in outputs if each["output_type"] == "error"]
    noted: dict[str, Any] = {
        "error": re.sub(r"\x1b\[[\d;]*m", "", [failed, *raised][-1]) if failed else None,  # without colours
        "seconds": seconds,
        "digest": case.digest,
        "runs": sorted({key for key in left("runs").split() if not key.startswith(files.KEPT)}),
    }
    notebook["metadata"][NOTED] = noted | {"sha256": digest_of([notebook, noted])}
    files.replace_whole(case.output, json.dumps(notebook, indent=1).encode())
    return Outcome(case.name, **noted, verdicts=verdicts_in(notebook, kept=False))


def verdicts_in(notebook: Mapping[str, Any], kept: bool = True) -> list[dict[str, Any]]:
    """The judged claims in a notebook's outputs, a mapping each; with or without those of cells tagged `kept`."""
    cells = (cell for cell in notebook["cells"] if kept or "kept" not in cell["metadata"].get("tags", ()))
    shown = (output.get("data", {}).get(VERDICT_MIME, {}) for cell in cells for output in cell.get("outputs", []))
    return [dict(row) for each in shown for row in each.get("verdicts", ())]


def tally(verdicts: Iterable[Mapping[str, Any]]) -> str:
    """How many verdicts there are of each kind, such as `2 supported, 1 undecided`; empty where there are none."""
    return ", ".join(f"{count} {state}" for state, count in Counter(row["verdict"] for row in verdicts).items())


class SweepFile(Parameters):
    """What a file in `params/sweeps` may say: a notebook at many parameters.

    A case's parameters are those of `params/<profile>/<notebook>.yaml` (without a profile, the notebook's defaults),
    with `base` over them, and over that the case's own: each combination of the values in `grid`, then each mapping in
    `cases`; without either there is one case.
    """

    notebook: str  # a name in notebooks/, or the path of an .ipynb file from the sweep file's folder
    profile: str | None = None
    base: Values = Field(default_factory=dict)
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    cases: list[Values] = Field(default_factory=list)


class UnionFile(Parameters):
    """Or several of them at once, `base` over the base of each."""

    union: list[str]  # paths of other sweep files, from this one's folder
    base: Values = Field(default_factory=dict)


def open_sweep(asked: str | Path, profile: str | None = None, folder: Path | None = None) -> list[Case]:
    """The distinct cases of a sweep file, by path or name in `params/sweeps`, in its order.

    `profile` stands in for the file's own. Results go to `outputs/<sweep>` or `outputs/<sweep>-<profile>` if no folder
    is given, named by each case's own parameters. Raises `ParameterError` for what file or notebooks would not accept.
    """
    if not (path := Path(asked)).is_file():
        sweeps = files.project_root().glob("params/sweeps/*.yaml")
        path = named("sweep file", str(asked), {each.stem: each for each in sweeps})
    cases = {case.digest: case for case in _cases(path, profile, {})}.values()
    folder = (folder or files.outputs_root() / (f"{path.stem}-{profile}" if profile else path.stem)).absolute()
    several, outputs = len({case.notebook for case in cases}) > 1, dict[str, Case]()
    for case in cases:
        own = {name: re.sub(r"[^A-Za-z0-9.+-]+", "_", str(value)).strip("_") for name, value in case.own.items()}
        head = [case.notebook.stem] if several or not own else []
        name = ",".join(head + [f"{name}={value}" for name, value in own.items()])
        if len(name) > LONGEST or name in outputs:
            name = f"{name[: LONGEST - 9]}-{case.digest[:8]}"
        outputs[name] = replace(case, output=folder / f"{name}.ipynb")
    return list(outputs.values())


def named(kind: str, name: str, known: Mapping[str, Path]) -> Path:
    """What has that name. Raises `ParameterError` with the nearest name that there is."""
    if name not in known:
        raise ParameterError(unknown_name(kind, name, known))
    return known[name]


def _cases(path: Path, profile: str | None, over: Values) -> list[Case]:
    """The cases of a file, with values over its base."""
    content, root, cases = read_yaml(path), files.project_root(), list[Case]()
    try:
        if "union" in content:
            union = UnionFile(**content)
            return [case for each in union.union for case in _cases(path.parent / each, profile, union.base | over)]
        file = SweepFile(**content)
        notebook, values = (path.parent / file.notebook).resolve(), Values()
        if not notebook.is_file():
            notebook = named("notebook", file.notebook, {each.stem: each for each in root.glob("notebooks/*.ipynb")})
        if profile := profile or file.profile:
            profiles = {each.parent.name: each for each in root.glob(f"params/*/{notebook.stem}.yaml")}
            values = read_yaml(named("profile", profile, profiles))
        check, code = check_of(notebook), code_digest(notebook)
        grid = [dict(zip(file.grid, point, strict=True)) for point in product(*file.grid.values())] if file.grid else []
        for own in grid + file.cases or [{}]:
            checked = check(given := values | file.base | over | own)
            digest = digest_of([notebook.stem, checked, code])[:16]
            cases.append(Case(notebook, parameters=given, own=own, values=checked, digest=digest))
    except ParameterError as error:
        raise error.within(path.name) from None
    return cases


def check_of(notebook: Path) -> Callable[[Mapping[str, Any]], Values]:
    """A function from the values given to a notebook to all its parameters, defaults included, as plain data.

    The function raises `ParameterError` for what the notebook would refuse: it executes the cells tagged `parameters`
    and `settings` in a module of their own. Where none calls `from_notebook()`, names are held to the parameter cell's.
    """
    cells = code_cells(notebook)

    def check(values: Mapping[str, Any]) -> Values:
        module = sys.modules["notebook_settings"] = ModuleType("notebook_settings")  # where pydantic finds annotations
        names = vars(module)

        def run(tag: str) -> None:
            for source in (source for source, tags in cells if tag in tags):
                exec(compile(source, f"{notebook.name}, cell tagged {tag}", "exec"), names)

        sys.path.insert(0, str(notebook.parent))  # the kernel imports what lies beside the notebook
        try:
            run("parameters")
            defaults = {name: value for name, value in names.items() if not name.startswith("_")}
            names.update(given := defaults | dict(values))
            with in_place_of_the_kernel(given) as accepted:
                run("settings")
        except ParameterError:
            raise
        except Exception as error:
            raise ParameterError(f"{notebook.name}, settings: {type(error).__name__}: {error}") from error
        finally:
            sys.path.remove(str(notebook.parent))
        if accepted:
            return accepted[-1].model_dump(mode="json")
        if unknown := [unknown_name("parameter", name, defaults) for name in values if name not in defaults]:
            raise ParameterError("\n".join(unknown))
        return given

    return check


def code_cells(notebook: Path) -> list[tuple[str, list[str]]]:
    """Source and tags of every code cell."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return [("".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in code]


def digest_of(value: Any) -> str:
    """The SHA-256 of plain data, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def code_digest(notebook: Path) -> str:
    """A digest of a notebook's code cells, not of outputs, and of this package's sources."""
    package = Path(__file__).parent
    sources = (file for file in package.rglob("*") if file.suffix in (".py", ".yaml", ".mplstyle"))
    digests = {file.relative_to(package).as_posix(): files.sha256_of(file) for file in sources}
    return digest_of([code_cells(notebook), digests])
