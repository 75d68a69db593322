"""What the cells that ran in a kernel assign, so that a mistyped parameter does not pass as a variable."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

CHECK = "from_notebook("  # in the cell that checks the parameters
IN_THE_KERNEL = ("time", "capture", "prun")  # cell magics whose body binds names in the kernel


@dataclass(frozen=True)
class Cell:
    """One executed cell: its top-level assignments, name to (source of the value, whether that is a literal)."""

    place: str  # "In [3]", or "cell 3" where the kernel keeps no history
    assigned: dict[str, tuple[str, bool]]
    injected: bool  # by papermill
    checks: bool  # calls `from_notebook`
    only_assigns: bool  # nothing else but imports and magics


def executed_cells(shell: Any) -> list[Cell]:
    """The cells that ran, the present one last; nbval keeps no history, there the compiled cells are told in order."""
    history = shell.user_ns.get("In", [""])
    if len(history) > 1:
        return [_cell(source, f"In [{number}]") for number, source in enumerate(history) if source]
    compiled = [linecache.getlines(name) for name in getattr(shell.compile, "_filename_map", ())]
    return [_cell("".join(lines), f"cell {number}") for number, lines in enumerate(compiled, 1)]


def parameter_cells(cells: Sequence[Cell], fields: Collection[str]) -> list[Cell]:
    """The latest cells that set parameters, back to the check before them; papermill's and literals-only ones too.

    Cells above them that only compute (a notebook's first screen, with its kept answer) are none.
    """
    segment: list[Cell] = []
    for cell in reversed(cells[:-1]):
        if cell.checks and any(_sets_parameters(each, fields) for each in segment):
            break
        segment.insert(0, cell)
    first = next((place for place, cell in enumerate(segment) if _sets_parameters(cell, fields)), 0)
    segment = [cell for cell in segment[:first] if any(plain for _, plain in cell.assigned.values())] + segment[first:]
    return [cell for cell in segment if _sets_parameters(cell, fields) or (cell.only_assigns and not cell.checks)]


def suspects(cell: Cell, fields: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Names that a parameter cell assigns and that are no parameter, and whether they are wrong however they are spelt.

    The others (computed ones, and those of cells that set no parameter at all) are wrong where they resemble one.
    """
    certain = _sets_parameters(cell, fields)
    for name, (_, literal) in cell.assigned.items():
        if name not in fields and not name.startswith("_"):
            yield name, cell.injected or (certain and literal)


def _sets_parameters(cell: Cell, fields: Collection[str]) -> bool:
    return cell.injected or any(name in fields for name in cell.assigned)


def _cell(source: str, place: str) -> Cell:
    statements = _statements(source)
    assigned: dict[str, tuple[str, bool]] = {}
    for statement in statements:
        for target, value in _assignments(statement):
            assigned[target] = ast.unparse(value), _is_literal(value)
    known = ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Import | ast.ImportFrom | ast.Expr
    return Cell(
        place,
        assigned,
        injected=source.lstrip().startswith("# Parameters"),
        checks=CHECK in source,
        only_assigns=all(isinstance(statement, known) for statement in statements),
    )


def _statements(source: str) -> list[ast.stmt]:
    """A cell's statements, those in the body of a cell magic included; magics in lines are calls by now."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError):
        return []
    match statements:
        case [
            ast.Expr(ast.Call(ast.Attribute(attr="run_cell_magic"), [ast.Constant(magic), _, ast.Constant(str(body))]))
        ] if magic in IN_THE_KERNEL:
            from IPython.core.inputtransformer2 import TransformerManager

            return _statements(TransformerManager().transform_cell(body))
    return statements


def _assignments(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """Names that a statement assigns, with their values; all of a tuple's names have the whole value, if need be."""
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets: list[ast.expr] = [statement.target]
    elif isinstance(statement, ast.Assign):
        targets = statement.targets
    else:
        return
    value = statement.value
    assert value is not None
    for target in targets:
        if isinstance(target, ast.Name):
            yield target.id, value
        elif isinstance(target, ast.Tuple | ast.List):
            parts = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            values = parts if len(parts) == len(target.elts) else [value] * len(target.elts)
            yield from (
                (each.id, part) for each, part in zip(target.elts, values, strict=True) if isinstance(each, ast.Name)
            )


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float" and node.args:
        node = node.args[0]  # papermill writes NaN as float('nan')
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return False
    return True
