"""What a finished case depends on: when none of it has changed, the case need not run again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import anm_nb
from anm_nb.sweep.files import PlannedCase, as_text
from anm_nb.sweep.settings import code_cells

ABOVE_THE_NOTEBOOKS = ("sweep/", "cli.py", "gallery/", "terminal.py")  # what no notebook's result depends on


def code_digest(notebook: Path) -> str:
    """A digest of the code that a notebook runs: its cells, and every source of this package that it may build on."""
    package = Path(anm_nb.__file__).parent
    digest = hashlib.sha256(json.dumps(code_cells(notebook)).encode())
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        if not name.startswith(ABOVE_THE_NOTEBOOKS) and not name.endswith("_command.py"):
            digest.update(f"{name}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def case_digest(case: PlannedCase, code: str) -> str:
    """16 hexadecimal digits over a case's notebook, its parameters and `code_digest`; not over outputs."""
    identity = [case.notebook.stem, case.values, code]
    return hashlib.sha256(as_text(identity).encode()).hexdigest()[:16]
