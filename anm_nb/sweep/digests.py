"""What a finished case depends on: when none of it has changed, the case need not run again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import anm_nb
from anm_nb.sweep.files import PlannedCase, as_text
from anm_nb.sweep.settings import code_cells

ABOVE_THE_NOTEBOOKS = ("sweep/", "cli.py", "gallery/", "doctor_command.py", "runs_command.py", "verdict_command.py")
# what no notebook's result depends on


def sources_digest() -> str:
    """A digest of the text of every source of this package that notebooks build on."""
    package = Path(anm_nb.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        if not name.startswith(ABOVE_THE_NOTEBOOKS):
            digest.update(f"{name}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def case_digest(case: PlannedCase, sources: str) -> str:
    """16 hexadecimal digits over a case's parameters, the code of its notebook and the sources; not over outputs."""
    identity = [case.notebook.stem, case.values, code_cells(case.notebook), sources]
    return hashlib.sha256(as_text(identity).encode()).hexdigest()[:16]
