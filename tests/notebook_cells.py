"""What cells of a notebook define, for tests of it."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from anm_nb.config import in_place_of_the_kernel

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def names_of(notebook: str, *ids: str, given: Mapping[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    """The names that these cells leave, run in one module that begins with what cells before them have given.

    `values` are what a settings cell finds as parameters.
    """
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text("utf-8"))["cells"]
    sources = {cell["id"]: "".join(cell["source"]) for cell in cells}
    module = sys.modules["notebook"] = ModuleType("notebook")  # where pydantic looks up what annotations name
    module.__dict__.update(given or {})
    with in_place_of_the_kernel(values):
        for each in ids:
            exec(compile(sources[each], f"{notebook}, cell {each}", "exec"), module.__dict__)
    return module.__dict__
