"""What a notebook accepts as parameters, by its settings cell executed for each case, and a digest of its code."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

import anm_nb
from anm_nb.config import ParameterError, Parameters, in_place_of_the_kernel, unknown_name


def check_of(notebook: Path) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function from the values given to a notebook to all its parameters, defaults included, as plain data.

    The function raises `ParameterError` for what the notebook would refuse: it executes the notebook's cell tagged
    `settings`, which calls `from_notebook()`. A notebook without one is held to its parameter cell's names and the
    types of their values.
    """
    tagged = [(number, source) for number, (source, tags) in enumerate(code_cells(notebook), 1) if "settings" in tags]
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
        path = list(sys.path)
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
            sys.path[:] = path
            del sys.modules[module.__name__]
        if not checked:
            raise ParameterError(f"{place}: does not call from_notebook()")
        return checked[-1].model_dump(mode="json")

    return check


def _defaults(notebook: Path) -> dict[str, Any]:
    """What the assignments of the notebook's parameter cell give; `...` for what takes more than that cell."""
    from IPython.core.inputtransformer2 import TransformerManager

    defaults: dict[str, Any] = {}
    for source, tags in code_cells(notebook):
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
    """The class that checks the parameters of a notebook without a settings cell, where it imports one; else None."""
    source = "\n".join(source for source, _ in code_cells(notebook) if "from_notebook" in source or "import" in source)
    called = re.search(r"(\w+)\.from_notebook\(", source)
    found = called and re.search(rf"from ([\w.]+) import .*\b{called[1]}\b", source)
    if not (called and found):
        return None
    sys.path.insert(0, str(notebook.parent))  # it may be a module beside the notebook
    try:
        return getattr(import_module(found[1]), called[1])
    finally:
        sys.path.remove(str(notebook.parent))


def code_cells(notebook: Path) -> list[tuple[str, list[str]]]:
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


def as_text(value: Any) -> str:
    """A value as JSON, with sorted names, by which values are told apart. Raises `ParameterError` for no JSON."""
    try:
        return json.dumps(value, sort_keys=True)
    except TypeError:
        raise ParameterError(f"{value!r} is no number, text, list or mapping") from None


def sha256_text(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def source_digest() -> str:
    """A digest of this package's sources."""
    package, digest = Path(anm_nb.__file__).parent, hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def code_digest(notebook: Path) -> str:
    """A digest of a notebook's code cells, not of outputs, and of this package's sources."""
    return sha256_text(as_text([code_cells(notebook), source_digest()]))
