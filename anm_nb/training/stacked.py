"""Several seeds trained at once, as one stacked batch dimension: the networks of all are evaluated by one vmap.

Every seed keeps its own draws, gradient, clipping, optimiser state and average, so that it goes through the states that
it goes through in the loop over seeds, up to the rounding of batched products. What a `SeedTraining` holds are views of
the stacks, so measuring, selecting and saving are its own, as in the loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anm_nb.config import ParameterError
from anm_nb.training.checkpoint import last_good_checkpoint, load_checkpoint, save_checkpoint
from anm_nb.training.learner import Learner, StepLosses
from anm_nb.training.loop import LoopConfig, SeedTraining, by_prefix, not_finite, progress
from anm_nb.training.stacked_network import StackedNetwork
from anm_nb.training.stacked_optimiser import StackedGroup

CHECKPOINT = "seeds.safetensors"


@dataclass
class StackedLosses:
    """The losses of one step of S seeds: what each descends, and its parts by name, all [S]."""

    total: Float[Tensor, " seeds"]
    parts: dict[str, Float[Tensor, " seeds"]]

    def of(self, place: int) -> StepLosses:
        """The losses of one seed, by its place in the stack."""
        return StepLosses(self.total[place], {name: part[place] for name, part in self.parts.items()})


@runtime_checkable
class Stackable(Protocol):
    """A learner whose steps can be taken together with those of its like.

    The class of the learner has to define `stacked_losses` itself: one that inherits it may have changed the step that
    it stands for, and trains one seed after the other.
    """

    def stack_key(self) -> str:
        """Learners whose keys are equal can be stacked: their steps differ in the values of tensors only."""

    def stacked_losses(
        self,
        learners: Sequence[Any],
        step: int,
        model: StackedNetwork,
        averaged: StackedNetwork,
        compiled: Callable[[Any], Any],
    ) -> StackedLosses:
        """What each learner's `losses` would give, from its own draws, with `model` and `averaged` for all networks.

        Asked of the first of the `learners`. A function is to be called as compiled(function)(…) where torch.compile
        can take it: tensors and modules in, tensors out, nothing drawn.
        """


ELEMENTWISE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)  # whose updates of stacks are those of the parts


def require_stackable(learners: Sequence[Learner]) -> None:
    """Raises `ParameterError`, saying why, for learners that cannot be trained as one stack."""
    first = learners[0]
    if not isinstance(first, Stackable) or "stacked_losses" not in vars(type(first)):
        raise ParameterError(
            f"seeds_at_once = 'stacked': {type(first).__name__} does not define how its steps are stacked; "
            "allowed: 'auto', 'loop'"
        )
    for learner in learners:
        if type(learner) is not type(first) or learner.stack_key() != first.stack_key():
            raise ParameterError("learners differ in more than numbers of their schedules: they cannot be stacked")
        for group in learner.groups:
            if type(group.optimiser) not in ELEMENTWISE:
                allowed = ", ".join(kind.__name__ for kind in ELEMENTWISE)
                raise ParameterError(
                    f"optimiser {type(group.optimiser).__name__}: cannot be stacked; allowed: {allowed}"
                )


class SeedStack:
    """Trainings of several seeds that stand at the same step, their networks, averages and optimisers stacked."""

    def __init__(self, trainings: Sequence[SeedTraining], compiled: Callable[[Any], Any]) -> None:
        first = trainings[0]
        self.trainings, self.config, self.device, self.compiled = trainings, first.config, first.device, compiled
        self.learners: list[Any] = [training.learner for training in trainings]
        own_parameters = list(first.learner.model.parameters())
        self.model = StackedNetwork([learner.model for learner in self.learners])
        self.averaged = AveragedModel(
            nn.Identity(), multi_avg_fn=get_ema_multi_avg_fn(self.config.ema_decay), use_buffers=True
        )
        self.averaged.module = StackedNetwork([training.averaged.module for training in trainings])
        self.averaged.n_averaged.copy_(first.averaged.n_averaged)
        stack_of = {id(own): stack for own, stack in zip(own_parameters, self.model.parameters(), strict=True)}
        self.groups = [
            StackedGroup(members, lrs, stack_of)
            for *members, lrs in zip(*(learner.groups for learner in self.learners), first.base_lrs, strict=True)
        ]
        self.grad_norms = {
            name: torch.stack([training.grad_norms[name] for training in trainings]) for name in first.grad_norms
        }
        self.failed_at = torch.full((len(trainings),), -1, device=self.device)
        self.failed: dict[str, Tensor] = {}  # the losses of each seed's first step that was not finite

    def losses(self, step: int) -> StackedLosses:
        """The losses of every seed. One that is not finite is noted, without waiting for the device to say so."""
        for group in self.groups:
            group.freeze(step)
        torch.compiler.cudagraph_mark_step_begin()  # outputs of the step before may be overwritten
        try:
            with torch.autocast(self.device, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                losses = self.learners[0].stacked_losses(
                    self.learners, step, self.model, self.averaged.module, self.compiled
                )
        except ParameterError:  # which a miner raises for energies that are not finite
            self.require_finite()
            raise
        failing = ~losses.total.detach().isfinite() & (self.failed_at < 0)
        self.failed_at = self.failed_at.masked_fill(failing, step)
        for name, values in {"loss": losses.total, **losses.parts}.items():
            self.failed[name] = torch.where(failing, values.detach(), self.failed.get(name, math.nan))
        return losses

    def require_finite(self) -> None:
        """Raises `NonFiniteLoss` for the first step of any seed at which a loss was not finite."""
        failures = [(step, place) for place, step in enumerate(self.failed_at.tolist()) if step >= 0]
        if failures:
            step, place = min(failures)
            parts = {name: values[place] for name, values in self.failed.items()}
            raise not_finite(parts.pop("loss"), parts, step, self.trainings[place].seed)

    def update(self, step: int, losses: StackedLosses) -> None:
        """One optimiser step of every group that is not frozen, and the EMA's, for all seeds."""
        for group in self.groups:
            group.optimiser.zero_grad(set_to_none=True)
        losses.total.sum().backward()
        factor = self.config.lr_factor(step)
        for group in self.groups:
            if step >= group.frozen_steps:
                self.grad_norms[group.name] = group.update(factor)
        if (step + 1) % self.config.ema_every == 0:
            self.averaged.update_parameters(self.model)

    def share_time(self, began: float) -> None:
        """Count the time since then as the seeds', in equal parts; waits for the device. Raises `NonFiniteLoss`."""
        self.require_finite()
        for training in self.trainings:
            training.seconds += (time.perf_counter() - began) / len(self.trainings)

    def record(self, step: int, losses: StackedLosses) -> None:
        """Every seed's own row of metrics. Raises `NonFiniteLoss`."""
        self.require_finite()
        for place, training in enumerate(self.trainings):
            training.step = step
            training.grad_norms = {name: norms[place] for name, norms in self.grad_norms.items()}
            training.record(losses.of(place))

    def hand_back(self, step: int) -> None:
        """Let every unfinished training hold all of its state before `step`; of its weights it has views anyway.

        Raises `NonFiniteLoss`.
        """
        self.require_finite()
        for place, training in enumerate(self.trainings):
            if training.finished:
                continue
            training.step = step
            training.averaged.n_averaged.copy_(self.averaged.n_averaged)
            training.grad_norms = {name: norms[place] for name, norms in self.grad_norms.items()}
            for group in self.groups:
                group.hand_back(place)

    def release(self, training: SeedTraining) -> None:
        """Leave a training the weights that it has now, whatever becomes of the stack."""
        for module in (training.learner.model, training.averaged.module):
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.data = tensor.data.clone()


class StackedTraining:
    """Trainings of several seeds, or of configurations that differ in numbers only, taken as one stack.

    A seed that stops early leaves the stack as it is then, and the others go on in a smaller one. Raises
    `ParameterError` for trainings that cannot be stacked.
    """

    def __init__(self, trainings: Sequence[SeedTraining]) -> None:
        require_stackable([training.learner for training in trainings])
        self.trainings, self.config, self.device = trainings, trainings[0].config, trainings[0].device
        if any(training.config != self.config for training in trainings):
            raise ParameterError("loop: has to be the same for all trainings of a stack")
        self.step = 0

    def run(self, checkpoint: Path) -> None:
        """Train all to the last step, from the checkpoint, or the one before it, where there is one that is whole."""
        stored = last_good_checkpoint(checkpoint)
        if stored is not None:
            self.restore(stored)
        running = self._unfinished()
        if not running:
            return
        stack, records = self._stack(running), set(self.config.record_steps())
        name = f"seeds {', '.join(str(training.seed) for training in running)}"
        steps, began = range(self.step, self.config.steps + 1), time.perf_counter()
        for step in progress(steps, name, len(steps)):
            self.step = step
            if (saves := step > 0 and step % self.config.checkpoint_every == 0) or step in records:
                stack.share_time(began)
            if saves:
                stack.hand_back(step)
                self.save(checkpoint)
                began = time.perf_counter()
            losses = stack.losses(step)
            if step in records:
                stack.record(step, losses)
                self._let_go(stack)
                began = time.perf_counter()
            if not (running := self._unfinished()):
                break
            if step < self.config.steps:
                stack.update(step, losses)
                if len(running) < len(stack.trainings):
                    stack.hand_back(step + 1)
                    stack = self._stack(running)
        stack.hand_back(self.step)
        for training in running:
            training.finish()
        self.save(checkpoint)

    def _unfinished(self) -> list[SeedTraining]:
        return [training for training in self.trainings if not training.finished]

    def _stack(self, running: Sequence[SeedTraining]) -> SeedStack:
        return SeedStack(running, compiler(self.config, self.device))

    def _let_go(self, stack: SeedStack) -> None:
        """Finish the seeds that stop here, by their score or for want of patience."""
        leaving = [training for training in stack.trainings if training.stops_here()]
        if leaving:
            stack.hand_back(self.step)
        for training in leaving:
            stack.release(training)
            training.finish()

    def save(self, path: Path) -> None:
        """Write the state of all as it stands before step `self.step`, atomically, in one file."""
        tensors: dict[str, Tensor] = {}
        facts = []
        for place, training in enumerate(self.trainings):
            own, own_facts = training.state()
            tensors |= {f"{place}.{name}": tensor for name, tensor in own.items()}
            facts.append(own_facts)
        save_checkpoint(path, tensors, {"step": self.step, "trainings": facts})

    def restore(self, path: Path) -> None:
        """Continue exactly where `save` stood."""
        tensors, facts = load_checkpoint(path, self.device)
        part = by_prefix(tensors)
        self.step = facts["step"]
        for place, (training, own_facts) in enumerate(zip(self.trainings, facts["trainings"], strict=True)):
            training.load_state(part(f"{place}."), own_facts)


def train_stacked(
    make_learner: Callable[[int, str], Learner], config: LoopConfig, seeds: Sequence[int], device: str, workdir: Path
) -> list[SeedTraining]:
    """The seeds' trainings, done as one stack; none where the config or the learner has them done one by one.

    Raises `ParameterError` where the config asks for a stack that cannot be.
    """
    wanted = {"loop": False, "auto": device == "cuda" and len(seeds) > 1, "stacked": True}[config.seeds_at_once]
    if not wanted:
        return []
    first = make_learner(seeds[0], device)
    try:
        require_stackable([first])
    except ParameterError:
        if config.seeds_at_once == "stacked":
            raise
        return []
    learners = [first, *(make_learner(seed, device) for seed in seeds[1:])]
    trainings = [SeedTraining(each, config, seed, device) for each, seed in zip(learners, seeds, strict=True)]
    StackedTraining(trainings).run(workdir / CHECKPOINT)
    return trainings


def compiler(config: LoopConfig, device: str) -> Callable[[Any], Any]:
    """What a learner hands a step's functions to: themselves, or torch.compile's version, made once for each."""
    if not config.compiled:
        return lambda function: function
    mode = "reduce-overhead" if device == "cuda" else None  # CUDA graphs
    # vmap has no rule for products of symbolic sizes: an epoch's short last batch is compiled on its own
    return cache(lambda function: torch.compile(function, mode=mode, dynamic=False))
