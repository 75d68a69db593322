"""The identity of a run: its config, the family's version, the device, and the user's own code that takes part."""

import dis
import hashlib
import json
import sys
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec, resolve_name
from io import BytesIO
from pathlib import Path
from pickle import PicklingError, _Pickler  # the Python implementation, as the C one cannot be extended this far
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from anm_nb.config import ParameterError, Parameters

if TYPE_CHECKING:
    from anm_nb.training.run import Trained

CONFIGS: "dict[str, type[RunConfig]]" = {}  # by the name that manifests use for a class


class RunConfig(Parameters):
    """A config that can train itself, the base of every family's config; subclasses are registered by name."""

    family: ClassVar[str] = "own"
    version: ClassVar[int] = 1  # of the family's numerics: raise it when the same config gives other numbers

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        CONFIGS[path_of(cls)] = cls

    @abstractmethod
    def train(self, workdir: Path) -> "Trained": ...  # continue from what an earlier training left in the run's folder
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
    """SHA-256 over the user's own code that classes refer to, directly or not; None if none of them is the user's.

    It follows global names and imports, and covers classes with their bases, compiled functions, whole modules, and
    constants by value. Raises `ParameterError` for a value that cannot be pickled.
    """
    plugins = list(plugins)
    if not classes_of_the_user(plugins):
        return None
    _CodePickler(written := BytesIO(), protocol=4).dump(plugins)
    return hashlib.sha256(written.getvalue()).hexdigest()


class _CodePickler(_Pickler):
    """Pickles the user's code by its contents, library code by its name, and data as usual."""

    def save(self, obj: Any, *more: Any) -> None:
        try:
            super().save(obj, *more)  # type: ignore[misc]
        except (PicklingError, TypeError, AttributeError) as error:
            if _home(obj) is None:
                raise
            name = getattr(obj, "__qualname__", _home(obj))
            raise ParameterError(
                f"{name} refers to a value that cannot enter the run's key ({error}), so a change to it would go "
                "unnoticed; a plugin's code may refer to functions, classes, modules and plain data"
            ) from None

    def memoize(self, obj: Any) -> None:
        if not isinstance(obj, str | bytes | tuple | frozenset):  # sharing of equal values must not matter
            super().memoize(obj)  # type: ignore[misc]

    def reducer_override(self, obj: Any) -> Any:
        """Pickle a value by its `_parts`, if it has any."""
        return NotImplemented if obj is object or (parts := _parts(obj)) is None else (object, (), parts)


def _parts(value: Any) -> Any:
    """The contents to pickle where pickle itself would use a name or an arbitrary order; None for plain data."""
    torch, wrapped, home = sys.modules.get("torch"), getattr(value, "__wrapped__", None), _home(value)
    if torch and isinstance(value, torch.Tensor):
        as_bytes = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return [str(value.dtype), *value.shape, as_bytes]
    if isinstance(value, set | frozenset):
        return sorted(value, key=lambda each: getattr(each, "__qualname__", repr(each)))
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, CodeType):  # without line numbers and file name
        return [value.co_name, value.co_code, value.co_exceptiontable, value.co_names, value.co_consts]
    if callable(wrapped) and not isinstance(value, FunctionType):  # a static or class method, a cache
        return [type(value).__name__, wrapped]
    if home is None:
        return None
    if not is_the_users(home):  # a library's decorator may wrap a function of the user
        return [home, getattr(value, "__qualname__", ""), wrapped]
    if isinstance(value, FunctionType):
        return [value.__code__, value.__defaults__, value.__kwdefaults__, _outside(value)]
    own = {n: m for n, m in vars(value).items() if not n.startswith("__") or isinstance(m, FunctionType)}
    own.pop("_abc_impl", None)
    fields = getattr(value, "__pydantic_fields__", {}).items()
    return [own, getattr(value, "__bases__", ()), {name: [f.default, f.default_factory] for name, f in fields}]


def _home(value: Any) -> str | None:
    """The name of the module that defines a class or function, or of a module itself; None for any other value."""
    if isinstance(value, FunctionType):
        return value.__globals__.get("__name__")
    if isinstance(value, ModuleType):
        return value.__name__
    return getattr(value, "__module__", None) if hasattr(value, "__qualname__") else None  # generators have no module


def _outside(function: FunctionType) -> dict[str, Any]:
    """The values a function refers to, by name: its closure, globals, and the user's modules that it imports."""
    code, namespace = function.__code__, function.__globals__
    found = {name: cell.cell_contents for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)}
    codes = [code]
    for each in codes:  # grows by the nested ones
        codes += [inner for inner in each.co_consts if isinstance(inner, CodeType)]
        steps = list(dis.get_instructions(each))
        for place, step in enumerate(steps):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                found[step.argval] = namespace.get(step.argval)
            elif step.opname == "IMPORT_NAME":
                module = resolve_name("." * steps[place - 2].argval + step.argval, namespace.get("__package__"))
                if is_the_users(module):
                    found[module] = import_module(module)
    return found
