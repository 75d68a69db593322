"""What decides a run: its config, the family's version, the device, and the user's own code that takes part."""

from __future__ import annotations

import ast
import builtins
import dis
import hashlib
import importlib
import json
import linecache
import sys
from abc import abstractmethod
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from anm_nb.config import ParameterError, Parameters

if TYPE_CHECKING:
    from anm_nb.training.run import Trained

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
    def train(self, workdir: Path) -> Trained: ...  # going on from what a training left in the folder of the run's key
    @abstractmethod
    def device_kind(self) -> str: ...  # that `train` would use here: cpu or cuda

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
    return sorted({path_of(base) for plugin in plugins for base in plugin.__mro__ if is_the_users(base.__module__)})


def is_the_users(name: str | None) -> bool:
    """Whether a module is neither of this package nor of Python or an installed library."""
    top = (name or "builtins").partition(".")[0]
    if top == "__main__" or top in (__name__.partition(".")[0], *sys.stdlib_module_names):
        return top == "__main__"
    module = sys.modules.get(top) or find_spec(top)
    places = [getattr(module, "__file__", None), getattr(module, "origin", None), *getattr(module, "__path__", [])]
    return not any({"site-packages", "dist-packages"} & {*Path(place).parts} for place in places if place)


def code_digest(plugins: Iterable[type]) -> str | None:
    """SHA-256 over the user's own code that classes reach; None where they reach none.

    Covered: classes, bases, functions and, by value, constants, followed through global names and imports. A function
    counts by its text without comments and layout; as compiled where there is no text, or another one than what runs.
    Raises `ParameterError` for a value that cannot be read.
    """
    reached: dict[int, Any] = {}  # by id: objects, and the user's classes, functions and modules, in the order met
    document = json.dumps([_description(plugin, reached, plugin.__qualname__) for plugin in plugins])
    return hashlib.sha256(document.encode()).hexdigest() if reached else None


def _description(value: Any, reached: dict[int, Any], name: str) -> Any:
    """A value as data for JSON, in full where it is met first; messages call it by its name."""
    described, kind = partial(_description, reached=reached, name=name), type(value)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return [kind.__name__, repr(value)]
    if kind in (list, tuple, set, frozenset):
        items = value if kind in (list, tuple) else sorted(value, key=repr)
        return [kind.__name__, [described(each) for each in items]]
    if kind is dict:
        return ["dict", described(list(value.items()))]
    if kind is property:
        return described([value.fget, value.fset, value.fdel])
    if isinstance(value, CodeType):
        text = _texts(value.co_filename, "".join(linecache.getlines(value.co_filename))).get(value)
        compiled = value.co_name, value.co_code, value.co_exceptiontable, value.co_names, value.co_consts
        return text or described([*compiled])
    if id(value) in reached:
        return list(reached).index(id(value))
    if (home := _home(value)) and is_the_users(home):
        reached[id(value)] = value
        return [[key, _description(part, reached, of)] for key, part, of in _parts(value)]
    wrapped = getattr(value, "__wrapped__", None)  # of a static or class method, a library's decorator
    if isinstance(value, FunctionType):
        found = [home, value.__code__.co_qualname, described(wrapped)]
        try:
            return [*found, described([cell.cell_contents for cell in value.__closure__ or ()])]
        except ParameterError:
            if wrapped is None:
                raise
            return found  # a decorator may hold what it likes, such as caches
    if callable(wrapped):
        return [kind.__name__, described(wrapped)]
    return [home, getattr(value, "__qualname__", "")] if home else _copy(value, reached, name)


def _copy(value: Any, reached: dict[int, Any], name: str) -> Any:
    """Any other object by what copying it takes."""
    if (torch := sys.modules.get("torch")) and isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return ["tensor", str(value.dtype), list(value.shape), hashlib.sha256(data).hexdigest()]
    reached[id(value)] = value
    try:
        parts = value.__reduce_ex__(4)
    except Exception:
        raise ParameterError(
            f"{name} is a {type(value).__qualname__}, which cannot be read into a run's key, so a changed version "
            "could be served a stale run; a plugin's code may refer to functions, classes, modules and plain data"
        ) from None
    parts = (type(value), value.__module__, parts) if isinstance(parts, str) else parts
    lists = [list(part) if isinstance(part, Iterator) else part for part in parts]
    return ["object", [_description(part, reached, name) for part in lists]]


@lru_cache(maxsize=64)
def _texts(file: str, source: str) -> dict[CodeType, list[str]]:
    """The text of every function in a file, by its compiled code; of lambdas that of all in the line."""
    try:
        tree, whole = ast.parse(source), compile(source, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return {}
    texts: dict[tuple[str, int], list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
            texts.setdefault((getattr(node, "name", "<lambda>"), first), []).append(ast.unparse(node))
    found = ((code, texts.get((code.co_name, code.co_firstlineno))) for code in _nested(whole))
    return {code: text for code, text in found if text}


def _nested(code: CodeType) -> list[CodeType]:
    """A code and all codes inside it."""
    return [code, *(each for one in code.co_consts if isinstance(one, CodeType) for each in _nested(one))]


def _parts(owner: Any) -> Iterator[tuple[str, Any, str]]:
    """What a user's function, class or module is made of: by name, and how a message calls it."""
    name = getattr(owner, "__qualname__", owner.__name__)
    if isinstance(owner, FunctionType):
        yield "", [owner.__code__, owner.__defaults__, owner.__kwdefaults__], name
        for other, found in sorted(_outside(owner).items()):
            yield other, found, f"{other}, which {name} refers to,"
        return
    found = dict(vars(owner))
    if isinstance(owner, type):
        fields = found.get("__pydantic_fields__", {}).items()
        found |= {"bases": owner.__bases__, "fields": {key: [f.default, f.default_factory] for key, f in fields}}
    for key, member in found.items():
        if key != "_abc_impl" and (not key.startswith("__") or isinstance(member, FunctionType)):
            yield key, member, f"{name}.{key}"


def _home(value: Any) -> str | None:
    """The module that holds the code of a class or function; a module itself; None for any other value."""
    if isinstance(value, FunctionType):
        return value.__globals__.get("__name__")
    return value.__module__ if isinstance(value, type) else value.__name__ if isinstance(value, ModuleType) else None


def _outside(function: FunctionType) -> dict[str, Any]:
    """What a function's code takes from outside, by dotted name: globals, its closure, and modules it imports."""
    code, namespace = function.__code__, function.__globals__
    found = {name: cell.cell_contents for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)}
    scope = ChainMap(dict(found), namespace, vars(builtins))
    for each in _nested(code):
        steps = list(dis.get_instructions(each))
        for place, step in enumerate(steps):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                name, value = step.argval, scope.get(step.argval)
                for after in steps[place + 1 :]:  # the user's modules are followed to what is taken of them
                    of_module = isinstance(value, ModuleType) and is_the_users(value.__name__)
                    if not of_module or after.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                        break
                    name, value = f"{name}.{after.argval}", getattr(value, after.argval, None)
                found[name] = value
            elif step.opname == "IMPORT_NAME":
                module = resolve_name("." * steps[place - 2].argval + step.argval, namespace.get("__package__"))
                if is_the_users(module):
                    found[module] = importlib.import_module(module)
    return found
