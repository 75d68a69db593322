"""What a run depends on: its config, and the key made of the config and of the text of every training source."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import linecache
import re
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from anm_nb.config import ParameterError, Parameters

if TYPE_CHECKING:
    from anm_nb.training.loop import Trained

NOT_A_USERS = ("anm_nb", "abc", "builtins", "pydantic", "torch", "typing")  # whose classes a user's class builds on


class RunConfig(Parameters):
    """A config that knows how to train itself; each family subclasses it, so the store never imports a family."""

    sources: ClassVar[tuple[str, ...]]  # packages and modules whose text the result depends on

    @abstractmethod
    def train(self, workdir: Path) -> Trained:
        """Train, resuming from what an interrupted training left in `workdir`."""

    @abstractmethod
    def device_kind(self) -> str:
        """The kind of device that `train` would use here: cpu or cuda."""

    def plugins(self) -> list[type]:
        """Classes that take part in training and may be a user's own; their text enters the key."""
        return []


def run_key(config: RunConfig) -> str:
    """The key of a config: 16 hexadecimal digits over its values, class, device kind and training sources."""
    decisive = identity(config) | {"device": config.device_kind(), "sources": source_digest(config)}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def source_digest(config: RunConfig) -> str:
    """A digest of the text of every source that the training depends on, user-defined classes included."""
    digest = _digest_of(config.sources)
    for plugin in config.plugins():
        for text in sorted({_defining_text(written) for written in _written_by_the_user(plugin)}):
            digest.update(text.encode())
    return digest.hexdigest()


def package_digest(sources: Sequence[str]) -> str:
    """The digest of packages and modules by name: what `source_digest` gives where no class is the user's own."""
    return _digest_of(sources).hexdigest()


def identity(config: RunConfig) -> dict[str, Any]:
    """Class and values of a config, as plain data that `config_from` reads back."""
    return {"class": _class_path(config), "config": config.model_dump(mode="json")}


def config_class(class_path: str) -> type[RunConfig]:
    """The class of a config by `module:name`. Raises ImportError or AttributeError where it is not there."""
    module, name = class_path.split(":")
    return getattr(import_module(module), name)


def config_from(stored: Mapping[str, Any]) -> RunConfig:
    """The config as the object it was; needs every user-defined class in it to be registered."""
    return config_class(stored["class"]).model_validate_json(json.dumps(stored["config"]))


def users_classes(config: RunConfig) -> list[str]:
    """The names of the user's own classes that take part in the training."""
    written = {each for plugin in config.plugins() for each in _written_by_the_user(plugin)}
    return sorted(f"{each.__module__}:{each.__qualname__}" for each in written)


def _digest_of(sources: Sequence[str]) -> hashlib._Hash:
    digest = hashlib.sha256()
    for name in sources:
        for file in _source_files(name):
            digest.update(f"{name}/{file.name}\n".encode() + file.read_bytes())
    return digest


def _class_path(config: RunConfig) -> str:
    return f"{type(config).__module__}:{type(config).__qualname__}"


def _source_files(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ParameterError(f"training source '{name}' does not exist")
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)]
    return sorted(Path(spec.origin).parent.rglob("*.py"))


def _written_by_the_user(plugin: type) -> list[type]:
    """A class and its bases, without those of this package and of the libraries it stands on."""
    return [base for base in plugin.__mro__ if base.__module__.partition(".")[0] not in NOT_A_USERS]


def _defining_text(written: type) -> str:
    """The whole text of the cell or file in which a user's class is written: its own, and that of its neighbours."""
    members = (inspect.unwrap(getattr(member, "__func__", member)) for member in vars(written).values())
    own = [m for m in members if inspect.isfunction(m) and m.__module__ == written.__module__]
    home = getattr(sys.modules.get(written.__module__), "__file__", None)
    files = {function.__code__.co_filename for function in own} or ({home} if home else set())
    linecache.checkcache()
    texts = {"".join(linecache.getlines(file)) for file in files} or {_cell_of(written)}
    if "" in texts:
        raise ParameterError(
            f"the source of {written.__qualname__} cannot be read, so a changed version could be served a stale run; "
            "define it in a notebook cell or a file"
        )
    return "\n".join(sorted(texts))


def _cell_of(written: type) -> str:
    """The latest notebook cell that defines a class; empty where there is none."""
    from IPython import get_ipython

    shell = get_ipython()
    cells = shell.user_ns["In"] if shell else []
    defines = re.compile(rf"^class {written.__name__}\b", re.MULTILINE)
    return next((cell for cell in reversed(cells) if defines.search(cell)), "")
