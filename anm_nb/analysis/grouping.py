"""Which runs can be compared with one another, and what they are then called: from their configs as plain data.

Runs are comparable where everything in their configs is the same but the seeds and what the method consists of.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from anm_nb.config import ParameterError
from anm_nb.ranking.train import ITERATED_FIELDS
from anm_nb.run import flat

Settings = Mapping[str, Any]
Family = Literal["energy", "ranking"]

METHOD_FIELDS: dict[Family, tuple[str, ...]] = {
    "energy": (
        "negatives",
        "contrastive_weight",
        "contrastive_weight_end",
        "contrast_from",
        "soft_label",
        "balance",
        "probes",
    ),
    "ranking": ("routing", "max_inner_iters", *ITERATED_FIELDS),
}
NO_NEGATIVES, ONE_PASS, WHOLE_HRM = "none", "no iteration", "HRM per token"
NAMED = 3  # so many differing values make a name, more would not be read


def family_of(settings: Settings) -> Family:
    """The family that a config is of. Raises `ParameterError` for one of neither."""
    if "task" in settings and "routing" in settings:
        return "ranking"
    if "task" in settings and "negatives" in settings:
        return "energy"
    raise ParameterError("a config with neither negatives nor routing: it is of no family that is compared here")


def comparable(settings: Settings) -> str:
    """A text that two configs share exactly where their runs can be compared. Raises as `family_of`."""
    left_out = {"seeds", *METHOD_FIELDS[family_of(settings)]}
    return json.dumps({name: value for name, value in settings.items() if name not in left_out}, sort_keys=True)


def method_of(settings: Settings) -> str:
    """What a run is of: the name of its negatives, or the comparator (`ranking.variants`) that it is."""
    if family_of(settings) == "energy":
        negatives = settings["negatives"]
        return str(negatives["name"] if isinstance(negatives, Mapping) else negatives or NO_NEGATIVES)
    routing = settings["routing"]
    if settings["max_inner_iters"] == 1:
        return ONE_PASS
    if routing in ("uniform", "random"):
        tied = "weight-tied" if routing == "uniform" else "random α"
        return tied if settings.get("tied", True) else "deep untied"
    if not settings.get("trained_routing", True):
        return "untrained controller"
    if not settings.get("slow_state", True):
        return "one timescale"
    return "equal timescales" if settings["hrm_period"] == 1 else f"HRM per {routing}"


def method_names(group: Sequence[Settings]) -> list[str]:
    """A name of its own for each config of a group: its method, with the values that tell it from others of that."""
    names = [method_of(settings) for settings in group]
    fields = METHOD_FIELDS[family_of(group[0])] if group else ()
    leaves = [_leaves({name: settings.get(name) for name in fields}) for settings in group]
    by_name = defaultdict(list)
    for name, own in zip(names, leaves, strict=True):
        by_name[name].append(own)
    pairs = zip(names, leaves, strict=True)
    return _numbered([_with_values(name, own, _unusual(own, by_name[name])) for name, own in pairs])


def experiment_names(names: Sequence[str], settings: Sequence[Settings]) -> list[str]:
    """A name of its own for each of several experiments: those of one name say what differs from the first of it."""
    first: dict[str, dict[str, Any]] = {}
    named = []
    for name, values in zip(names, settings, strict=True):
        left_out = {"seeds", *METHOD_FIELDS[family_of(values)]}
        leaves = _leaves({field: value for field, value in values.items() if field not in left_out})
        base = first.setdefault(name, leaves)
        named.append(_with_values(name, leaves, [leaf for leaf in leaves if leaves[leaf] != base.get(leaf)]))
    return _numbered(named)


def _leaves(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in flat(settings).items() if not isinstance(value, Mapping)}


def _unusual(own: Mapping[str, Any], several: Sequence[Mapping[str, Any]]) -> list[str]:
    """The values of a config, by dotted name, that most of several do not share; all that vary where none is shared."""
    found = []
    for name, value in own.items():
        counted = Counter(str(other.get(name)) for other in several)
        ((usual, times),) = counted.most_common(1)
        if len(counted) > 1 and (str(value) != usual or times == 1):
            found.append(name)
    return found


def _with_values(name: str, leaves: Mapping[str, Any], shown: Sequence[str]) -> str:
    values = [f"{leaf.rpartition('.')[2]} = {_value_text(leaves[leaf])}" for leaf in shown]
    more = ["…"] if len(values) > NAMED else []
    return ", ".join([name, *values[:NAMED], *more])


def _value_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _numbered(names: Sequence[str]) -> list[str]:
    """Names that occur again get a number."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return numbered
