"""Typed parameters: what a person or papermill hands over is checked, by name and value, before any work starts."""

from __future__ import annotations

import ast
import difflib
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType
from typing import Any, Generic, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from anm_nb.parameter_cells import Cell, executed_cells, parameter_cells, suspects

_SWEEP = "is no parameter here; use: anm-nb sweep NAME --out FOLDER"
# Names that the commands of the HRM ranking plan use and this project does not, and what follows them in a sentence;
# docs/names.md lists them.
DOCUMENT_NAMES: dict[str, str] = {
    "array_len": "is called size here",
    "entropy_reg": "is called entropy_weight here",
    "temperature_init": "is called temperature here",
    "batch_size": "is called batch here",
    "lr": "is encoder_lr and controller_lr here",
    "model": "is no parameter here; notebook 20 trains both, baseline and HRM model",
    "output_csv": _SWEEP,
    "results_dir": _SWEEP,
}
SAME_NAMES = ("max_inner_iters", "hrm_period", "mask_rate", "train_samples", "epochs", "seeds")


class ParameterError(ValueError):
    """A parameter that cannot be used; the message names it, its value and what is allowed, one line a problem."""

    def within(self, place: str) -> ParameterError:
        """The same problems, each line led by the place (a file, an outer parameter) that they are in."""
        return ParameterError("\n".join(f"{place}: {line}" for line in str(self).split("\n")))


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> str:
    """The sentence for a name that does not exist: the name, the nearest existing one, and all that exist."""
    known = sorted(allowed)
    if kind == "parameter" and (said := DOCUMENT_NAMES.get(given.lower())):
        return f"unknown parameter '{given}': {given} {said}; known: {', '.join(known)}"
    nearest = difflib.get_close_matches(given, known, n=1)
    hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
    return f"unknown {kind} '{given[:80]}'{hint}; known: {', '.join(known) or 'none'}"


def shown(value: Any) -> str:
    """A value as it is written, in at most about a hundred characters."""
    short = reprlib.Repr()
    short.maxlist = short.maxtuple = short.maxdict = 8
    short.maxstring = short.maxother = short.maxlong = 60
    try:
        return short.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"<{type(value).__name__} of more than 4000 digits>"


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

    def known(self, name: str) -> str:
        """The name itself, for fields. Raises `ParameterError` with the nearest name for one that does not exist."""
        if name not in self.entries:
            raise ParameterError(unknown_name(self.kind, name, self.entries))
        return name

    def get(self, name: str) -> type[Entry]:
        """The class of that name. Raises `ParameterError` with the nearest name for one that does not exist."""
        entry = self.entries[self.known(name)]
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
            raise ParameterError(_explain_all(error, type(self))) from None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Check values as papermill or a file hands them over (lists may arrive as text: `-p seeds "[0, 1]"`)."""
        return cls(**{name: _list_from_text(value) for name, value in values.items()})

    @classmethod
    def from_notebook(cls) -> Self:
        """Check the parameters as the kernel has them at this moment, however its cells came to set them.

        The same in JupyterLab, under papermill and under nbval, and when a cell is run again after an edit. Raises
        `ParameterError` for an unknown name, an unusable value, one that the kernel has lost, or none at all.
        """
        if (asked := _asked.get()) is not None:
            values, checked = asked
            checked.append(cls.from_mapping(values))
            return checked[-1]
        from IPython import get_ipython

        shell = get_ipython()
        if shell is None:
            raise RuntimeError("from_notebook() works inside a notebook; elsewhere construct the class directly")
        return cls.from_mapping(kernel_values(cls.model_fields, shell.user_ns, executed_cells(shell)))


_asked: ContextVar[tuple[Mapping[str, Any], list[Any]] | None] = ContextVar("asked", default=None)


@contextmanager
def in_place_of_the_kernel(values: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Within it `from_notebook` checks these values, not a kernel's; yields the list of the objects it returned."""
    checked: list[Any] = []
    token = _asked.set((values, checked))
    try:
        yield checked
    finally:
        _asked.reset(token)


def kernel_values(fields: Iterable[str], namespace: Mapping[str, Any], cells: list[Cell]) -> dict[str, Any]:
    """The fields that the kernel's namespace has; `cells` ran, the last of them asks.

    Raises `ParameterError` where a parameter cell sets an unknown name, where the kernel has lost a value or something
    that is no data in its place, and where there is no parameter at all.
    """
    fields = list(fields)
    setting = parameter_cells(cells, fields)
    again = any(cell.checks for cell in cells[:-1])  # names of the cells below are no parameters
    values: dict[str, Any] = {}
    problems: list[str] = []
    literals = {
        name: (source, cell.place) for cell in cells for name, (source, plain) in cell.assigned.items() if plain
    }
    for name in fields:
        value = _as_data(namespace.get(name))
        source, place = literals.get(name, ("…", "a cell"))
        if name not in namespace:
            if any(name in cell.assigned for cell in setting):
                problems.append(f"{name} = {source} in {place}, but the kernel has no '{name}': run that cell again")
        elif not _is_data(value) and name in literals:
            problems.append(f"{name} = {source} in {place}, but {shown(value)} in the kernel: run that cell again")
        elif _is_data(value) or not (again or callable(value) or isinstance(value, ModuleType)):
            values[name] = value
    for cell in setting:
        for name, certain in suspects(cell, fields):
            if certain or name.lower() in DOCUMENT_NAMES or difflib.get_close_matches(name, fields, n=1):
                said = unknown_name("parameter", name, fields)
                problems.append(f"{said} ({cell.place}; begin a name of your own with _)")
    if problems:
        raise ParameterError("\n".join(problems))
    if not values:
        raise ParameterError(f"no cell with parameters was run before this one; known: {', '.join(sorted(fields))}")
    return values


def _as_data(value: Any) -> Any:
    """Numbers and arrays of numpy, and ranges, as numbers and lists."""
    if isinstance(value, range):
        return list(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return [_as_data(each) for each in value] if isinstance(value, list | tuple) else value


def _is_data(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_data, value))
    return value is None or isinstance(value, int | float | str | dict | set)


def _list_from_text(value: Any) -> Any:
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        for read in (json.loads, ast.literal_eval, yaml.safe_load):
            try:
                return read(value)
            except (ValueError, SyntaxError, yaml.YAMLError):
                continue
    return value


def _explain_all(error: ValidationError, owner: type[BaseModel]) -> str:
    """One line for each problem; a list is not called too short when it is its items that were refused."""
    problems = error.errors()
    with_bad_items = {problem["loc"][0] for problem in problems if len(problem["loc"]) > 1}
    lines = [
        _explain(problem, owner)
        for problem in problems
        if not (problem["type"] == "too_short" and problem["loc"][0] in with_bad_items)
    ]
    return "\n".join(lines[:8] + ([f"… and {len(lines) - 8} more"] if len(lines) > 8 else []))


def _explain(problem: Any, owner: type[BaseModel]) -> str:
    """One line for one pydantic problem: which parameter, which value, what is allowed."""
    where, value, context = ".".join(map(str, problem["loc"])), problem["input"], problem.get("ctx", {})
    cause = context.get("error")
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    match problem["type"]:
        case "extra_forbidden":
            return unknown_name("parameter", where, owner.model_fields)
        case "missing":
            return f"parameter '{where}' is required"
        case "too_short":
            message = f"needs at least {context['min_length']} item(s)"
        case "too_long":
            message = f"at most {context['max_length']} items"
        case "tuple_type" | "list_type" if isinstance(value, str) and (items := value.replace(",", " ").split()):
            message = f"write a list: [{', '.join(items)[:60]}]"
        case "literal_error" if isinstance(value, str):
            nearest = difflib.get_close_matches(value, re.findall("'(.*?)'", context["expected"]), n=1)
            message += f" (did you mean '{nearest[0]}'?)" if nearest else ""
    if isinstance(cause, ParameterError):
        return str(cause.within(where) if where else cause)
    return f"{where} = {shown(value)}: {message}" if where else message
