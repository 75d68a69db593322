"""What a sweep's cases are called: by what they differ in."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from anm_nb.sweep.files import PlannedCase, as_text

LONGEST = 120  # characters; file systems allow 255 bytes, with an ending and a folder's prefix
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.+=,_-]+")


def differing(cases: Sequence[PlannedCase]) -> list[str]:
    """The parameters whose values are not the same in all cases of one of the notebooks, in their notebook's order."""
    names: dict[str, None] = {}
    for notebook in dict.fromkeys(case.notebook for case in cases):
        of_notebook = [case.values for case in cases if case.notebook == notebook]
        for name in dict.fromkeys(name for values in of_notebook for name in values):
            if len({as_text(values.get(name)) for values in of_notebook}) > 1:
                names[name] = None
    return list(names)


def case_names(cases: Sequence[PlannedCase]) -> list[str]:
    """A name for each case, good as a file name: its notebook where there are several, and what differs in its cases.

    `size=5,strategies=stock-anm`; too long a name, or one that two cases would share, ends in a digest of them.
    """
    several = len({case.notebook for case in cases}) > 1
    names = [_name(case, differing([c for c in cases if c.notebook == case.notebook]), several) for case in cases]
    shared = Counter(name.casefold() for name in names)  # some file systems do not tell A from a
    return [
        _with_digest(name, case) if len(name) > LONGEST or shared[name.casefold()] > 1 else name
        for name, case in zip(names, cases, strict=True)
    ]


def _name(case: PlannedCase, names: Sequence[str], with_notebook: bool) -> str:
    parts = [f"{name}={_plain(case.values.get(name))}" for name in names]
    if with_notebook or not parts:
        parts.insert(0, case.notebook.stem)
    return NOT_IN_NAMES.sub("_", ",".join(parts))


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_plain, value))
    if isinstance(value, Mapping):
        return "-".join(f"{name}.{_plain(each)}" for name, each in value.items())
    return format(value, ".10g") if isinstance(value, float) else str(value)


def _with_digest(name: str, case: PlannedCase) -> str:
    digest = hashlib.sha256(as_text([str(case.notebook), case.values]).encode()).hexdigest()[:8]
    return f"{name[: LONGEST - 9]}-{digest}"
