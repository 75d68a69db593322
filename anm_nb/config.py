"""Typed parameters: every name and value from a person, papermill or a file is checked before any work starts."""

import ast
import difflib
import pkgutil
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Generic, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError


class ParameterError(ValueError):
    """A parameter that cannot be used. The message has one line per problem: the name, the value, what is allowed."""

    def within(self, place: str) -> "ParameterError":
        """The same problems, with the place (a file or an outer parameter) in front of each line."""
        return ParameterError("\n".join(f"{place}: {line}" for line in str(self).split("\n")))


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> str:
    """The error message for a name that does not exist, with the nearest known name and all known names."""
    known = sorted(allowed)
    nearest = difflib.get_close_matches(given, known, n=1)
    hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
    return f"unknown {kind} '{given[:80]}'{hint}; known: {', '.join(known) or 'none'}"


def shown(value: Any) -> str:
    """The repr of a value on one line, shortened to about 100 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:60]} … {text[-30:]}"


Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Classes of one kind by their `name`. Built-ins may be given as "module:Class", imported on first use."""

    def __init__(self, kind: str, built_in: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self.entries: dict[str, str | type[Entry]] = dict(built_in or {})

    def register(self, entry: type[Entry]) -> type[Entry]:
        """Class decorator: register a class under its `name`, which is required; an earlier one is replaced."""
        name = getattr(entry, "name", None)
        if not (isinstance(name, str) and name):
            raise ParameterError(f'{entry.__qualname__}: every {self.kind} needs a name, as in name = "own"')
        self.entries[name] = entry
        return entry

    def known(self, name: str) -> str:
        """Return the name, for use as a field validator. Raises `ParameterError` for an unknown name."""
        if name not in self.entries:
            raise ParameterError(unknown_name(self.kind, name, self.entries))
        return name

    def get(self, name: str) -> type[Entry]:
        """The class of that name. Raises `ParameterError` for an unknown name."""
        entry = self.entries[self.known(name)]
        if isinstance(entry, str):
            self.entries[name] = entry = pkgutil.resolve_name(entry)
        return entry

    def names(self) -> list[str]:
        """All names, sorted, without importing anything."""
        return sorted(self.entries)


class Parameters(BaseModel):
    """Base of every config: strict types, finite numbers, immutable. Raises `ParameterError`, one line per problem."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            lines = [_explain(problem, type(self)) for problem in error.errors()]
            more = [f"… and {len(lines) - 8} more"] if len(lines) > 8 else []
            raise ParameterError("\n".join(lines[:8] + more)) from None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Check values from papermill or a file; papermill passes lists as text (`-p seeds "[0, 1]"`)."""
        lists = {n: from_yaml(v) for n, v in values.items() if isinstance(v, str) and v.strip()[:1] in ("[", "{")}
        return cls(**{**values, **lists})

    @classmethod
    def of(cls, settings: "Parameters", **values: Any) -> Self:
        """Take all fields that this class shares with other settings, such as a notebook's; `values` override them."""
        return cls(**{name: value for name, value in settings if name in cls.model_fields} | values)

    @classmethod
    def from_notebook(cls) -> Self:
        """Check the parameters in the kernel's namespace. Raises `ParameterError` for unknown names and bad values."""
        if (replacement := _replacement.get()) is not None:
            values, checked = replacement
            checked.append(cls.from_mapping(values))
            return checked[-1]
        from IPython import get_ipython

        if (shell := get_ipython()) is None:
            raise RuntimeError("from_notebook() works only in a notebook; elsewhere, construct the class directly")
        return cls.from_mapping(_kernel_values(cls.model_fields.keys(), shell.user_ns))


_replacement: ContextVar[tuple[Mapping[str, Any], list[Any]] | None] = ContextVar("replacement", default=None)


@contextmanager
def in_place_of_the_kernel(values: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Make `from_notebook` check these values instead of a kernel's; yields a list of all objects that it returns."""
    checked: list[Any] = []
    token = _replacement.set((values, checked))
    try:
        yield checked
    finally:
        _replacement.reset(token)


def _kernel_values(fields: Collection[str], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the fields in a kernel's namespace. Raises `ParameterError` for misspelt names.

    A field counts if it holds plain data or if a cell ever set it to a literal. Cells are read from `In`, which is
    empty under nbval. A cell that sets a field may set no unknown name, and a later cell none that resembles a field.
    Cells before the last check are exempt, so that a misspelling can be corrected.
    """
    cells, problems = [(source, _literals(source)) for source in namespace.get("In", [""])][:-1], list[str]()
    was_set = {name for _, names in cells for name in names}
    present = {name: _as_data(namespace[name]) for name in fields if name in namespace}
    plain = (type(None), int, float, str, list, dict, set)
    values = {name: value for name, value in present.items() if name in was_set or isinstance(value, plain)}
    last_check = max((place for place, (source, _) in enumerate(cells) if "from_notebook(" in source), default=0)
    begun = False
    for source, names in cells[last_check:]:
        sets_fields = source.startswith("# Parameters") or not names.isdisjoint(fields)  # papermill's cell, or another
        suspects = names if sets_fields else {n for n in names if begun and difflib.get_close_matches(n, fields, n=1)}
        unknown = sorted(name for name in suspects if name not in fields and not name.startswith("_"))
        problems += [f"{unknown_name('parameter', n, fields)} (start names of your own with _)" for n in unknown]
        begun = begun or sets_fields
    if not values:
        problems.append(f"no cell with parameters ran before this one; known: {', '.join(sorted(fields))}")
    if problems:
        raise ParameterError("\n".join(problems))
    return values


def _literals(source: str) -> set[str]:
    """The names that a cell sets to literals at top level; computed values need not be parameters."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return set()
    assigned = [each for each in body if isinstance(each, ast.Assign)]
    literal = [s for s in assigned if not any(isinstance(node, ast.Name | ast.Call) for node in ast.walk(s.value))]
    return {node.id for each in literal for node in ast.walk(each) if isinstance(node, ast.Name)}


def _as_data(value: Any) -> Any:
    """Convert numpy numbers and arrays, ranges and tuples to plain numbers and lists."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return [_as_data(each) for each in value] if isinstance(value, list | tuple | range) else value


def _explain(problem: Any, owner: type[BaseModel]) -> str:
    """One line for one pydantic problem: the parameter, its value and what is allowed."""
    where, value, context = ".".join(map(str, problem["loc"])), problem["input"], problem.get("ctx", {})
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    match problem["type"]:
        case "extra_forbidden":
            return unknown_name("parameter", where, owner.model_fields)
        case "missing":
            return f"parameter '{where}' is required"
        case "tuple_type" | "list_type" if isinstance(value, str) and (items := value.replace(",", " ").split()):
            message = f"write a list: [{', '.join(items)[:60]}]"
        case "literal_error" if isinstance(value, str):
            nearest = difflib.get_close_matches(value, re.findall("'(.*?)'", context["expected"]), n=1)
            message += f" (did you mean '{nearest[0]}'?)" if nearest else ""
    if isinstance(cause := context.get("error"), ParameterError):
        return str(cause.within(where) if where else cause)
    return f"{where} = {shown(value)}: {message}" if where else message


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that reads scientific notation as numbers and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key.value in lines:
                problem = f"'{key.value}' is already set in line {lines[key.value]}; remove one of them"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 and 1E5 as text because they have no decimal point; YAML 1.2 reads them as numbers.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a UTF-8 YAML file. Raises `ParameterError` with file and line for bad syntax or duplicate keys."""
    try:
        content = yaml.load(path.read_text("utf-8-sig"), _Loader)  # a safe loader
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ParameterError(f"{path}{line}: {problem or str(error).splitlines()[0]}") from None
    if not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        raise ParameterError(f"{path} is not a mapping of names to values; write one `name: value` per line")
    return content


def from_yaml(text: str) -> Any:
    """Parse a text as YAML; text that is not valid YAML is returned unchanged."""
    try:
        return yaml.load(text, _Loader)  # a safe loader
    except yaml.YAMLError:
        return text


# Types of fields. The bounds lie beyond any published experiment, so that they catch typing errors only.
def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("each may appear only once")
    return values


Distinct = AfterValidator(_distinct)
SEVERAL = Field(strict=False, min_length=1, max_length=1000)
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, le=2**32 - 1)], ...], SEVERAL, Distinct]
Steps = Annotated[int, Field(ge=1, le=10**8)]  # optimiser steps
Epochs = Annotated[int, Field(ge=1, le=10**5)]  # each is evaluated and recorded
Records = Annotated[int, Field(ge=3, le=10**4)]
Count = Annotated[int, Field(ge=1, le=10**4)]  # iterations, heads or candidates
Counts = Annotated[tuple[Count, ...], SEVERAL, Distinct]
Problems = Annotated[int, Field(ge=1, le=10**6)]  # drawn fresh for an evaluation, all in memory
Examples = Annotated[int, Field(ge=1, le=10**6)]  # the same; also for a batch or a training set
Size = Annotated[int, Field(ge=1, le=1000)]  # items, or the side length of a matrix or board
Width = Annotated[int, Field(ge=1, le=10**4)]
Threads = Annotated[int, Field(ge=1, le=1024)]
LearningRate = Annotated[float, Field(gt=0, le=1)]  # about what Adam changes a weight by in one step
Weight = Annotated[float, Field(ge=0, le=1000)]  # of a loss term, relative to the main term
Weights = Annotated[tuple[Weight, ...], SEVERAL, Distinct]
Rate = Annotated[float, Field(ge=0, lt=1)]
Rates = Annotated[tuple[Rate, ...], SEVERAL, Distinct]
Fraction = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[float, Field(gt=0, le=1000)]
Temperatures = Annotated[tuple[Temperature, ...], SEVERAL, Distinct]
