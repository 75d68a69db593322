"""Typed parameters: what a person or papermill hands over is checked, by name and value, before any work starts."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Set
from importlib import import_module
from typing import Any, Generic, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class ParameterError(ValueError):
    """A parameter that cannot be used; the message names it, its value and what is allowed."""


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> str:
    """The sentence for a name that does not exist: the name, the nearest existing one, and all that exist."""
    known = sorted(allowed)
    nearest = difflib.get_close_matches(given, known, n=1)
    hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
    return f"unknown {kind} '{given}'{hint}; known: {', '.join(known) or 'none'}"


Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Classes of one kind by their `name`; built-ins may be given as "module:Class", imported when asked for."""

    def __init__(self, kind: str, built_in: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self.entries: dict[str, str | type[Entry]] = dict(built_in or {})

    def register(self, entry: type[Entry]) -> type[Entry]:
        """Class decorator: makes a class known by its `name`. Defining it again replaces it, as notebooks do.

        Raises `ParameterError` for a class whose `name` is missing, no text or empty.
        """
        name = getattr(entry, "name", None)
        if not (isinstance(name, str) and name):
            raise ParameterError(f'{entry.__qualname__}: every {self.kind} needs a name, as in name = "own"')
        self.entries[name] = entry
        return entry

    def get(self, name: str) -> type[Entry]:
        """The class of that name. Raises `ParameterError` with the nearest name for one that does not exist."""
        entry = self.entries.get(name)
        if entry is None:
            raise ParameterError(unknown_name(self.kind, name, self.entries))
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            self.entries[name] = entry = getattr(import_module(module), attribute)
        return entry

    def names(self) -> list[str]:
        """All names, sorted; nothing is imported."""
        return sorted(self.entries)


class Parameters(BaseModel):
    """Base of every configuration: strict types, finite numbers, no unknown names, immutable.

    Raises `ParameterError` on construction, one line for each problem.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ParameterError("\n".join(_explain_all(error, type(self)))) from None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Check values as papermill or a file hands them over (lists may arrive as text: `-p seeds "[0, 1]"`)."""
        return cls(**{name: _list_from_text(value) for name, value in values.items()})

    @classmethod
    def from_notebook(cls) -> Self:
        """Check the names assigned in the notebook's parameter cells (its own and papermill's), however they got there.

        Works in JupyterLab, under papermill and under nbval, also when the cell is run again after an edit.
        Raises `ParameterError` for an unknown name, an unusable value, or when no parameter cell was run before.
        """
        from IPython import get_ipython

        shell = get_ipython()
        if shell is None:
            raise RuntimeError("from_notebook() works inside a notebook; elsewhere construct the class directly")
        cells = shell.user_ns["In"][:-1]
        if not cells:  # nbval keeps no history of cells
            return cls.from_mapping(plain_values(shell.user_ns, shell.user_ns_hidden))
        return cls.from_mapping(assigned_parameters(cells, cls.model_fields.keys(), shell.user_ns))


def plain_values(namespace: Mapping[str, Any], hidden: Collection[str]) -> dict[str, Any]:
    """The names of a fresh kernel that hold plain values: all that its parameter cell has assigned so far."""
    plain = (int, float, str, list, tuple, dict, type(None))
    return {
        name: value
        for name, value in namespace.items()
        if isinstance(value, plain) and not name.startswith("_") and name not in hidden
    }


def assigned_parameters(cells: list[str], known: Set[str], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """What the nearest run of parameter cells, from the end, assigns; a later cell wins, as papermill's has to.

    A parameter cell does nothing but assign to names (and import): literals alone, or at least one `known` name. What
    is not a literal has its value in `namespace`. Raises `ParameterError` where there is no such cell.
    """
    values: dict[str, Any] = {}
    for source in reversed(cells):
        assigned = _assignments(source)
        if assigned and (all(map(_is_literal, assigned.values())) or not known.isdisjoint(assigned)):
            values = {name: _value(name, node, namespace) for name, node in assigned.items()} | values
        elif values:
            break
    if not values:
        raise ParameterError(f"no cell with parameters was run before this one; known: {', '.join(sorted(known))}")
    return values


def _assignments(source: str) -> dict[str, ast.expr] | None:
    """Names and expressions of a cell that does nothing but assign to names and import; None for any other cell."""
    assigned: dict[str, ast.expr] = {}
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a magic, perhaps
        return None
    for statement in statements:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        elif isinstance(statement, ast.AnnAssign):
            target = statement.target
        else:
            return None
        if not isinstance(target, ast.Name) or statement.value is None:
            return None
        assigned[target.id] = statement.value
    return assigned


def _is_literal(node: ast.expr) -> bool:
    try:
        _literal(node)
    except (ValueError, TypeError):
        return False
    return True


def _value(name: str, node: ast.expr, namespace: Mapping[str, Any]) -> Any:
    return _literal(node) if _is_literal(node) else namespace[name]


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float" and node.args:
        return float(ast.literal_eval(node.args[0]))  # papermill writes NaN as float('nan')
    return ast.literal_eval(node)


def _list_from_text(value: Any) -> Any:
    if not (isinstance(value, str) and value.strip()[:1] in ("[", "{")):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _explain_all(error: ValidationError, owner: type[BaseModel]) -> list[str]:
    """One line for each problem; a list is not called too short when it is its items that were refused."""
    problems = error.errors()
    with_bad_items = {problem["loc"][0] for problem in problems if len(problem["loc"]) > 1}
    return [
        _explain(problem, owner)
        for problem in problems
        if not (problem["type"] == "too_short" and problem["loc"][0] in with_bad_items)
    ]


def _explain(problem: Any, owner: type[BaseModel]) -> str:
    """One line for one pydantic problem: which parameter, which value, what is allowed."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return unknown_name("parameter", where, owner.model_fields)
    if problem["type"] == "missing":
        return f"parameter '{where}' is required"
    if problem["type"] == "too_short":
        return f"{where} = {problem['input']!r}: needs at least {problem['ctx']['min_length']} item(s)"
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, ParameterError):
        return "\n".join(f"{where}: {line}" if where else line for line in str(cause).split("\n"))
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    value = problem["input"]
    if problem["type"] == "literal_error" and isinstance(value, str):
        nearest = difflib.get_close_matches(value, re.findall("'(.*?)'", problem["ctx"]["expected"]), n=1)
        message += f" (did you mean '{nearest[0]}'?)" if nearest else ""
    return f"{where} = {value!r}: {message}" if where else message
