"""Networks of one shape as one, evaluated by a vmap over their stacked parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel


class StackedNetwork(nn.Module):
    """S networks of one shape as one, each parameter and buffer stacked along a new first dimension.

    The `members` stay usable: their tensors become views of the stack, so what is written to either is in both.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = tuple(members)
        self.network = _Applied(deepcopy(members[0]))
        _stacks_of(members, self.network.inner)
        self.train(members[0].training)

    def each(self, function: Callable[..., Any], *inputs: Tensor) -> Any:
        """function(network, *inputs) for every network, with its slice of inputs [S, …]; its tensors as [S, …]."""
        state = dict(self.network.named_parameters()) | dict(self.network.named_buffers())

        def one(state: dict[str, Tensor], *inputs: Tensor) -> Any:
            return functional_call(self.network, state, (function, *inputs))

        # vmap knows no rule for the CPU's fused attention and would take one seed after the other
        on_cpu = inputs[0].device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext():
            return torch.vmap(one)(state, *inputs)

    def forward(self, *rows: Shaped[Tensor, "..."]) -> Tensor:
        """The networks' outputs for rows [S·b, …] of all seeds, seed after seed, in the same order."""
        plain = (each if type(each) is Tensor else each.as_subclass(Tensor) for each in rows)  # not under torch.compile
        return self.each(_call, *(each.unflatten(0, (len(self.members), -1)) for each in plain)).flatten(0, 1)


class _Applied(nn.Module):
    """Any function of a network as a module's forward, which is all that `functional_call` calls."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, function: Callable[..., Any], *inputs: Tensor) -> Any:
        return function(self.inner, *inputs)


def _call(network: nn.Module, *inputs: Tensor) -> Any:
    return network(*inputs)


def _stacks_of(members: Sequence[nn.Module], holder: nn.Module) -> None:
    """Put stacks of the members' tensors in the place of the holder's, and views of the stacks in the members'."""
    stacks: dict[int, Tensor] = {}  # by the first member's tensor, which two of its modules may share
    for into, *owners in zip(holder.modules(), *(member.modules() for member in members), strict=True):
        for kind in ("_parameters", "_buffers"):
            for name, first in getattr(owners[0], kind).items():
                if first is None:
                    continue
                if id(first) not in stacks:
                    stacks[id(first)] = _stack_of([getattr(owner, kind)[name] for owner in owners])
                getattr(into, kind)[name] = stacks[id(first)]


def _stack_of(tensors: Sequence[Tensor]) -> Tensor:
    stack = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, view in zip(tensors, stack, strict=True):
        tensor.data = view
    return nn.Parameter(stack, tensors[0].requires_grad) if isinstance(tensors[0], nn.Parameter) else stack
