"""The runs a notebook was served, as its card lists them: what each is, and where it lies as seen from the page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

RUN_KEY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class UsedRun:
    """A run by its key; `link` leads from the page to its folder, and is None, as the rest is, where there is none.

    `problem` says why nothing is known of it. Texts are as lists show them: seeds by name or number, a short commit.
    """

    key: str
    link: str | None = None
    task: str = "–"
    method: str = "–"
    seeds: str = "–"
    commit: str = "–"
    problem: str | None = None


def used_runs(keys: Iterable[str], folder: Path) -> tuple[UsedRun, ...]:
    """The runs of these keys for a page in `folder`, in the keys' order.

    A run is sought in the store beside the folder, so that copied outputs hold together, then in the project's stores.
    """
    from anm_nb.runs.places import results_roots

    stores = [root / "runs" for root in (Path(os.path.abspath(folder)).parent, *results_roots())]
    return tuple(_used_run(key, stores, folder) for key in keys)


def _used_run(key: str, stores: list[Path], folder: Path) -> UsedRun:
    from anm_nb.runs.listing import shown
    from anm_nb.runs.manifest import CorruptRun, Manifest

    if not RUN_KEY.fullmatch(key):  # it becomes a path
        return UsedRun(key, problem="not a run's key")
    path = next((store / key for store in stores if (store / key).is_dir()), None)
    if path is None:
        return UsedRun(key, problem="not in the store any more")
    link = quote(Path(os.path.relpath(path, os.path.abspath(folder))).as_posix()) + "/"
    try:
        facts = shown(Manifest.read(path).summary)
    except CorruptRun:
        return UsedRun(key, link, problem="not as it was written; anm-nb runs verify says why")
    return UsedRun(key, link, *(facts[name] for name in ("task", "method", "seeds", "commit")))
