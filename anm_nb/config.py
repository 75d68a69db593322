"""Typed parameters: what a person or papermill hands over is checked, by name and value, before any work starts."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Generic, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

DATA = (type(None), int, float, str, list, dict, set)


class ParameterError(ValueError):
    """A parameter that cannot be used; the message names it, its value and what is allowed, one line a problem."""

    def within(self, place: str) -> ParameterError:
        """The same problems, each line led by the place (a file, an outer parameter) that they are in."""
        return ParameterError("\n".join(f"{place}: {line}" for line in str(self).split("\n")))


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> str:
    """The sentence for a name that does not exist: the name, the nearest existing one, and all that exist."""
    known = sorted(allowed)
    nearest = difflib.get_close_matches(given, known, n=1)
    hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
    return f"unknown {kind} '{given[:80]}'{hint}; known: {', '.join(known) or 'none'}"


def shown(value: Any) -> str:
    """A value as it is written, on one line of at most about a hundred characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:60]} … {text[-30:]}"


Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Classes of one kind by their `name`; built-ins may be given as "module:Class", imported when asked for."""

    def __init__(self, kind: str, built_in: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self.entries: dict[str, str | type[Entry]] = dict(built_in or {})

    def register(self, entry: type[Entry]) -> type[Entry]:
        """Class decorator: makes a class known by its `name`, which it needs, in place of one defined before."""
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
    """Base of every configuration: strict, finite, immutable; raises `ParameterError`, one line for each problem."""

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
        """Check values as papermill or a file hands them over (lists may arrive as text: `-p seeds "[0, 1]"`)."""
        lists = {n: from_yaml(v) for n, v in values.items() if isinstance(v, str) and v.strip()[:1] in ("[", "{")}
        return cls(**{**values, **lists})

    @classmethod
    def of(cls, settings: Parameters, **values: Any) -> Self:
        """The fields that other settings, such as a notebook's, have too, and values."""
        return cls(**{name: value for name, value in settings if name in cls.model_fields} | values)

    @classmethod
    def from_notebook(cls) -> Self:
        """Check the parameters as the kernel has them; `ParameterError` for unknown names, unusable or lost values."""
        if (asked := _asked.get()) is not None:
            values, checked = asked
            checked.append(cls.from_mapping(values))
            return checked[-1]
        from IPython import get_ipython

        if (shell := get_ipython()) is None:
            raise RuntimeError("from_notebook() works inside a notebook; elsewhere construct the class directly")
        return cls.from_mapping(_kernel_values(cls.model_fields.keys(), shell.user_ns))


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


def _kernel_values(fields: Collection[str], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a kernel's namespace has as data, or a cell has set; `In` has the cells that ran (not in nbval).

    A cell that sets fields sets no other names, and one after it none that is nearly a field's. Those before the last
    check are let be: slips can be mended.
    """
    cells, problems = [(source, _literals(source)) for source in namespace.get("In", [""])][:-1], list[str]()
    was_set = {name for _, names in cells for name in names}  # if it is no data now, it is refused
    given = {name: _as_data(namespace[name]) for name in fields if name in namespace}
    values = {name: value for name, value in given.items() if name in was_set or isinstance(value, DATA)}
    checked = max((place for place, (source, _) in enumerate(cells) if "from_notebook(" in source), default=0)
    begun = False
    for source, names in cells[checked:]:
        sets = source.startswith("# Parameters") or not names.isdisjoint(fields)  # papermill's, or a person's
        own = sorted(name for name in names if name not in fields and not name.startswith("_"))
        own = own if sets else [n for n in own if begun and difflib.get_close_matches(n, fields, n=1)]
        problems += [f"{unknown_name('parameter', n, fields)} (begin a name of your own with _)" for n in own]
        begun = begun or sets
    if not values:
        problems.append(f"no cell with parameters was run before this one; known: {', '.join(sorted(fields))}")
    if problems:
        raise ParameterError("\n".join(problems))
    return values


def _literals(source: str) -> set[str]:
    """The names that a cell sets to literals outside any block; what is computed may be no parameter."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return set()
    assigned = [each for each in body if isinstance(each, ast.Assign)]
    plain = [s for s in assigned if not any(isinstance(node, ast.Name | ast.Call) for node in ast.walk(s.value))]
    return {node.id for each in plain for node in ast.walk(each) if isinstance(node, ast.Name)}


def _as_data(value: Any) -> Any:
    """Numbers and arrays of numpy, ranges and tuples, as numbers and lists."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return [_as_data(each) for each in value] if isinstance(value, list | tuple | range) else value


def _explain(problem: Any, owner: type[BaseModel]) -> str:
    """One line for one pydantic problem: which parameter, which value, what is allowed."""
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
    """Safe YAML with numbers in scientific notation, and each key of a mapping once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key.value in lines:
                problem = f"'{key.value}' is there already, in line {lines[key.value]}; keep one of them"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 1e-3 and 1E5 for text, as they have no point; YAML 1.2 and everybody who writes them for numbers.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file in UTF-8; `ParameterError` names file and line of what cannot be read or is twice."""
    try:
        content = yaml.load(path.read_text("utf-8-sig"), _Loader)  # a safe loader
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError) as error:
        mark, said = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error).split("\n")[0]
        raise ParameterError(f"{path}{f', line {mark.line + 1}' if mark else ''}: {said}") from None
    if not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        raise ParameterError(f"{path} holds no names with values; write one `name: value` a line")
    return content


def from_yaml(text: str) -> Any:
    """What a text means in YAML; the text itself where it is none."""
    try:
        return yaml.load(text, _Loader)  # a safe loader
    except yaml.YAMLError:
        return text


# Types of fields, whose bounds lie where no experiment of the field goes, to refuse a slip of the keyboard.
def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("each may appear once")
    return values


Distinct = AfterValidator(_distinct)
SEVERAL = Field(strict=False, min_length=1, max_length=1000)
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, le=2**32 - 1)], ...], SEVERAL, Distinct]
Steps = Annotated[int, Field(ge=1, le=10**8)]  # of the optimiser
Epochs = Annotated[int, Field(ge=1, le=10**5)]  # each is measured and recorded
Records = Annotated[int, Field(ge=3, le=10**4)]
Count = Annotated[int, Field(ge=1, le=10**4)]  # of iterations, heads, candidates
Counts = Annotated[tuple[Count, ...], SEVERAL, Distinct]
Problems = Annotated[int, Field(ge=1, le=10**6)]  # fresh ones of an evaluation, all held at once
Examples = Annotated[int, Field(ge=1, le=10**6)]  # the same, and of a batch or a training set
Size = Annotated[int, Field(ge=1, le=1000)]  # items, or the side of a matrix or board
Width = Annotated[int, Field(ge=1, le=10**4)]
Threads = Annotated[int, Field(ge=1, le=1024)]
LearningRate = Annotated[float, Field(gt=0, le=1)]  # Adam moves a weight by about so much a step
Weight = Annotated[float, Field(ge=0, le=1000)]  # of a part of the loss, in units of the main part
Weights = Annotated[tuple[Weight, ...], SEVERAL, Distinct]
Rate = Annotated[float, Field(ge=0, lt=1)]
Rates = Annotated[tuple[Rate, ...], SEVERAL, Distinct]
Fraction = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[float, Field(gt=0, le=1000)]
Temperatures = Annotated[tuple[Temperature, ...], SEVERAL, Distinct]
