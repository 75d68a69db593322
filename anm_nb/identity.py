"""The identity of a run: its config, the family's version, the device, and the user's own code that takes part."""

from __future__ import annotations

import ast
import dis
import hashlib
import json
import linecache
import sys
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec, resolve_name
from inspect import unwrap
from io import BytesIO
from pathlib import Path
from pickle import Pickler, PicklingError
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from anm_nb.config import ParameterError, Parameters

if TYPE_CHECKING:
    from anm_nb.training.run import Trained

CONFIGS: dict[str, type[RunConfig]] = {}  # by the name that manifests use for a class


class RunConfig(Parameters):
    """A config that can train itself, the base of every family's config; subclasses are registered by name."""

    family: ClassVar[str] = "own"
    version: ClassVar[int] = 1  # of the family's numerics: raise it when the same config gives other numbers

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        CONFIGS[path_of(cls)] = cls

    @abstractmethod
    def train(self, workdir: Path) -> Trained: ...  # continue from what an earlier training left in the run's folder
    @abstractmethod
    def device_kind(self) -> str: ...  # the device that `train` would use on this machine: cpu or cuda

    def plugins(self) -> list[type]:
        """Classes that take part in training and may belong to the user."""
        return []


def path_of(cls: type) -> str:
    """The name of a class in manifests."""
    return f"{cls.__module__}:{cls.__qualname__}"


def identity_of(config: RunConfig) -> dict[str, Any]:
    """Plain data that identifies a run: class, values, version, device kind, and a digest of the user's own code."""
    plugins = [type(config), *config.plugins()]
    return {
        "class": path_of(type(config)),
        "config": config.model_dump(mode="json"),
        "version": config.version,
        "device": config.device_kind(),
        "users_classes": classes_of_the_user(plugins),
        "code": code_digest(plugins),
    }


def key_of(identity: Mapping[str, Any]) -> str:
    """The key of a run: the first 16 hexadecimal digits of the SHA-256 of its identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def classes_of_the_user(plugins: Iterable[type]) -> list[str]:
    """The names of the user's own classes among plugins and their bases."""
    return sorted({path_of(base) for plugin in plugins for base in plugin.__mro__ if is_the_users(base.__module__)})


def is_the_users(name: str | None) -> bool:
    """Whether a module belongs to the user: neither to this package nor to Python or an installed library."""
    top = (name or "builtins").partition(".")[0]
    if top == "__main__" or top in (__name__.partition(".")[0], *sys.stdlib_module_names):
        return top == "__main__"
    module = sys.modules.get(top) or find_spec(top)
    places = [getattr(module, "__file__", None), getattr(module, "origin", None), *getattr(module, "__path__", [])]
    return not any({"site-packages", "dist-packages"} & {*Path(place).parts} for place in places if place)


def code_digest(plugins: Iterable[type]) -> str | None:
    """SHA-256 over the source of the user's own classes and all user code that they refer to; None if there is none.

    Comments, layout and docstrings do not count; constants count by value. Raises `ParameterError` for a constant that
    cannot be pickled and for code without a source or from a file that was edited after the import.
    """
    found: list[Any] = [base for plugin in plugins for base in plugin.__mro__ if is_the_users(base.__module__)]
    written = BytesIO()
    for code in found:  # grows: `_Values` appends the user's code that it meets
        contents = _contents(code)
        try:
            _Values(written, found).dump(contents)
        except (PicklingError, TypeError, AttributeError, ValueError) as error:
            name = getattr(code, "__qualname__", code.__name__)
            allowed = "a plugin's code may refer to functions, classes, modules and plain data"
            raise ParameterError(f"{name} refers to a value that no run's key can hold ({error}); {allowed}") from None
    return hashlib.sha256(written.getvalue()).hexdigest() if found else None


class _Values(Pickler):
    """Pickles values, with the user's classes, functions and modules among them by their position in `found`."""

    def __init__(self, file: BytesIO, found: list[Any]) -> None:
        super().__init__(file, protocol=4)
        self.fast = True  # no memo: equal values give equal bytes, whether or not they are one object
        self.found = found

    def persistent_id(self, value: Any) -> Any:
        """What to pickle instead of a value; None for plain data."""
        torch, wrapped = sys.modules.get("torch"), getattr(value, "__wrapped__", None)
        if torch and isinstance(value, torch.Tensor):
            as_bytes = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return [str(value.dtype), *value.shape, as_bytes]
        if isinstance(value, set | frozenset):
            return sorted(value, key=lambda each: getattr(each, "__qualname__", repr(each)))
        if isinstance(value, property):
            return [value.fget, value.fset, value.fdel]
        if not isinstance(value, type | FunctionType | ModuleType):
            return wrapped and [type(value).__name__, wrapped]  # a static method or functools.cache, for example
        names = value.__globals__ if isinstance(value, FunctionType) else vars(value)  # functools.wraps sets __module__
        home = value.__module__ if isinstance(value, type) else names.get("__name__")
        if not is_the_users(home):
            return [home, getattr(value, "__qualname__", ""), wrapped]
        if value not in self.found:
            self.found.append(value)
        return self.found.index(value)


def _contents(code: type | FunctionType | ModuleType) -> list[Any]:
    """What makes up a user's class, function or module: its members, or its source and the values it refers to."""
    if isinstance(code, ModuleType):
        return [{name: value for name, value in vars(code).items() if not name.startswith("__")}]
    if isinstance(code, type):
        places = {n: getattr(getattr(unwrap(m), "__code__", None), "co_qualname", "") for n, m in vars(code).items()}
        inside = f"{code.__qualname__}."  # unlike special members that Python or a dataclass adds
        kept = [n for n, place in places.items() if place.startswith(inside) or not n.startswith(("__", "_abc_"))]
        return [code.__bases__, {name: vars(code)[name] for name in kept}]
    scope, package = code.__globals__, code.__globals__.get("__package__")
    steps = [step for each in _codes_in(code.__code__) for step in dis.get_instructions(each)]
    names = {step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    imports = [place for place, step in enumerate(steps) if step.opname == "IMPORT_NAME"]  # two steps after its level
    modules = {resolve_name("." * steps[place - 2].argval + steps[place].argval, package) for place in imports}
    imported = [import_module(name) for name in sorted(modules) if is_the_users(name)]
    enclosed = [cell.cell_contents for cell in code.__closure__ or ()]
    referred = {name: scope[name] for name in sorted(names & scope.keys())}
    return [_source_of(code), code.__defaults__, code.__kwdefaults__, enclosed, referred, imported]


def _source_of(function: FunctionType) -> str:
    """The outermost statement that defines a function, without comments, layout and docstrings."""
    code = function.__code__
    linecache.checkcache(code.co_filename)
    source = "".join(linecache.getlines(code.co_filename))
    later = [each for each in ast.parse(source).body if (each.end_lineno or 0) >= code.co_firstlineno]
    statements = [each for each in later if each.lineno <= max(code.co_firstlineno, later[0].lineno)]
    if not statements:
        raise ParameterError(f"{code.co_qualname} has no source for the run's key: define it in a plain cell or a file")
    if "__file__" in function.__globals__ and code not in _codes_in(compile(source, "", "exec", dont_inherit=True)):
        raise ParameterError(f"{code.co_filename} was edited after {code.co_qualname} was imported: restart the kernel")
    for node in (node for each in statements for node in ast.walk(each)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return "\n".join(map(ast.unparse, statements))


def _codes_in(code: CodeType) -> set[CodeType]:
    """A code object and all that are nested in it."""
    return {code}.union(*(_codes_in(each) for each in code.co_consts if isinstance(each, CodeType)))
