"""Where a result comes from: commit, versions, device, command."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
import warnings
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
    words = [word.rpartition("=") for word in sys.argv]
    return {
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if on_gpu else f"{device} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "platform": platform.platform(),
        "peak_memory_mib": peak / (2**20 if sys.platform == "darwin" else 2**10),
        "command": " ".join(f"{a}{b}{Path(c).name if os.path.isabs(c) else c}" for a, b, c in words),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def package_root() -> Path:
    """The folder that this package's code lies in; a clone's, unless the package was installed as a copy."""
    return Path(__file__).resolve().parents[1]


def checkout_state() -> dict[str, Any]:
    """`commit` of this checkout and whether it is `dirty`; both None, with a warning, and `no_commit` says why.

    A repository around the checkout does not count, nor one that GIT_DIR names.
    """
    root = package_root()
    command = ["git", f"--git-dir={root / '.git'}", f"--work-tree={root}", "--no-optional-locks"]
    command += ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(command, cwd=root, env=env, capture_output=True, timeout=60, check=True, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        reason = str(getattr(error, "stderr", None) or f"git cannot be run ({type(error).__name__})").strip()
        warnings.warn(f"results carry no commit: {reason}", stacklevel=3)
        return {"commit": None, "dirty": None, "no_commit": reason}
    commit, _, dirty = answer.stdout.strip().partition("-")
    return {"commit": commit, "dirty": bool(dirty)}
