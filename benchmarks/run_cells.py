"""Run some cells of a notebook as plain Python, without Jupyter, such as on a GPU that is available for a short time.

    python benchmarks/run_cells.py notebooks/17_search_or_model.ipynb --profile mid --set keep=true [--budget SECONDS]

Cells tagged `parameters`, `settings` and `study` run in order with the profile's values; values of --set take
precedence. Their runs and kept results are stored where the notebook finds them. When the budget is spent, a running
training saves its state (exit status 3), and the same command continues from there.
"""

from __future__ import annotations

import argparse
import ast
import json
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
    """Parse the command line, run the cells and print the time of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--profile", help="a folder of params/")
    parser.add_argument("--all", action="store_true", help="all code cells, regardless of tags; needs IPython")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds of training")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="VALUE as in YAML")
    args = parser.parse_args()
    values: dict[str, Any] = {}
    if args.profile:
        profile = ROOT / "params" / args.profile / f"{args.notebook.stem}.yaml"
        values |= yaml.safe_load(profile.read_text("utf-8")) or {}
    values |= {name: yaml.safe_load(text) for name, _, text in (each.partition("=") for each in args.set)}
    predefined: dict[str, Any] = {}
    if args.all:
        from IPython.display import display

        predefined = {"display": display}  # as in a kernel
    try:
        with time_limit(args.budget):
            run_cells(args.notebook, values, lambda cell: args.all or bool(TAGS & tags_of(cell)), predefined)
    except OutOfTime as error:
        print(f"continues next time: {error}")
        sys.exit(UNFINISHED)


def tags_of(cell: Mapping[str, Any]) -> set[str]:
    """The tags of a cell."""
    return set(cell["metadata"].get("tags", []))


def run_cells(
    notebook: Path,
    values: dict[str, Any],
    chosen: Callable[[Mapping[str, Any]], bool],
    predefined: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the chosen code cells in order in one module with `predefined` names, and return the module's names.

    A settings cell sees `values` in place of those of the parameter cell.
    """
    module = sys.modules["notebook"] = ModuleType("notebook")  # pydantic looks up annotated names here
    names = module.__dict__
    names.update(predefined or {})
    parameters = values
    for number, cell in enumerate(json.loads(notebook.read_text("utf-8"))["cells"], 1):
        if cell["cell_type"] != "code" or not chosen(cell):
            continue
        tags = tags_of(cell)
        began = time.time()
        with in_place_of_the_kernel(parameters):
            exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), names)
        if "parameters" in tags:
            stored = (node for node in ast.walk(ast.parse("".join(cell["source"]))) if isinstance(node, ast.Name))
            parameters = {node.id: names[node.id] for node in stored if isinstance(node.ctx, ast.Store)} | values
        print(f"cell {number} ({', '.join(sorted(tags))}): {time.time() - began:.1f} s", flush=True)
    return names


if __name__ == "__main__":
    main()
