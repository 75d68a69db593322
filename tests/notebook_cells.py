"""What cells of a notebook define, for tests of it."""

from collections.abc import Mapping
from typing import Any

from run_cells import ROOT, run_cells


def names_of(notebook: str, *ids: str, given: Mapping[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    """The names that these cells leave, after what cells before them have given, as `run_cells` says."""
    return run_cells(ROOT / "notebooks" / f"{notebook}.ipynb", values, lambda cell: cell["id"] in ids, given)
