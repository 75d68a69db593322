"""One optimiser for the stacked parameters of several seeds, each seed's gradient clipped by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from anm_nb.training.learner import ParameterGroup


class StackedGroup:
    """One parameter group of every seed: its stacked parameters, and one optimiser for them."""

    def __init__(
        self, members: Sequence[ParameterGroup], base_lrs: Sequence[float], stack_of: Mapping[int, Any]
    ) -> None:
        self.members, self.base_lrs = members, base_lrs
        self.name, self.clip_norm, self.frozen_steps = members[0].name, members[0].clip_norm, members[0].frozen_steps
        self.parameters = [stack_of[id(parameter)] for parameter in members[0].parameters]
        settings = members[0].optimiser.param_groups
        kind: Any = type(members[0].optimiser)
        self.optimiser = kind(
            [each | {"params": [stack_of[id(parameter)] for parameter in each["params"]]} for each in settings]
        )
        for stack, own in self._states():
            states = [member.optimiser.state.get(each, {}) for member, each in zip(members, own, strict=True)]
            self.optimiser.state[stack] = {
                # every seed has taken as many steps
                name: value.clone() if name == "step" else torch.stack([state[name] for state in states])
                for name, value in states[0].items()
            }

    def _states(self) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Each stacked parameter, and every member's own."""
        optimisers = [self.optimiser, *(member.optimiser for member in self.members)]
        flat = ([p for settings in each.param_groups for p in settings["params"]] for each in optimisers)
        for stack, *own in zip(*flat, strict=True):
            yield stack, own

    def freeze(self, step: int) -> None:
        """Let parameters take part in a step's graph once they are to be trained."""
        for parameter in self.parameters:
            parameter.requires_grad_(step >= self.frozen_steps)

    def update(self, factor: float) -> Float[Tensor, " seeds"]:
        """One optimiser step at `factor` times the learning rates; the gradient norms before clipping."""
        norms = clip_each_(self.parameters, self.clip_norm)
        for settings, lr in zip(self.optimiser.param_groups, self.base_lrs, strict=True):
            settings["lr"] = lr * factor
        self.optimiser.step()
        return norms

    def hand_back(self, place: int) -> None:
        """Give one member's optimiser its part of the state."""
        for stack, own in self._states():
            self.members[place].optimiser.state[own[place]] = {
                name: value.clone() if name == "step" else value[place].clone()
                for name, value in self.optimiser.state.get(stack, {}).items()
            }


def clip_each_(stacks: Sequence[Tensor], max_norm: float) -> Float[Tensor, " seeds"]:
    """Scale each seed's gradient, over all stacks [S, …] together, to at most `max_norm`; the norms before that.

    For each seed what `nn.utils.clip_grad_norm_` does for one.
    """
    gradients = [stack.grad for stack in stacks if stack.grad is not None]
    if not gradients:
        return torch.zeros(len(stacks[0]), device=stacks[0].device)
    of_each = [torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1) for gradient in gradients]
    norms = torch.linalg.vector_norm(torch.stack(of_each), dim=0)
    factors = (max_norm / (norms + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))
    return norms
