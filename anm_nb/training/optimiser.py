"""One optimiser for a group's stacked parameters, each seed's gradient clipped by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from anm_nb.training.learner import ParameterGroup
from anm_nb.training.stack import Stack


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
