"""How cases ended, kept beside the executed notebooks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

OUTCOMES_FILE = "outcomes.json"


@dataclass(frozen=True)
class Outcome:
    """How a case ended: wall-clock seconds with the kernel's start, peak resident memory in MiB, and why it failed.

    The peak is that of the largest process of the case, papermill's or the kernel's. Both are 0 where the machine that
    ran it was lost. `digest` is the case's; `runs` are the keys of the stored runs that the notebook was served.
    """

    name: str
    status: Literal["done", "failed"]
    seconds: float
    peak_mib: float
    error: str | None = None
    digest: str | None = None
    runs: tuple[str, ...] = ()


def write_outcomes(outcomes: Iterable[Outcome], folder: Path) -> None:
    """Write the outcomes, by name, as a table beside the executed notebooks, in one step.

    Raises OSError where there is no room; the table that was there before stays.
    """
    from anm_nb.files import replace_whole

    folder.mkdir(parents=True, exist_ok=True)
    rows = [asdict(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.name)]
    replace_whole(folder / OUTCOMES_FILE, f"{json.dumps(rows, indent=1)}\n".encode())


def read_outcomes(folder: Path) -> list[Outcome]:
    """The outcomes stored in a folder of executed notebooks; none where no run has finished there yet."""
    path = folder / OUTCOMES_FILE
    if not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Outcome(**row | {"runs": tuple(row.get("runs", ()))}) for row in rows]
