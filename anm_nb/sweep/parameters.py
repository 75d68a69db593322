"""A notebook's parameters: what they may be, what cases at several of them are called, and the code they go to."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import TYPE_CHECKING, Any

import anm_nb
from anm_nb.config import ParameterError, Parameters, in_place_of_the_kernel, unknown_name

if TYPE_CHECKING:
    from anm_nb.sweep.case import Case

LONGEST = 120  # characters of a case's name; file systems allow 255 bytes, with an ending and a folder's prefix
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.+=,_-]+")
ABOVE_THE_NOTEBOOKS = ("sweep/", "cli.py", "gallery/", "terminal.py")  # what no notebook's result depends on


def as_text(value: Any) -> str:
    """A value as JSON, whatever the order of its names: what tells values apart. Raises ParameterError for no JSON."""
    try:
        return json.dumps(value, sort_keys=True)
    except TypeError:
        raise ParameterError(f"{value!r} is no number, text, list or mapping") from None


def check_of(notebook: Path) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function from the values given to a notebook to all its parameters, defaults included, as plain data.

    The function raises `ParameterError` for what the notebook would refuse: it executes the notebook's cell tagged
    `settings`, which calls `from_notebook()`. A notebook without one is held to its parameter cell's names and the
    types of their values.
    """
    tagged = [(number, source) for number, (source, tags) in enumerate(_code_cells(notebook), 1) if "settings" in tags]
    if tagged:
        return _check_by_cell(notebook, *tagged[0])
    settings = settings_class(notebook)
    if settings is not None:
        return lambda values: settings.from_mapping(values).model_dump(mode="json")
    defaults = _defaults(notebook)
    known = {name: None if value is ... else value for name, value in defaults.items()}
    return lambda values: known | _like(known, values)


def _check_by_cell(notebook: Path, number: int, source: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A check by executing a notebook's settings cell, in a module of its own, for each case.

    What the cell raises, `ParameterError` aside, becomes one that names the notebook and the cell.
    """
    place = f"{notebook.name}, code cell {number} (settings)"
    defaults = {
        name: value for name, value in _defaults(notebook).items() if value is not ... and not name.startswith("_")
    }
    try:
        code = compile(source, place, "exec")
    except SyntaxError as error:
        raise ParameterError(f"{place}, line {error.lineno}: {error.msg}") from None

    def check(values: Mapping[str, Any]) -> dict[str, Any]:
        given = defaults | dict(values)
        module = ModuleType("notebook_settings")  # where pydantic looks up annotations that are text
        module.__dict__.update(given)
        sys.modules[module.__name__] = module
        sys.path.insert(0, str(notebook.parent))  # the kernel imports what lies beside the notebook
        try:
            with in_place_of_the_kernel(given) as checked, redirect_stdout(StringIO()):
                exec(code, module.__dict__)
        except ParameterError:
            raise
        except Exception as error:
            lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == place]
            said = f"{type(error).__name__}: {error}"
            raise ParameterError(f"{place}, line {lines[-1] if lines else 1}: {said}") from error
        finally:
            sys.path.remove(str(notebook.parent))
            del sys.modules[module.__name__]
        if not checked:
            raise ParameterError(f"{place}: does not call from_notebook()")
        return checked[-1].model_dump(mode="json")

    return check


def _defaults(notebook: Path) -> dict[str, Any]:
    """What the assignments of the notebook's parameter cell give; `...` for what takes more than that cell."""
    from IPython.core.inputtransformer2 import TransformerManager

    defaults: dict[str, Any] = {}
    for source, tags in _code_cells(notebook):
        try:
            statements = ast.parse(TransformerManager().transform_cell(source)).body if "parameters" in tags else []
        except SyntaxError:
            continue
        for statement in statements:
            if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
                try:
                    exec(compile(ast.Module([statement], []), str(notebook), "exec"), defaults)
                except Exception:
                    stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
                    defaults |= {node.id: ... for node in stored if isinstance(node.ctx, ast.Store)}
    defaults.pop("__builtins__", None)
    return defaults


def settings_class(notebook: Path) -> type[Parameters] | None:
    """The class that checks the notebook's parameters, imported from where the notebook imports it, or None."""
    modules: dict[str, tuple[str, str]] = {}
    for node in _syntax(notebook):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        if isinstance(node, ast.Attribute) and node.attr == "from_notebook" and isinstance(node.value, ast.Name):
            if node.value.id not in modules:
                return None
            module, name = modules[node.value.id]
            sys.path.insert(0, str(notebook.parent))  # it may be a module beside the notebook
            try:
                return getattr(import_module(module), name)
            finally:
                sys.path.remove(str(notebook.parent))
    return None


def _syntax(notebook: Path) -> Iterator[ast.AST]:
    """The syntax of the code cells, statement by statement; none of a cell with a magic."""
    for source, _ in _code_cells(notebook):
        try:
            statements = ast.parse(source).body
        except SyntaxError:
            continue
        for statement in statements:
            yield from ast.walk(statement)


def _code_cells(notebook: Path) -> list[tuple[str, list[str]]]:
    """Source and tags of every code cell."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [
        ("".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in cells if cell["cell_type"] == "code"
    ]


def _like(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, each of a name among the defaults and of its default's type."""
    problems = []
    for name, value in values.items():
        default = defaults.get(name)
        kinds = {float: (float, int), tuple: (tuple, list)}.get(type(default), (type(default),))
        if name not in defaults:
            problems.append(unknown_name("parameter", name, defaults))
        elif not (default is None or value is None or type(value) in kinds):
            problems.append(f"{name} = {value!r}: should be of type {type(default).__name__}, as {default!r} is")
    if problems:
        raise ParameterError("\n".join(problems))
    return dict(values)


# what a finished case depends on: when none of it has changed, the case need not run again


def source_digest(above: tuple[str, ...] = ()) -> str:
    """A digest of this package's sources, but of those whose names begin as one of `above`."""
    package, digest = Path(anm_nb.__file__).parent, hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        if not (above and (name.startswith(above) or name.endswith("_command.py"))):
            digest.update(f"{name}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def code_digest(notebook: Path) -> str:
    """A digest of the code that a notebook runs: its cells, and every source of this package that it may build on."""
    code = as_text([_code_cells(notebook), source_digest(ABOVE_THE_NOTEBOOKS)])
    return hashlib.sha256(code.encode()).hexdigest()


def case_digest(case: Case, code: str) -> str:
    """16 hexadecimal digits over a case's notebook, its parameters and `code_digest`; not over outputs."""
    return hashlib.sha256(as_text([case.notebook.stem, case.values, code]).encode()).hexdigest()[:16]


# what cases are called: by what they differ in


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
            digest = hashlib.sha256(as_text([str(case.notebook), case.values]).encode()).hexdigest()[:8]
            names[place] = f"{name[: LONGEST - 9]}-{digest}"
    return names


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_plain, value))
    if isinstance(value, Mapping):
        return "-".join(f"{name}.{_plain(each)}" for name, each in value.items())
    return format(value, ".10g") if isinstance(value, float) else str(value)
