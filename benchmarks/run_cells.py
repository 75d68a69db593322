"""Run some cells of a notebook as plain Python, where there is no Jupyter: on a GPU that is at hand for a short time.

    python benchmarks/run_cells.py notebooks/17_search_or_model.ipynb --profile mid --set keep=true [--budget SECONDS]

Cells tagged `parameters`, `settings` and `study` are executed in order, with the profile's values and those given, the
last ones winning. What they store (runs, kept results) is where a notebook finds it. A training that is running when
the budget is spent saves its state, and the same command goes on from there (exit status 3).
"""

from __future__ import annotations

import argparse
import ast
import json
import linecache
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from anm_nb.config import in_place_of_the_kernel
from anm_nb.training import OutOfTime, time_limit

TAGS = {"parameters", "settings", "study"}
ROOT = Path(__file__).resolve().parents[1]
UNFINISHED = 3


def main() -> None:
    """Parse the command line and run the cells, telling what each takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--profile", help="a folder of params/")
    parser.add_argument("--all", action="store_true", help="all code cells, whatever their tags; needs IPython")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds of training")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="VALUE as in YAML")
    asked = parser.parse_args()
    values: dict[str, Any] = {}
    if asked.profile:
        profile = ROOT / "params" / asked.profile / f"{asked.notebook.stem}.yaml"
        values |= yaml.safe_load(profile.read_text("utf-8")) or {}
    values |= {name: yaml.safe_load(text) for name, _, text in (each.partition("=") for each in asked.set)}
    given: dict[str, Any] = {}
    if asked.all:
        from IPython.display import display

        given = {"display": display}  # as a kernel has it
    try:
        with time_limit(asked.budget):
            run_cells(asked.notebook, values, lambda cell: asked.all or bool(TAGS & tags_of(cell)), given)
    except OutOfTime as error:
        print(f"goes on next time: {error}")
        sys.exit(UNFINISHED)


def tags_of(cell: Mapping[str, Any]) -> set[str]:
    """The tags of a cell."""
    return set(cell["metadata"].get("tags", []))


def run_cells(
    notebook: Path,
    values: dict[str, Any],
    chosen: Callable[[Mapping[str, Any]], bool],
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The names that the chosen code cells leave, run in order in one module that begins with what is `given`.

    A settings cell finds `values` in place of those of the parameter cell.
    """
    module = sys.modules["notebook"] = ModuleType("notebook")  # where pydantic looks up what annotations name
    names = module.__dict__
    names.update(given or {})
    parameters = values
    for number, cell in enumerate(json.loads(notebook.read_text("utf-8"))["cells"], 1):
        if cell["cell_type"] != "code" or not chosen(cell):
            continue
        tags = tags_of(cell)
        began = time.time()
        with in_place_of_the_kernel(parameters):
            source, name = "".join(cell["source"]), f"{notebook.name}, cell {number}"
            linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name  # a run's key needs it
            exec(compile(source, name, "exec"), names)
        if "parameters" in tags:
            stored = (node for node in ast.walk(ast.parse("".join(cell["source"]))) if isinstance(node, ast.Name))
            parameters = {node.id: names[node.id] for node in stored if isinstance(node.ctx, ast.Store)} | values
        print(f"cell {number} ({', '.join(sorted(tags))}): {time.time() - began:.1f} s", flush=True)
    return names


if __name__ == "__main__":
    main()
