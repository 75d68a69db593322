"""Negative strategies as parameters say them: by name, or by name with options; and labels made from what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from anm_nb.config import ParameterError, shown, unknown_name
from anm_nb.energy.miner import MinerConfig
from anm_nb.energy.negatives import STRATEGIES, NegativeStrategy, get_negatives, named_negatives


def strategy_of(value: Any) -> NegativeStrategy | None:
    """A strategy of its name, or of {"name": "anm", "eps": 0.5}; None for "none".

    Options of a strategy's miner stand beside its own. Raises `ParameterError` for anything else, and for names and
    options that do not exist.
    """
    if isinstance(value, str):
        return named_negatives(value)
    if not (isinstance(value, Mapping) and isinstance(value.get("name"), str)):
        raise ParameterError(f"{shown(value)}: write a name, or a name with options: {{'name': 'anm', 'eps': 0.5}}")
    name, options = value["name"], {option: each for option, each in value.items() if option != "name"}
    if name == "none" and not options:
        return None
    own = STRATEGIES.get(name).model_fields
    of_miner = MinerConfig.model_fields if "miner" in own else {}
    for option in options:
        if option not in {**own, **of_miner}:
            raise ParameterError(unknown_name(f"option of '{name}'", option, {**own, **of_miner}))
    given = {option: value for option, value in options.items() if option in own}
    if beside := {option: value for option, value in options.items() if option not in own}:
        given["miner"] = {**dict(given.get("miner", {})), **beside}
    return get_negatives(name, **given)


def labelled(values: Sequence[Any]) -> dict[str, NegativeStrategy | None]:
    """Strategies by label: the name, and the options in which it differs from its defaults or a namesake.

    Two of {"name": "anm", "eps": …} are "anm, eps 0.5" and "anm, eps 2". Raises `ParameterError` as `strategy_of`, and
    ValueError where two are the same.
    """
    names = [value if isinstance(value, str) else value["name"] for value in values]
    strategies = [strategy_of(value) for value in values]
    options = [_options(each) for each in strategies]
    found: dict[str, NegativeStrategy | None] = {}
    for name, own, strategy in zip(names, options, strategies, strict=True):
        others = [each for other, each in zip(names, options, strict=True) if other == name]
        others.append(_options(named_negatives(name)))
        varied = [option for option in own if any(each.get(option) != own[option] for each in others)]
        label = ", ".join([name, *(f"{option} {own[option]}" for option in varied)])
        if label in found:
            raise ValueError("each may appear once")
        found[label] = strategy
    return found


def _options(strategy: NegativeStrategy | None) -> dict[str, Any]:
    """A strategy's options, its miner's among them, without the levels they are nested in."""
    flat: dict[str, Any] = {}
    for name, value in (strategy.model_dump(mode="json") if strategy else {}).items():
        flat |= value if name == "miner" else {name: value}
    return flat


def _known(value: Any) -> Any:
    strategy_of(value)
    return value


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    labelled(values)
    return values


StrategyName = Annotated[str, AfterValidator(_known)]
Strategies = Annotated[  # each a name, "none" among them, or a name with options
    tuple[Annotated[Any, AfterValidator(_known)], ...],
    Field(strict=False, min_length=1, max_length=100),
    AfterValidator(_distinct),
]
