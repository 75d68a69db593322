"""What decides a run: its config, the family's version, the device, and the user's own code that takes part.

That code is a plugin's class and all that it refers to by a global name, transitively.
"""

from __future__ import annotations

import ast
import builtins
import dis
import hashlib
import importlib
import json
import linecache
import site
import sys
import sysconfig
from abc import abstractmethod
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from importlib.util import find_spec, resolve_name
from itertools import takewhile
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from anm_nb.config import ParameterError, Parameters

if TYPE_CHECKING:
    from anm_nb.training.run import Trained

PACKAGE = __name__.partition(".")[0]


CONFIGS: dict[str, type[RunConfig]] = {}  # by name: what a manifest's class is looked up in


class RunConfig(Parameters):
    """A config that can train itself, the base of every family's; subclasses are registered by name."""

    family: ClassVar[str] = "own"
    version: ClassVar[int] = 1  # of the family's numerics: raise it when the same config gives other numbers

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        CONFIGS[path_of(cls)] = cls

    @abstractmethod
    def train(self, workdir: Path) -> Trained:
        """Train, resuming from what an interrupted training left in `workdir`, whose name is the run's key."""

    @abstractmethod
    def device_kind(self) -> str:
        """The kind of device that `train` would use here: cpu or cuda."""

    def plugins(self) -> list[type]:
        """Classes that take part in training and may be a user's own."""
        return []


def path_of(cls: type) -> str:
    """A class's name, as manifests have it."""
    return f"{cls.__module__}:{cls.__qualname__}"


def identity_of(config: RunConfig) -> dict[str, Any]:
    """What decides a run, as plain data: class, values, version, device kind, and a digest of the user's own code."""
    plugins = [type(config), *config.plugins()]
    document = {
        "class": path_of(type(config)),
        "config": config.model_dump(mode="json"),
        "version": config.version,
        "device": config.device_kind(),
        "users_classes": classes_of_the_user(plugins),
        "code": code_digest(plugins),
    }
    return json.loads(json.dumps(document))


def key_of(identity: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of what decides a run."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def classes_of_the_user(plugins: Iterable[type]) -> list[str]:
    """The names of a user's own classes among plugins and their bases."""
    bases = {base for plugin in plugins for base in plugin.__mro__ if is_the_users(base.__module__)}
    return sorted(f"{base.__module__}:{base.__qualname__}" for base in bases)


def code_digest(plugins: Iterable[type]) -> str | None:
    """SHA-256 over the user's own code that classes reach; None where they reach none.

    Covered: classes, bases, functions and, by value, constants, followed through global names and imports. A function
    counts by its source text as `ast` writes it, so that comments, blank lines and layout do not; by its compiled code
    only where there is no text, or none that compiles to what runs. Raises `ParameterError` for an unreadable value.
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
    return file is None or not any(map(file.is_relative_to, _library_folders()))


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
            return self.describe([value.__func__, value.__self__], name)
        if isinstance(value, staticmethod | classmethod) or callable(getattr(value, "__wrapped__", None)):
            return self.describe([type(value), value.__wrapped__], name)
        if isinstance(value, property):
            return self.describe([value.fget, value.fset, value.fdel], name)
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
        # a wrapper that a decorator compiled has no text, and memory addresses among its names
        if is_the_users(home) and not (wrapped and not linecache.getlines(function.__code__.co_filename)):
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
        if not any(known is value for known in self.reached):
            self.reached.append(value)
        return next(number for number, known in enumerate(self.reached) if known is value)

    def unit(self, value: Any) -> Any:
        """What decides the results of a class, function or module of the user's."""
        if isinstance(value, FunctionType):
            scope = ChainMap(_closure(value), value.__globals__, vars(builtins))
            names = [self._name(chain, scope, value) for chain in sorted(_references(value.__code__, value))]
            code = _text(value.__code__) or value.__code__
            inside = [code, _closure(value), value.__defaults__, value.__kwdefaults__]
            return [self.describe(inside, value.__qualname__), names]
        members: dict[str, Any] = {}
        if isinstance(value, type):
            fields = vars(value).get("__pydantic_fields__", {})
            defaults = {name: [field.default, field.default_factory] for name, field in fields.items()}
            members = {"bases": value.__bases__, "fields": defaults}
        for name, member in vars(value).items():
            put_there_by_python = name == "_abc_impl" or (name.startswith("__") and name.endswith("__"))
            if not put_there_by_python or (isinstance(value, type) and isinstance(member, FunctionType)):
                members[name] = member
        return [[name, self.describe(each, f"{value.__name__}.{name}")] for name, each in members.items()]

    def _name(self, chain: tuple[str, ...], scope: Mapping[str, Any], owner: FunctionType) -> Any:
        """What a dotted name stands for, the user's modules followed to what is taken of them."""
        value = scope.get(chain[0], sys.modules.get(chain[0]))
        for attribute in chain[1:]:
            if isinstance(value, ModuleType) and is_the_users(value.__name__):
                value = getattr(value, attribute, None)
        return [chain, self.describe(value, f"{'.'.join(chain)}, which {owner.__qualname__} refers to,")]


def _text(code: CodeType) -> list[str] | None:
    """The source of a function without comments and blank lines; None where there is none, or it is not what runs."""
    if code not in _TEXTS:  # what was read once stays, whatever becomes of the file
        _TEXTS.update(_texts(code.co_filename, "".join(linecache.getlines(code.co_filename))))
    return _TEXTS.get(code)


_TEXTS: dict[CodeType, list[str]] = {}


@lru_cache(maxsize=64)
def _texts(file: str, source: str) -> dict[CodeType, list[str]]:
    """The text of every function in a file, by its compiled code; of lambdas that of all in the line."""
    try:
        tree, waiting = ast.parse(source), [compile(source, file, "exec", dont_inherit=True)]
    except (SyntaxError, ValueError):
        return {}
    texts: dict[tuple[str, int], list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
            texts.setdefault((getattr(node, "name", "<lambda>"), first), []).append(ast.unparse(node))
    found = {}
    for code in waiting:  # which grows meanwhile
        waiting += [each for each in code.co_consts if isinstance(each, CodeType)]
        if text := texts.get((code.co_name, code.co_firstlineno)):
            found[code] = text
    return found


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


def _closure(function: FunctionType) -> dict[str, Any]:
    """The values of the names that a function has from the function around it."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found
