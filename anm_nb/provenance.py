"""Where a result comes from: commit, versions, device, command."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "pandas", "scipy", "pydantic", "safetensors")


def describe_environment(device: str, threads: int | None = None) -> dict[str, Any]:
    """Versions, commit, machine, threads and command (of absolute paths the names only) of a result just computed.

    `device` is cpu or cuda. `peak_memory_mib` is that of the largest process: this one, or one it started and that has
    ended.
    """
    import torch

    peak = max(resource.getrusage(whose).ru_maxrss for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    on_gpu = device == "cuda" and torch.cuda.is_available()
    return {
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if on_gpu else f"{device} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "platform": platform.platform(),
        "peak_memory_mib": peak / (2**20 if sys.platform == "darwin" else 2**10),
        "command": _command(sys.argv),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def package_root() -> Path:
    """The folder that this package's code lies in; a clone's, unless the package was installed as a copy."""
    return Path(__file__).resolve().parents[1]


def checkout_state() -> dict[str, Any]:
    """`commit` of this checkout and whether it is `dirty`; both None, and `no_commit` says why, where there is none.

    The reason is warned of once. A repository around the checkout does not count, nor one that GIT_DIR names.
    """
    root = package_root()
    try:
        top = Path(_git(root, "rev-parse", "--show-toplevel")).resolve()
        if top != root.resolve() or not (root / "pyproject.toml").exists():
            raise _NoCommit(f"the package's folder is no checkout of its own, but lies in the repository '{top.name}'")
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except _NoCommit as reason:
        _warn_once(f"results carry no commit: {reason}")
        return {"commit": None, "dirty": None, "no_commit": str(reason)}


class _NoCommit(Exception):
    pass


@cache
def _warn_once(said: str) -> None:
    warnings.warn(said, stacklevel=4)


def _git(root: Path, *arguments: str) -> str:
    """What git answers. Raises `_NoCommit` with git's own words, or where there is no git."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = kept | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", *arguments]
    try:
        answer = subprocess.run(command, cwd=root, env=environment, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _NoCommit(f"git cannot be run ({error.__class__.__name__})") from None
    if answer.returncode:
        raise _NoCommit(answer.stderr.decode(errors="replace").strip().partition("\n")[0])
    return answer.stdout.decode(errors="replace").strip()


def _command(argv: Sequence[str]) -> str:
    """A command without the machine's folders, alone or behind an option's equals sign."""
    program, *arguments = argv or [""]
    parts = [argument.rpartition("=") for argument in arguments]
    named = [option + equals + (Path(value).name if os.path.isabs(value) else value) for option, equals, value in parts]
    return " ".join([Path(program).name, *named])
