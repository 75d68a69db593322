"""Networks of one shape over a seed axis, each parameter and buffer stacked along a new first dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map


class Stack(nn.Module):
    """S networks of one shape as one.

    The `members` stay usable: their tensors are views of the stacks, so what is written to either is in both. Of one
    member nothing is stacked: it is called itself, since batched products of one cost a CPU a fifth more time.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.size, self.members = len(members), tuple(members)  # a tuple is not registered as a submodule
        self.network = _Applied(members[0] if self.size == 1 else deepcopy(members[0]))
        self.stack_of = _stacked(members, self.network.inner)
        self.train(members[0].training)

    def each(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """function(member, *inputs[s]) of every member, for inputs [S, …] or None; its tensors as [S, …]."""
        if self.size == 1:
            taken = tree_map(lambda each: each.squeeze(0) if isinstance(each, Tensor) else each, inputs)
            return tree_map(
                lambda made: made.unsqueeze(0) if isinstance(made, Tensor) else made,
                function(self.network.inner, *taken),
            )
        state = dict(self.network.named_parameters()) | dict(self.network.named_buffers())

        def one(state: dict[str, Tensor], *inputs: Any) -> Any:
            return functional_call(self.network, state, (function, *inputs))

        dims = tree_map(lambda each: 0 if isinstance(each, Tensor) else None, inputs)
        return torch.vmap(one, in_dims=(0, *dims))(state, *inputs)

    def rows(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """The same for rows [S·b, …] of all seeds, seed after seed; its tensors as rows [S·b, …]."""
        if self.size == 1:
            return function(self.network.inner, *inputs)
        apart = tree_map(lambda each: self.apart(each) if isinstance(each, Tensor) else each, inputs)
        return tree_map(lambda made: made.flatten(0, 1), self.each(function, *apart))

    def forward(self, *rows: Tensor) -> Any:
        """The networks' outputs for rows [S·b, …] of all seeds, in the same order."""
        return self.rows(_call, *rows)

    def apart(self, rows: Tensor) -> Tensor:
        """Rows [S·b, …] as [S, b, …]."""
        return rows.unflatten(0, (self.size, -1))

    def by_seed(self, tensor: Tensor) -> Tensor:
        """A parameter, or whatever has its shape, as [S, …]."""
        return tensor.unsqueeze(0) if self.size == 1 else tensor

    def stacks(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """The stacked parameters that hold these of the first member."""
        return [self.stack_of[id(parameter)] for parameter in parameters]

    def tensors(self) -> list[Tensor]:
        """All parameters and buffers."""
        return [*self.network.parameters(), *self.network.buffers()]


class _Applied(nn.Module):
    """Any function of a network as a module's forward, which is all that `functional_call` calls."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, function: Callable[..., Any], *inputs: Any) -> Any:
        return function(self.inner, *inputs)


def _call(network: nn.Module, *inputs: Tensor) -> Any:
    return network(*inputs)


def _stacked(members: Sequence[nn.Module], holder: nn.Module) -> dict[int, Any]:
    """Put stacks of the members' tensors into `holder`; which stack holds a tensor of the first member, by its id."""
    stacks: dict[int, Any] = {}  # by id, since two modules may share a tensor
    for into, *owners in zip(holder.modules(), *(member.modules() for member in members), strict=True):
        for kind in ("_parameters", "_buffers"):
            for name, first in getattr(owners[0], kind).items():
                if first is None:
                    continue
                if id(first) not in stacks:
                    own = [getattr(owner, kind)[name] for owner in owners]
                    stacks[id(first)] = first if len(members) == 1 else _stack_of(own)
                getattr(into, kind)[name] = stacks[id(first)]
    return stacks


def _stack_of(tensors: Sequence[Tensor]) -> Tensor:
    stack = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, view in zip(tensors, stack, strict=True):
        tensor.data = view
    return nn.Parameter(stack, tensors[0].requires_grad) if isinstance(tensors[0], nn.Parameter) else stack
