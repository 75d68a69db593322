"""Where things lie: the project, the folder of everything that running makes, and the store in it."""

from __future__ import annotations

import os
from pathlib import Path


def project_root() -> Path:
    """The checkout this package lies in; the current directory when it was installed without one."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def outputs_root() -> Path:
    """The folder for everything that running makes: $ANM_NB_OUTPUTS, else `outputs/` of the project."""
    return Path(os.environ.get("ANM_NB_OUTPUTS") or project_root() / "outputs").resolve()


def store_root() -> Path:
    """The folder of the run store."""
    return outputs_root() / "runs"


def partial_root() -> Path:
    """Where runs grow until they are finished, and the locks of their trainings."""
    return store_root() / ".partial"
