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


def _sweeps_elsewhere() -> Path:
    return store_root() / ".sweeps-elsewhere"


def remember_sweep(folder: Path) -> None:
    """Note the folder of a sweep that lies outside the outputs, so that runs it names are found there and kept."""
    folder = folder.resolve()
    if folder.parent not in results_roots() and folder not in sweeps_elsewhere():
        store_root().mkdir(parents=True, exist_ok=True)
        with _sweeps_elsewhere().open("a", encoding="utf-8") as noted:
            noted.write(f"{folder}\n")


def sweeps_elsewhere() -> list[Path]:
    """The folders that `remember_sweep` noted."""
    noted = _sweeps_elsewhere()
    return [Path(line) for line in noted.read_text(encoding="utf-8").splitlines()] if noted.exists() else []


def results_roots() -> list[Path]:
    """The folders of results: the project's own, and the one asked for where that is another."""
    return list(dict.fromkeys((project_root() / "outputs", outputs_root())))
