"""Networks of one shape over a seed axis, each parameter and buffer stacked along a first dimension, and updated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
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


@dataclass
class ParameterGroup:
    """Parameters of one network, their optimiser and clipping norm, and for how many steps they stay frozen."""

    name: str
    parameters: Sequence[nn.Parameter]  # of the stack's first member
    optimiser: type[torch.optim.Optimizer]  # Adam, AdamW or SGD, whose updates of stacks are those of the parts
    lr: float
    clip_norm: float
    frozen_steps: int = 0
    options: dict[str, Any] = field(default_factory=dict)  # the optimiser's other settings
    lrs: Sequence[float] = ()  # of each seed, where they may differ; `lr` is then the first's


class StackOptimiser:
    """Adam's or AdamW's updates of stacks [S, …], which are those of each seed alone.

    Where seeds differ in their learning rates, all take the step of the largest and each keeps its own part of it: the
    updates of these optimisers are proportional to the rate.
    """

    def __init__(self, group: ParameterGroup, stack: Stack, device: str) -> None:
        self.group, self.stack, self.on_gpu = group, stack, device == "cuda"
        self.parameters = stack.stacks(group.parameters)
        options = dict(group.options)
        self.lr = max(group.lrs, default=group.lr)
        differ = len(set(group.lrs)) > 1
        self.shares = torch.tensor([each / self.lr for each in group.lrs], device=device) if differ else None
        lr: Tensor | float = self.lr
        if self.on_gpu:
            lr = torch.tensor(self.lr, device=device)  # where a graph reads it
            options["capturable"] = True
        self.optimiser = group.optimiser(self.parameters, lr=lr, fused=True, **options)  # type: ignore[call-arg]
        self.norms = torch.full((stack.size,), torch.nan, device=device)  # of the last gradient, before clipping

    def update(self, gradients: Sequence[Tensor | None], factor: Tensor | float) -> None:
        """One step at `factor` times the learning rate."""
        present = [gradient for gradient in gradients if gradient is not None]
        if present:
            self.norms.copy_(clip_(present, self.group.clip_norm, self.stack.size))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        for settings in self.optimiser.param_groups:
            if self.on_gpu:
                settings["lr"].copy_(self.lr * factor)
            else:
                settings["lr"] = self.lr * factor
        if self.shares is None:
            self.optimiser.step()
            return
        before = [parameter.clone() for parameter in self.parameters]
        self.optimiser.step()
        for parameter, start in zip(self.parameters, before, strict=True):
            share = self.shares.view(-1, *[1] * (parameter.ndim - 1))
            parameter.copy_(torch.lerp(start, parameter, share))

    def state_of(self, place: int) -> dict[str, Tensor]:
        """One seed's part of the optimiser's state, by `<parameter>.<name>`."""
        return {
            f"{index}.{name}": value if name == "step" else self.stack.by_seed(value)[place]
            for index, parameter in enumerate(self.parameters)
            for name, value in self.optimiser.state[parameter].items()
        }

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Continue with the states of all seeds, as `state_of` gave them."""
        for index, parameter in enumerate(self.parameters):
            for key in (key for key in states[0] if key.split(".")[0] == str(index)):
                values = [state[key] for state in states]
                name = key.split(".", 1)[1]
                joined = values[0] if name == "step" or self.stack.size == 1 else torch.stack(values)
                self.optimiser.state[parameter][name] = joined.to(parameter.device, copy=True)


def update(total: Float[Tensor, " seeds"], optimisers: Sequence[StackOptimiser], factor: Tensor | float) -> None:
    """One step of each optimiser down each seed's own loss, at `factor` times the learning rates."""
    parameters = [parameter for each in optimisers for parameter in each.parameters]
    found = torch.autograd.grad(total.sum(), parameters, allow_unused=True)
    gradients = iter([None if each is None else each.contiguous() for each in found])  # as fused Adam reads them
    with torch.no_grad():
        for each in optimisers:
            each.update([next(gradients) for _ in each.parameters], factor)


def clip_(gradients: list[Tensor], max_norm: float, seeds: int) -> Float[Tensor, " seeds"]:
    """Scale each seed's gradient, over all stacks [S, …] together, to at most `max_norm`; the norms before that.

    For each seed it is what `nn.utils.clip_grad_norm_` does; stacks of one seed have no axis of seeds.
    """
    if seeds == 1:
        norms = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (max_norm / (norms + 1e-6)).clamp_max(1.0))
        return norms.unsqueeze(0)
    of_each = [torch.linalg.vector_norm(gradient.reshape(seeds, -1), dim=1) for gradient in gradients]
    norms = torch.linalg.vector_norm(torch.stack(of_each), dim=0)
    factors = (max_norm / (norms + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))
    return norms
