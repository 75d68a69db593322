"""Where things lie: the project, the folder of everything that running makes, and the store in it."""

from __future__ import annotations

import os
from pathlib import Path

from anm_nb.config import ParameterError


def clone() -> Path | None:
    """The clone of this project that the package lies in, else the one around the current directory, else None."""
    here = Path.cwd()
    for folder in (Path(__file__).resolve().parents[2], here, *here.parents):
        named = folder / "pyproject.toml"
        if named.is_file() and 'name = "anm-nb"' in named.read_text(encoding="utf-8", errors="replace"):
            return folder
    return None


def project_root() -> Path:
    """The clone, which has what a package does not: notebooks, params, kept results.

    Raises ParameterError where there is none.
    """
    if (root := clone()) is not None:
        return root
    raise ParameterError(
        f"no clone of anm-nb holds this package or the folder {Path.cwd()}: notebooks, params and kept results are in "
        "its git repository only. Clone it, run `pip install -e .` in the clone, or work from inside the clone"
    )


def outputs_root() -> Path:
    """The folder for everything that running makes: $ANM_NB_OUTPUTS, else `outputs/` of the project."""
    return Path(os.environ.get("ANM_NB_OUTPUTS") or (clone() or Path.cwd()) / "outputs").resolve()


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
    return list(dict.fromkeys(((clone() or Path.cwd()) / "outputs", outputs_root())))
