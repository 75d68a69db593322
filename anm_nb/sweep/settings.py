"""What a notebook's parameters may be: its own settings class where it has one, else its parameter cell."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from anm_nb.config import ParameterError, Parameters, unknown_name

Check = Callable[[Mapping[str, Any]], dict[str, Any]]


def code_cells(notebook: Path) -> list[tuple[str, list[str]]]:
    """Source and tags of every code cell."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [
        ("".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in cells if cell["cell_type"] == "code"
    ]


def check_of(notebook: Path) -> Check:
    """A function from the values given to a notebook to all its parameters, defaults included, as plain data.

    The function raises `ParameterError` for what the notebook would refuse: by the class on which the notebook calls
    `from_notebook()`; a notebook without one is held to its parameter cell's names and the types of their values.
    """
    settings = settings_class(notebook)
    if settings is not None:
        return lambda values: settings.from_mapping(values).model_dump(mode="json")
    defaults = _parameter_cell(notebook)
    return lambda values: defaults | _like(defaults, values)


def settings_class(notebook: Path) -> type[Parameters] | None:
    """The class that checks the notebook's parameters, imported from where the notebook imports it, or None."""
    modules: dict[str, str] = {}
    for source, _ in code_cells(notebook):
        for node in _nodes(source):
            if isinstance(node, ast.ImportFrom) and node.module:
                modules |= {alias.asname or alias.name: f"{node.module}:{alias.name}" for alias in node.names}
            if isinstance(node, ast.Attribute) and node.attr == "from_notebook" and isinstance(node.value, ast.Name):
                module, _, name = modules.get(node.value.id, "").partition(":")
                return _imported(module, name, notebook.parent) if module else None
    return None


def _nodes(source: str) -> list[ast.AST]:
    """A cell's syntax, in the order in which it is written as far as statements go; nothing where it has a magic."""
    try:
        return [node for statement in ast.parse(source).body for node in ast.walk(statement)]
    except SyntaxError:
        return []


def _imported(module: str, name: str, beside: Path) -> type[Parameters]:
    """A class as the notebook would import it, from a module beside it perhaps."""
    sys.path.insert(0, str(beside))
    try:
        return getattr(import_module(module), name)
    finally:
        sys.path.remove(str(beside))


def _parameter_cell(notebook: Path) -> dict[str, Any]:
    """The names and values that the notebook's parameter cell assigns, as far as they are literals."""
    values: dict[str, Any] = {}
    for source, tags in code_cells(notebook):
        for node in _nodes(source) if "parameters" in tags else []:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                try:
                    values[node.targets[0].id] = ast.literal_eval(node.value)
                except ValueError:
                    values[node.targets[0].id] = None
    return values


def _like(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, each of a name among the defaults and of its default's type."""
    problems = []
    for name, value in values.items():
        default = defaults.get(name)
        kinds = {float: (float, int), tuple: (tuple, list)}.get(type(default), (type(default),))
        fits = default is None or value is None or type(value) in kinds
        if name not in defaults:
            problems.append(unknown_name("parameter", name, defaults))
        elif not fits:
            problems.append(f"{name} = {value!r}: should be of type {type(default).__name__}, as {default!r} is")
    if problems:
        raise ParameterError("\n".join(problems))
    return dict(values)
