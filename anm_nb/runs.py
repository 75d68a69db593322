"""The run store: a config is trained once, and what it left is read from then on.

A run is a folder `outputs/runs/<key>/`. The key covers the config, the device kind and the text of every training
source, so that neither a changed config nor changed code is ever served an older result. A folder is put in its
place by one rename when all of it is written; until then it lives under `.partial/`, where an interrupted training
resumes from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import linecache
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from filelock import FileLock

from anm_nb.parameters import ParameterError, Parameters

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from anm_nb.training.loop import Trained

NOT_A_USERS = ("anm_nb", "abc", "builtins", "pydantic", "typing")  # whose classes a user's class builds on
PROVENANCE_PACKAGES = ("torch", "numpy", "pandas", "scipy", "pydantic", "safetensors")


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


@dataclass(frozen=True)
class Run:
    """A finished run in the store."""

    path: Path

    @property
    def key(self) -> str:
        """The run's name in the store."""
        return self.path.name

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The config as plain data, readable without the classes it was made of."""
        return json.loads((self.path / "config.json").read_text())["config"]

    @cached_property
    def config(self) -> RunConfig:
        """The config as the object it was; needs every user-defined class in it to be registered."""
        module, name = json.loads((self.path / "config.json").read_text())["class"].split(":")
        config_class: type[RunConfig] = getattr(import_module(module), name)
        return config_class.model_validate_json(json.dumps(self.settings))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Tidy metrics: one row for each seed and recorded step."""
        import pandas as pd

        return pd.read_parquet(self.path / "metrics.parquet")

    @cached_property
    def trace(self) -> dict[str, Tensor]:
        """Arrays recorded over training, each [seeds, records, …]."""
        return _load_tensors(self.path / "trace.safetensors")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Weights: `seed<s>.model.…`, `seed<s>.averaged.…` and, where the loop selected any, `seed<s>.selected.…`."""
        return _load_tensors(self.path / "checkpoint.safetensors")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Versions, commit and dirtiness, device, threads, wall time, peak memory and command of the training."""
        return json.loads((self.path / "provenance.json").read_text())


def project_root() -> Path:
    """The checkout this package lies in; the current directory when it was installed without one."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def outputs_root() -> Path:
    """The folder for everything that running makes: $ANM_NB_OUTPUTS, else `outputs/` of the project."""
    return Path(os.environ.get("ANM_NB_OUTPUTS") or project_root() / "outputs").resolve()


def store_root() -> Path:
    """The folder of the run store."""
    return outputs_root() / "runs"


def run_key(config: RunConfig) -> str:
    """The key of a config: 16 hexadecimal digits over its values, class, device kind and training sources."""
    identity = {
        "class": _class_path(config),
        "config": config.model_dump(mode="json"),
        "device": config.device_kind(),
        "sources": source_digest(config),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def source_digest(config: RunConfig) -> str:
    """A digest of the text of every source that the training depends on, user-defined classes included."""
    digest = hashlib.sha256()
    for name in config.sources:
        for file in _source_files(name):
            digest.update(f"{name}/{file.name}\n".encode() + file.read_bytes())
    for plugin in config.plugins():
        for text in sorted({_defining_text(written) for written in _written_by_the_user(plugin)}):
            digest.update(text.encode())
    return digest.hexdigest()


def get_or_train(config: RunConfig) -> Run:
    """The stored run of a config, trained first where there is none.

    A second process asking for the same run waits for the first, or takes over from its checkpoints if it died.
    """
    key = run_key(config)
    path = store_root() / key
    if not path.exists():
        partial = store_root() / ".partial" / key
        partial.mkdir(parents=True, exist_ok=True)
        with FileLock(store_root() / ".partial" / f"{key}.lock"):
            if not path.exists():
                _train_into(path, partial, config)
    run = Run(path)
    run.__dict__["config"] = config  # spares reading back what is at hand
    return run


def finished_runs() -> list[Run]:
    """Every finished run in the store, oldest first."""
    folders = [entry for entry in store_root().glob("[!.]*") if (entry / "provenance.json").exists()]
    return [Run(folder) for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime)]


def _train_into(path: Path, partial: Path, config: RunConfig) -> None:
    from safetensors.torch import save_file

    started = time.monotonic()
    trained = config.train(partial)
    complete = partial / "complete"
    shutil.rmtree(complete, ignore_errors=True)
    complete.mkdir()
    identity = {"class": _class_path(config), "config": config.model_dump(mode="json")}
    (complete / "config.json").write_text(json.dumps(identity, indent=1))
    trained.metrics.to_parquet(complete / "metrics.parquet")
    save_file(trained.trace, complete / "trace.safetensors")
    save_file(trained.weights, complete / "checkpoint.safetensors")
    provenance = describe_environment(config) | {"wall_seconds": time.monotonic() - started}
    (complete / "provenance.json").write_text(json.dumps(provenance, indent=1))
    os.replace(complete, path)
    shutil.rmtree(partial, ignore_errors=True)


def describe_environment(config: RunConfig) -> dict[str, Any]:
    """Where a result comes from: versions, commit, machine, command."""
    import torch

    device = config.device_kind()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PROVENANCE_PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        "dirty": _is_dirty(),
        "sources": source_digest(config),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "platform": platform.platform(),
        "peak_memory_mib": peak / (2**20 if sys.platform == "darwin" else 2**10),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _git(*arguments: str) -> str | None:
    answer = subprocess.run(["git", *arguments], cwd=project_root(), capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


def _is_dirty() -> bool | None:
    """Whether tracked files differ from the commit; None where there is no commit to differ from."""
    status = _git("status", "--porcelain", "--untracked-files=no")
    return None if status is None else bool(status)


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


def _load_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)
