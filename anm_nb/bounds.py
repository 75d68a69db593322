"""Bounds of parameters: types of fields that refuse a slip of the keyboard, and memory that is not there.

Bounds lie where no experiment of the field goes; what is large but may be meant is held against the machine's memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from anm_nb.config import ParameterError, shown

if TYPE_CHECKING:
    from torch import nn

COPIES = 5  # of the weights in training: themselves, their gradient, Adam's two moments and the EMA


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("each may appear once")
    return values


def whole(most: int, least: int = 1) -> Any:
    """Field of a whole number from `least` to `most`."""
    return Field(gt=least - 1, le=most) if least == 1 else Field(ge=least, le=most)


Distinct = AfterValidator(_distinct)
SEVERAL = Field(strict=False, min_length=1, max_length=1000)
Seed = Annotated[int, whole(2**32 - 1, least=0)]
Seeds = Annotated[tuple[Seed, ...], SEVERAL, Distinct]
Steps = Annotated[int, whole(10**8)]  # of the optimiser
Epochs = Annotated[int, whole(10**5)]  # each is measured and recorded
Records = Annotated[int, whole(10**4, least=3)]
Count = Annotated[int, whole(10**4)]  # of iterations, heads, candidates
Counts = Annotated[tuple[Count, ...], SEVERAL, Distinct]
Problems = Annotated[int, whole(10**6)]  # fresh ones of an evaluation, all held at once
Examples = Annotated[int, whole(10**9)]  # what they take is held against the machine's memory (`require_memory`)
Size = Annotated[int, whole(10**5)]  # items, or the side of a matrix or board; memory as above
Width = Annotated[int, whole(10**5)]
Threads = Annotated[int, whole(1024)]
LearningRate = Annotated[float, Field(gt=0, le=1)]  # Adam moves a weight by about so much a step
Weight = Annotated[float, Field(ge=0, le=1000)]  # of a part of the loss, in units of the main part
Weights = Annotated[tuple[Weight, ...], SEVERAL, Distinct]
Decay = Annotated[float, Field(ge=0, lt=1)]  # of an average
Rate = Annotated[float, Field(ge=0, lt=1)]
Rates = Annotated[tuple[Rate, ...], SEVERAL, Distinct]
Fraction = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[float, Field(gt=0, le=1000)]
Temperatures = Annotated[tuple[Temperature, ...], SEVERAL, Distinct]


def machine_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_memory(values: Mapping[str, Any], needed: Mapping[str, float]) -> None:
    """Raise `ParameterError` with the estimate where the bytes `needed` are more than the machine has.

    `needed` holds lower bounds, so that nothing is refused that would run, by the parameters they come from ("batch
    size"); the message names those of the parts that matter, with their `values`.
    """
    total, available = sum(needed.values()), machine_memory()
    if total > available:
        names = dict.fromkeys(name for part, size in needed.items() if size > total / 10 for name in part.split())
        said = ", ".join(f"{name} = {shown(values[name])}" for name in names)
        gib = f"{total / 2**30:,.1f} GiB; there are {available / 2**30:,.1f} GiB"
        raise ParameterError(f"{said}: needs at least {gib}")


def weight_bytes(make_network: Callable[[], nn.Module], kept: int = 0) -> int:
    """Bytes of one seed's weights in training, in float32, `kept` records of them included; nothing is allocated."""
    import torch

    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in make_network().parameters())
    return 4 * (COPIES + kept) * weights
