"""What cells of a notebook define, for tests of it."""

import json
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def names_of(notebook: str, *ids: str, **given: Any) -> dict[str, Any]:
    """The names that these cells leave, run in one namespace that begins with what cells before them have given."""
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text("utf-8"))["cells"]
    sources = {cell["id"]: "".join(cell["source"]) for cell in cells}
    names: dict[str, Any] = given
    for each in ids:
        exec(compile(sources[each], f"{notebook}, cell {each}", "exec"), names)
    return names
