"""Where a result comes from."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from anm_nb.runs.keys import RunConfig, source_digest
from anm_nb.runs.places import clone

PROVENANCE_PACKAGES = ("torch", "numpy", "pandas", "scipy", "pydantic", "safetensors")


def describe_environment(config: RunConfig) -> dict[str, Any]:
    """Where a result comes from: versions, commit, machine, threads, command (of absolute paths the names only).

    Peak memory is that of this process, or of one it had started and that has ended: whichever was larger.
    """
    import torch

    device = config.device_kind()
    peak = max(resource.getrusage(whose).ru_maxrss for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PROVENANCE_PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        "dirty": _is_dirty(),
        "sources": source_digest(config),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "threads": _threads(config),
        "platform": platform.platform(),
        "peak_memory_mib": peak / (2**20 if sys.platform == "darwin" else 2**10),
        "command": _command(sys.argv),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _command(argv: Sequence[str]) -> str:
    """A command without the machine's folders, whether they stand alone or behind an option's equals sign."""
    program, *arguments = argv
    return " ".join([Path(program).name, *(_without_folder(each) for each in arguments)])


def _without_folder(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    return option + equals + (Path(value).name if os.path.isabs(value) else value)


def _threads(config: RunConfig) -> int:
    """CPU threads of the training: what the config or its loop asks for, else what torch was left with."""
    import torch

    asked = [getattr(holder, "threads", None) for holder in (config, getattr(config, "loop", None))]
    return next((count for count in asked if count is not None), torch.get_num_threads())


def _git(*arguments: str) -> str | None:
    answer = subprocess.run(["git", *arguments], cwd=clone() or Path.cwd(), capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


def _is_dirty() -> bool | None:
    """Whether tracked files differ from the commit; None where there is no commit to differ from."""
    status = _git("status", "--porcelain", "--untracked-files=no")
    return None if status is None else bool(status)
