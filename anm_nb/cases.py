"""The cases of a sweep file, checked as a whole before anything starts, and the outcome of each."""

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
NOTED = "anm_nb"  # the key in an executed notebook's metadata for the outcome of its case
LONGEST = 120  # characters of a case's name; file systems allow 255 bytes, including suffix and folder prefix


@dataclass(frozen=True)
class Case:
    """One notebook to run: its path, the path of its executed copy, and its parameters.

    `own` are the parameters that distinguish it from other cases, `values` all parameters including defaults, and
    `digest` is a checksum of everything that the result depends on.
    """

    notebook: Path
    output: Path = Path()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def name(self) -> str:
        """The name of the output file without its suffix."""
        return self.output.stem


@dataclass(frozen=True)
class Outcome:
    """How a case ended, and what its notebook produced."""

    name: str
    seconds: float  # including the start of the kernel
    error: str | None = None  # the reason, if it failed
    digest: str = ""  # of the case
    runs: Sequence[str] = ()  # keys of the stored runs that the notebook used
    verdicts: Sequence[Mapping[str, Any]] = ()

    @property
    def status(self) -> str:
        """`done` or `failed`."""
        return "failed" if self.error else "done"


def outcome_in(case: Case) -> Outcome | None:
    """The outcome recorded in a case's executed notebook; None if there is none or if anything it depends on changed.

    A notebook that was changed since it was written does not count; stderr names it.
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
    print(f"anm-nb: {case.output} was changed since it was written; its case runs again", file=sys.stderr)
    return None


def keep(case: Case, folder: Path, failed: str = "", seconds: float = 0.0) -> Outcome:
    """Record a case's outcome in the notebook that its process left in `folder`, and move that to its final place.

    The error of a failed case is the last one shown in the notebook, or else the text `failed`.
    """

    def text_of(name: str) -> str:
        return (folder / name).read_text("utf-8") if (folder / name).exists() else ""

    try:
        notebook = json.loads(text_of("notebook.ipynb"))
    except ValueError:  # missing or incomplete
        notebook = json.loads(case.notebook.read_text("utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    raised = [f"{each['ename']}: {each['evalue']}" for each in outputs if each["output_type"] == "error"]
    noted: dict[str, Any] = {
        "error": re.sub(r"\x1b\[[\d;]*m", "", [failed, *raised][-1]) if failed else None,  # without colour codes
        "seconds": seconds,
        "digest": case.digest,
        "runs": sorted({key for key in text_of("runs").split() if not key.startswith(files.KEPT)}),
    }
    notebook["metadata"][NOTED] = noted | {"sha256": digest_of([notebook, noted])}
    files.replace_whole(case.output, json.dumps(notebook, indent=1).encode())
    return Outcome(case.name, **noted, verdicts=verdicts_in(notebook, kept=False))


def verdicts_in(notebook: Mapping[str, Any], kept: bool = True) -> list[dict[str, Any]]:
    """The judged claims in a notebook's outputs, one mapping each, with or without those of cells tagged `kept`."""
    cells = (cell for cell in notebook["cells"] if kept or "kept" not in cell["metadata"].get("tags", ()))
    shown = (output.get("data", {}).get(VERDICT_MIME, {}) for cell in cells for output in cell.get("outputs", []))
    return [dict(row) for each in shown for row in each.get("verdicts", ())]


def tally(verdicts: Iterable[Mapping[str, Any]]) -> str:
    """Count verdicts by kind, as in `2 supported, 1 undecided`; an empty string for no verdicts."""
    return ", ".join(f"{count} {state}" for state, count in Counter(row["verdict"] for row in verdicts).items())


class SweepFile(Parameters):
    """A file in `params/sweeps`: one notebook at many parameters.

    A case starts from `params/<profile>/<notebook>.yaml` (without a profile, from the notebook's defaults). `base`
    overrides that, and the case's own parameters override `base`. The cases are all combinations of the values in
    `grid`, then the mappings in `cases`; without both there is one case.
    """

    notebook: str  # a name in notebooks/, or a path relative to the sweep file
    profile: str | None = None
    base: Values = Field(default_factory=dict)
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    cases: list[Values] = Field(default_factory=list)


class UnionFile(Parameters):
    """A file in `params/sweeps` that joins other sweep files; its `base` overrides theirs."""

    union: list[str]  # paths of sweep files, relative to this one
    base: Values = Field(default_factory=dict)


def open_sweep(file: str | Path, profile: str | None = None, folder: Path | None = None) -> list[Case]:
    """The distinct cases of a sweep file (a path, or a name in `params/sweeps`), in order.

    `profile` replaces the file's own. Results go to `folder`, by default `outputs/<sweep>` or
    `outputs/<sweep>-<profile>`, in files named by each case's own parameters. Raises `ParameterError` for anything that
    the sweep file or a notebook would refuse.
    """
    if not (path := Path(file)).is_file():
        sweeps = files.project_root().glob("params/sweeps/*.yaml")
        path = named("sweep file", str(file), {each.stem: each for each in sweeps})
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
    """The path of that name. Raises `ParameterError` with the nearest known name."""
    if name not in known:
        raise ParameterError(unknown_name(kind, name, known))
    return known[name]


def _cases(path: Path, profile: str | None, overrides: Values) -> list[Case]:
    """The cases of a file, with values that override its base."""
    content, root, cases = read_yaml(path), files.project_root(), list[Case]()
    try:
        if "union" in content:
            union = UnionFile(**content)
            base, paths = union.base | overrides, [path.parent / each for each in union.union]
            return [case for each in paths for case in _cases(each, profile, base)]
        file = SweepFile(**content)
        notebook, values = (path.parent / file.notebook).resolve(), Values()
        if not notebook.is_file():
            notebook = named("notebook", file.notebook, {each.stem: each for each in root.glob("notebooks/*.ipynb")})
        if profile := profile or file.profile:
            profiles = {each.parent.name: each for each in root.glob(f"params/*/{notebook.stem}.yaml")}
            values = read_yaml(named("profile", profile, profiles))
        check, code = check_of(notebook), _digest_of_code(notebook)
        grid = [dict(zip(file.grid, point, strict=True)) for point in product(*file.grid.values())] if file.grid else []
        for own in grid + file.cases or [{}]:
            checked = check(given := values | file.base | overrides | own)
            digest = digest_of([notebook.stem, checked, code])[:16]
            cases.append(Case(notebook, parameters=given, own=own, values=checked, digest=digest))
    except ParameterError as error:
        raise error.within(path.name) from None
    return cases


def check_of(notebook: Path) -> Callable[[Mapping[str, Any]], Values]:
    """Return a function that maps values given to a notebook to all its parameters, with defaults, as plain data.

    It executes the cells tagged `parameters` and `settings` in a new module and raises `ParameterError` for values that
    the notebook would refuse. If no cell calls `from_notebook()`, only names in the parameter cell are allowed.
    """
    cells = code_cells(notebook)
    source = {tag: "\n".join(text for text, tags in cells if tag in tags) for tag in ("parameters", "settings")}

    def check(values: Mapping[str, Any]) -> Values:
        module = sys.modules["notebook_settings"] = ModuleType("notebook_settings")  # pydantic reads annotations there
        names = vars(module)
        sys.path.insert(0, str(notebook.parent))  # as in the kernel, for modules beside the notebook
        try:
            exec(compile(source["parameters"], f"{notebook.name}, parameters", "exec"), names)
            defaults = {name: value for name, value in names.items() if not name.startswith("_")}
            names.update(given := defaults | dict(values))
            with in_place_of_the_kernel(given) as accepted:
                exec(compile(source["settings"], f"{notebook.name}, settings", "exec"), names)
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
    """Source and tags of each code cell."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return [("".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in code]


def digest_of(value: Any) -> str:
    """The SHA-256 of plain data, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _digest_of_code(notebook: Path) -> str:
    """A digest of a notebook's code cells, without outputs, and of this package's sources."""
    package = Path(__file__).parent
    sources = (file for file in package.rglob("*") if file.suffix in (".py", ".yaml", ".mplstyle"))
    digests = {file.relative_to(package).as_posix(): files.sha256_of(file) for file in sources}
    return digest_of([code_cells(notebook), digests])
