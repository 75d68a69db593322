"""The user's own code that a plugin reaches: its class, and all that it refers to by a global name, transitively."""

from __future__ import annotations

import builtins
import dis
import hashlib
import importlib
import json
import linecache
import site
import sys
import sysconfig
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec, resolve_name
from itertools import takewhile
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from anm_nb.config import ParameterError

PACKAGE = __name__.partition(".")[0]


def classes_of_the_user(plugins: Iterable[type]) -> list[str]:
    """The names of a user's own classes among plugins and their bases."""
    bases = {base for plugin in plugins for base in plugin.__mro__ if is_the_users(base.__module__)}
    return sorted(f"{base.__module__}:{base.__qualname__}" for base in bases)


def code_digest(plugins: Iterable[type]) -> str | None:
    """SHA-256 over the user's own code that classes reach; None where they reach none.

    Covered: classes, bases, functions and, by value, constants, followed through global names and imports. The code is
    taken as compiled, so it is what runs, also where a file was edited after its import; comments and line numbers do
    not count, the version of Python does. Raises `ParameterError` for a value that cannot be read.
    """
    reader = _Reader()
    for plugin in plugins:
        reader.describe(plugin, plugin.__qualname__)
    units = [reader.unit(value) for value in reader.reached]  # which grows meanwhile
    return hashlib.sha256(json.dumps(units).encode()).hexdigest() if units else None


def is_the_users(name: str | None) -> bool:
    """Whether a module is neither of this package nor of Python or an installed library."""
    top = (name or "builtins").partition(".")[0]
    if top == "__main__":
        return True
    if top == PACKAGE or top in sys.stdlib_module_names:
        return False
    module = sys.modules.get(name or "") or sys.modules.get(top)
    spec = None if module else find_spec(top)
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", []), getattr(spec, "origin", None)]
    file = next((Path(place).resolve() for place in places if place), None)
    return file is None or not any(file.is_relative_to(folder) for folder in _library_folders())


@cache
def _library_folders() -> frozenset[Path]:
    named = [sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")]
    return frozenset(Path(each).resolve() for each in [*named, *site.getsitepackages(), site.getusersitepackages()])


class _Reader:
    """Values as plain data; the user's classes, functions and modules as numbers, in the order of being reached."""

    def __init__(self) -> None:
        self.reached: list[Any] = []
        self.open: list[int] = []  # ids of the values that are being described

    def describe(self, value: Any, name: str) -> Any:
        """A value as plain data; `name` is for messages."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return [type(value).__name__, repr(value)]
        if id(value) in self.open:
            return ["within", self.open.index(id(value))]
        self.open.append(id(value))
        try:
            return self._describe(value, name)
        finally:
            self.open.pop()

    def _describe(self, value: Any, name: str) -> Any:
        if type(value) in (list, tuple):
            return [type(value).__name__, [self.describe(each, name) for each in value]]
        if type(value) in (set, frozenset):
            return ["set", sorted((self.describe(each, name) for each in value), key=json.dumps)]
        if type(value) is dict:
            return ["dict", [[self.describe(each, name) for each in item] for item in value.items()]]
        if isinstance(value, CodeType):
            return [value.co_name, repr(value.co_code), value.co_names, self.describe(value.co_consts, name)]
        if isinstance(value, ModuleType):
            return self._reach(value) if is_the_users(value.__name__) else value.__name__
        if isinstance(value, type):
            home = value.__module__
            return self._reach(value) if is_the_users(home) else f"{home}:{value.__qualname__}"
        if isinstance(value, FunctionType):
            return self._function(value, name)
        if isinstance(value, MethodType):
            return [self.describe(value.__func__, name), self.describe(value.__self__, name)]
        if isinstance(value, staticmethod | classmethod) or callable(getattr(value, "__wrapped__", None)):
            return [self.describe(type(value), name), self.describe(value.__wrapped__, name)]
        if isinstance(value, property):
            return [self.describe(each, name) for each in (value.fget, value.fset, value.fdel)]
        of_module = isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType | None)
        if of_module and not is_the_users(value.__module__):
            return f"{value.__module__}:{value.__qualname__}"
        return self._object(value, name)

    def _function(self, function: FunctionType, name: str) -> Any:
        """A user's function by number, a library's by name and what it was made with; and what either wraps."""
        home, wrapped = function.__globals__.get("__name__"), getattr(function, "__wrapped__", None)
        known = getattr(sys.modules.get(function.__module__), function.__name__, None)
        if known is function and not is_the_users(function.__module__):
            return f"{function.__module__}:{function.__name__}"
        if is_the_users(home) and not (wrapped and _is_generated(function)):
            own: Any = self._reach(function)
        else:
            own = [f"{home}:{function.__code__.co_qualname}"]
            try:
                own.append(self.describe(_closure(function), name))
            except ParameterError:
                if not wrapped:  # a decorator may hold what it likes, such as caches
                    raise
        return [own, self.describe(wrapped, name)] if wrapped else own

    def _object(self, value: Any, name: str) -> Any:
        """An instance: a tensor by its bytes, anything else by what copying it takes."""
        torch = sys.modules.get("torch")
        if torch and isinstance(value, torch.Tensor):
            data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return ["tensor", str(value.dtype), list(value.shape), hashlib.sha256(data).hexdigest()]
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:
            raise ParameterError(
                f"{name} is a {type(value).__qualname__}, which cannot be read into a run's key, so a changed version "
                "could be served a stale run; a plugin's code may refer to functions, classes, modules and plain data"
            ) from None
        if isinstance(reduced, str):
            return [self.describe(type(value), name), reduced]
        return ["object", [self.describe(list(p) if isinstance(p, Iterator) else p, name) for p in reduced]]

    def _reach(self, value: Any) -> int:
        for number, known in enumerate(self.reached):
            if known is value:
                return number
        self.reached.append(value)
        return len(self.reached) - 1

    def unit(self, value: Any) -> Any:
        """What decides the results of a class, function or module of the user's."""
        if isinstance(value, FunctionType):
            scope = ChainMap(_closure(value), value.__globals__, vars(builtins))
            names = [self._name(chain, scope, value) for chain in sorted(_references(value.__code__, value))]
            inside = [_closure(value), value.__defaults__, value.__kwdefaults__]
            return [self.describe([value.__code__, inside], value.__qualname__), names]
        if isinstance(value, ModuleType):
            members = {name: each for name, each in vars(value).items() if not _is_dunder(name)}
        else:
            kept = {name: each for name, each in vars(value).items() if _is_kept(name, each)}
            fields = {name: [field.default, field.default_factory] for name, field in _fields(value).items()}
            members = {"bases": value.__bases__, "fields": fields} | kept
        return [[name, self.describe(each, f"{value.__name__}.{name}")] for name, each in members.items()]

    def _name(self, chain: tuple[str, ...], scope: Mapping[str, Any], owner: FunctionType) -> Any:
        """What a dotted name stands for, the user's modules followed to what is taken of them."""
        value = scope.get(chain[0], sys.modules.get(chain[0]))
        for attribute in chain[1:]:
            if isinstance(value, ModuleType) and is_the_users(value.__name__):
                value = getattr(value, attribute, None)
        return [chain, self.describe(value, f"{'.'.join(chain)}, which {owner.__qualname__} refers to,")]


def _references(code: CodeType, function: FunctionType) -> set[tuple[str, ...]]:
    """The dotted names that code, and the code within it, takes from outside: globals, and modules it imports."""
    steps, found = list(dis.get_instructions(code)), set()
    for place, step in enumerate(steps):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            taken = takewhile(lambda each: each.opname in ("LOAD_ATTR", "LOAD_METHOD"), steps[place + 1 :])
            found.add((step.argval, *(each.argval for each in taken)))
        elif step.opname == "IMPORT_NAME":
            relative = "." * steps[place - 2].argval + step.argval
            module = resolve_name(relative, function.__globals__.get("__package__"))
            if is_the_users(module):
                importlib.import_module(module)
                found.add((module,))
    return found.union(*(_references(each, function) for each in code.co_consts if isinstance(each, CodeType)))


def _is_generated(function: FunctionType) -> bool:
    """Whether a function has no text, as wrappers that a decorator compiles: their names hold memory addresses."""
    return not linecache.getlines(function.__code__.co_filename)


def _closure(function: FunctionType) -> dict[str, Any]:
    """The values of the names that a function has from the function around it."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _fields(cls: type) -> dict[str, Any]:
    return vars(cls).get("__pydantic_fields__", {})


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _is_kept(name: str, member: Any) -> bool:
    """Whether a member of a class can decide results: functions, and all that Python and pydantic do not put there."""
    return isinstance(member, FunctionType) or not (_is_dunder(name) or name == "_abc_impl")
