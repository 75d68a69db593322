"""The package's floors: imports run downward only, without circles, and files are short."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "anm_nb"
# From the ground up; what is not named stands on top. The two families do not know each other.
FLOORS = (
    ("config",),
    ("files", "store", "identity"),
    ("training",),
    ("tasks",),
    ("energy", "ranking"),
    ("analysis",),
)
LINES = 300


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def part_of(module: str) -> str:
    """The file or folder of the package that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def floor_of(module: str) -> int:
    return next((place for place, names in enumerate(FLOORS) if part_of(module) in names), len(FLOORS))


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from run_time_nodes(child)


def imports_of(path: Path) -> set[str]:
    """The package's modules that a file imports, at import or later."""
    found = set()
    for node in run_time_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "anm_nb":
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if each in MODULES else node.module for each in named}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
    return found


IMPORTS = {module: imports_of(path) for module, path in MODULES.items()}


def test_every_part_of_a_floor_exists():
    assert {name for floor in FLOORS for name in floor} <= {part_of(module) for module in MODULES}


def test_no_imports_go_round_in_a_circle():
    TopologicalSorter({module: found & MODULES.keys() for module, found in IMPORTS.items()}).prepare()  # or CycleError


def test_imports_run_downward():
    steps = [(module, each) for module, found in IMPORTS.items() for each in found if each != "anm_nb"]
    assert [step for step in steps if floor_of(step[1]) > floor_of(step[0])] == []


def test_the_two_families_do_not_know_each_other():
    families = {"energy", "ranking"}
    across = [(m, i) for m, found in IMPORTS.items() for i in found if {part_of(m), part_of(i)} == families]
    assert across == []


@pytest.mark.parametrize("module", MODULES)
def test_a_file_is_short(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= LINES


def test_the_package_does_not_grow():
    """It is to be 7,500 lines in 60 files: lower these numbers with what goes, and do not raise them."""
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values())
    assert lines <= 8_470
    assert len(MODULES) <= 51
