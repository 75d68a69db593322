"""How a notebook's fresh outputs are compared with its stored ones, on top of nbval.

Everything is compared literally, but for decimal numbers: machines differ in the last digits of floating-point results,
so a decimal number of the fresh output may differ from the stored one by a unit of the stored one's last printed digit.
Integers, words, and numbers that are part of a word (versions, names, `12ms`) must be the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from copy import deepcopy
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

# A decimal point with digits after it, or an exponent, standing on its own; spaces before it are a table's padding.
DECIMAL = re.compile(r"( *(?<![\w.])[+-]?(?:\d*\.\d+(?:e[+-]?\d+)?|\d+e[+-]?\d+)(?!\w|\.\w))", re.IGNORECASE)

# Figures differ by font and renderer; a verdict's text twin is compared; stderr carries progress bars and warnings.
UNCOMPARED = ("image/png", "image/jpeg", "image/svg+xml", "application/vnd.anm-nb.verdict+json", "stderr")
WIDGET = "application/vnd.jupyter.widget-view+json"


def align(stored: str, fresh: str) -> str:
    """The fresh text with every decimal that is close enough to the stored one replaced by it."""
    stored_lines, fresh_lines = stored.splitlines(keepends=True), fresh.splitlines(keepends=True)
    if len(stored_lines) != len(fresh_lines):
        return fresh
    return "".join(map(_align_line, stored_lines, fresh_lines))


def _align_line(stored: str, fresh: str) -> str:
    stored_parts, fresh_parts = DECIMAL.split(stored), DECIMAL.split(fresh)
    if stored_parts[::2] != fresh_parts[::2]:  # the text between the decimals
        return fresh
    decimals = map(_nearest, stored_parts[1::2], fresh_parts[1::2])
    return fresh_parts[0] + "".join(d + text for d, text in zip(decimals, fresh_parts[2::2], strict=True))


def _nearest(stored: str, fresh: str) -> str:
    """The stored decimal if the fresh one is within a unit of its last digit, padded alike; else the fresh one."""
    reference, value = Decimal(stored.strip()), Decimal(fresh.strip())
    unit = Decimal(1).scaleb(int(reference.as_tuple().exponent))
    padding_differs = stored[: -len(stored.lstrip())] != fresh[: -len(fresh.lstrip())]
    if abs(reference - value) > unit or (padding_differs and len(stored) != len(fresh)):
        return fresh
    return stored


def align_outputs(stored: Iterable[Any], fresh: Iterable[Any]) -> list[Any]:
    """The fresh outputs of a cell, each text aligned with the stored text of the same kind and turn."""
    texts = defaultdict(list)
    for output in stored:
        for holder, key, kind in _texts(output):
            texts[kind].append(holder[key])
    aligned = deepcopy(list(fresh))
    for output in aligned:
        for holder, key, kind in _texts(output):
            if texts[kind]:
                holder[key] = align(texts[kind].pop(0), holder[key])
    return aligned


def _texts(output: Any) -> Iterator[tuple[Any, str, str]]:
    """Where an output holds text: the mapping, its key, and what kind of text it is."""
    if output["output_type"] == "stream":
        yield output, "text", output["name"]
    for mime, content in output.get("data", {}).items():
        if isinstance(content, str):
            yield output["data"], mime, mime


def _without_widgets(outputs: Iterable[Any]) -> list[Any]:
    """Outputs other than widgets, whose text is a progress bar's or a random name."""
    return [output for output in outputs if WIDGET not in output.get("data", {})]


def pytest_configure(config: pytest.Config) -> None:
    """Put the alignment before nbval's strict comparison, where notebooks are validated at all."""
    if not config.getoption("nbval", False):
        return
    from nbval.plugin import IPyNbCell

    strict = IPyNbCell.compare_outputs

    def compare_outputs(cell: Any, test: list[Any], ref: list[Any], skip_compare: tuple[str, ...] = ()) -> bool:
        stored = _without_widgets(ref)
        fresh = align_outputs(stored, _without_widgets(test))
        return strict(cell, fresh, stored, (skip_compare or cell.parent.skip_compare) + UNCOMPARED)

    IPyNbCell.compare_outputs = compare_outputs
