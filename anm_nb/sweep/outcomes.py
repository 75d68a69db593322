"""How cases ended, kept beside the executed notebooks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

OUTCOMES_FILE = "outcomes.json"


@dataclass(frozen=True)
class Outcome:
    """How a case ended: wall-clock seconds with the kernel's start, peak resident memory in MiB, and why it failed.

    The peak is that of the largest process of the case, papermill's or the kernel's. Both are 0 where the machine that
    ran it was lost. `digest` is the case's; `runs` are the keys of the stored runs that the notebook was served;
    `notebook` is the SHA-256 of the executed notebook, None where there is none. `killed`: it died of a signal.
    """

    name: str
    status: Literal["done", "failed"]
    seconds: float
    peak_mib: float
    error: str | None = None
    digest: str | None = None
    runs: tuple[str, ...] = ()
    notebook: str | None = None
    killed: bool = False


def write_outcomes(outcomes: Iterable[Outcome], folder: Path) -> None:
    """Write the outcomes, by name, each with a checksum of itself, as a table beside the executed notebooks.

    In one step: raises OSError where there is no room, and the table that was there before stays.
    """
    from anm_nb.files import replace_whole

    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(json.dumps(asdict(each))) for each in sorted(outcomes, key=lambda each: each.name)]
    signed = [row | {"checksum": _checksum(row)} for row in rows]
    replace_whole(folder / OUTCOMES_FILE, f"{json.dumps(signed, indent=1)}\n".encode())


def read_outcomes(folder: Path) -> tuple[list[Outcome], list[str]]:
    """The outcomes stored in a folder that are as they were written, and a sentence for each that is not."""
    path = folder / OUTCOMES_FILE
    try:
        rows = json.loads(path.read_bytes())
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError) as error:
        return [], [f"{path} cannot be read ({error})"]
    outcomes, problems = [], []
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        try:
            rest = {name: value for name, value in row.items() if name != "checksum"}
            if row["checksum"] != _checksum(rest):
                raise ValueError("its checksum is another")
            outcomes.append(Outcome(**rest | {"runs": tuple(rest["runs"])}))
        except (ValueError, TypeError, AttributeError, KeyError):
            name = row.get("name") if isinstance(row, Mapping) else None
            problems.append(f"{path}: what it says of {name or f'case {number}'} is not what was written")
    return outcomes, problems


def _checksum(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]
