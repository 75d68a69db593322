"""Changes to the parameters of a run, as findings propose them (ANM checklist, section K)."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from anm_nb.config import ParameterError
from anm_nb.energy.negatives import NegativeStrategy, named_negatives
from anm_nb.energy.train import EnergyConfig
from anm_nb.studies.energy_settings import AnmVsCorruption
from anm_nb.tasks import task_class

MIXED_PARTS = ("first", "second")  # of the strategy `mixed`


@dataclass(frozen=True)
class Times:
    """A factor on the present value of a parameter; whole numbers stay whole, and at least 1."""

    factor: float

    def __str__(self) -> str:
        return f"present × {self.factor:g}"

    def of(self, present: float) -> float:
        """The new value, to three significant digits."""
        return (
            max(1, round(self.factor * present)) if isinstance(present, int) else float(f"{self.factor * present:.3g}")
        )


def prescribed(change: Mapping[str, Any], parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """A change (dotted names to values or `Times`) as values for these parameters; as it is where there are none.

    What the parameters do not have, or have at that value already, is left out.
    """
    if parameters is None:
        return dict(change)
    given = _in_full(parameters)
    values: dict[str, Any] = {}
    for name, value in _for_each_part(change, given).items():
        present = _present(name.split("."), given)
        own = _in_full({**given, name: None}).get(name) if value is None else value
        new = own if not isinstance(own, Times) or present is None else own.of(present)
        if present is not None and new != present:
            values[name] = new
    return values


def _for_each_part(change: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of the negatives as changes of both kinds where they are mixed of two; others as they are."""
    if _present(["negatives", "name"], given) != "mixed":
        return dict(change)
    changes: dict[str, Any] = {}
    for name, value in change.items():
        of, *option = name.split(".")
        whole = of == "negatives" and option and option[0] not in MIXED_PARTS
        names = [".".join([of, part, *option]) for part in MIXED_PARTS] if whole else [name]
        changes |= dict.fromkeys(names, value)
    return changes


def changed(parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the parameters with values put in by their dotted names."""
    result = _in_full(parameters) if any("." in name for name in values) else copy.deepcopy(dict(parameters))
    for name, value in values.items():
        *path, last = name.split(".")
        where = result
        for part in path:
            where = where[part]
        where[last] = value
    return result


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted names of the values that differ, each with both; a default spelt out is no difference."""
    old, new = (_flat(_in_full(parameters)) for parameters in (before, after))
    pairs = {name: (old.get(name), new.get(name)) for name in {**old, **new}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
    return flat


def _in_full(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with a strategy given by name as its options, and a weight left to the task as the task's."""
    given = copy.deepcopy(dict(parameters))
    strategy = given.get("negatives")
    if isinstance(strategy, str) and strategy != "none":
        named = named_negatives(strategy)
        given["negatives"] = {"name": strategy, **(named.model_dump(mode="json") if named else {})}
    if given.get("contrastive_weight", 0) is None and "task" in given:
        with suppress(ParameterError):  # a user's task, not registered here
            given["contrastive_weight"] = getattr(task_class(given["task"]), "contrastive_weight", None)
    return given


def _present(path: list[str], given: Mapping[str, Any]) -> Any:
    """The value at a path; None where it leads nowhere."""
    value: Any = given
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def notebook_parameters(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """A run's settings as the parameters of notebook 10; None where these cannot say all of them.

    A strategy whose options are the defaults of one known by another name is called by that: "anm" with
    `orthogonal_to_noise` is "anm_orthogonal".
    """
    try:
        config = EnergyConfig.model_validate_json(json.dumps(settings))
    except ParameterError:  # another family's run, or a user's own strategy
        return None
    strategy = _name_of(config.negatives)
    values = config.model_dump(mode="json")
    values |= {"strategies": [strategy], "seeds": list(config.seeds)}
    weight = config.make_task().contrastive_weight if config.contrastive_weight is None else config.contrastive_weight
    flat = {name: values[name] for name in AnmVsCorruption.model_fields if name in values}
    flat["contrastive_weight"] = weight
    try:
        (meant,) = AnmVsCorruption.from_mapping(flat).configs().values()
    except ParameterError:  # a task that notebook 10 does not compare on
        return None
    same = meant.model_copy(update={"negatives": None}).model_dump()
    asked = config.model_copy(update={"negatives": None, "contrastive_weight": weight}).model_dump()
    options = [each and each.model_dump() for each in (meant.negatives, config.negatives)]
    return flat if same == asked and options[0] == options[1] else None


def _name_of(strategy: NegativeStrategy | None) -> str:
    """The name that gives these options by default, preferably the strategy's own."""
    if strategy is None:
        return "none"
    for name in (strategy.name, *AnmVsCorruption.model_fields["strategies"].default):
        named = named_negatives(name)
        if isinstance(named, type(strategy)) and named.model_dump() == strategy.model_dump():
            return name
    return strategy.name
