"""The runs a notebook was served, as its card lists them: what each is, and where it lies as seen from the page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from anm_nb.terminal import plain

RUN_KEY = re.compile(r"[0-9a-f]{16}")
SEEDS_NAMED = 4  # of more, how many there are


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


def shown(summary: Mapping[str, Any]) -> dict[str, str]:
    """Family, task, method, seeds and commit of a run's summary as lists show them; a dash where there is none.

    Few seeds are named and more are counted; a commit has 8 digits, and says if files were changed since.
    """
    names = {name: _printable(summary[name]) for name in ("family", "task", "method")}
    seeds = summary["seeds"]
    commit = _printable(summary["commit"])[:8]
    return names | {
        "seeds": ", ".join(map(str, seeds)) if len(seeds) <= SEEDS_NAMED else f"{len(seeds)} of them",
        "commit": f"{commit}, dirty" if summary["dirty"] else commit,
    }


def _printable(name: str | None) -> str:
    """A name out of a file, short and without control sequences, which a terminal would obey."""
    return "".join(each if each.isprintable() else "�" for each in plain(name or "–")[:60])


def used_runs(keys: Iterable[str], folder: Path) -> tuple[UsedRun, ...]:
    """The runs of these keys for a page in `folder`, in the keys' order.

    A run is sought in the store beside the folder, so that copied outputs hold together, then in the project's stores.
    """
    from anm_nb.files import results_roots

    stores = [root / "runs" for root in (Path(os.path.abspath(folder)).parent, *results_roots())]
    return tuple(_used_run(key, stores, folder) for key in keys)


def _used_run(key: str, stores: list[Path], folder: Path) -> UsedRun:
    from anm_nb.run import CorruptRun, read_manifest

    if not RUN_KEY.fullmatch(key):  # it becomes a path
        return UsedRun(key, problem="not a run's key")
    path = next((store / key for store in stores if (store / key).is_dir()), None)
    if path is None:
        return UsedRun(key, problem="not in the store any more")
    link = quote(Path(os.path.relpath(path, os.path.abspath(folder))).as_posix()) + "/"
    try:
        facts = shown(read_manifest(path).summary)
    except CorruptRun:
        return UsedRun(key, link, problem="not as it was written; anm-nb runs verify says why")
    return UsedRun(key, link, *(facts[name] for name in ("task", "method", "seeds", "commit")))
