"""The one training loop of the project: a learner brings losses and measurements, the loop brings everything else."""

from __future__ import annotations

import copy
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pandas as pd
import torch
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from anm_nb.config import ParameterError, Parameters
from anm_nb.training.checkpoint import last_good_checkpoint, load_checkpoint, save_checkpoint
from anm_nb.training.learner import FinallyEvaluated, Learner, Stateful, StepLosses
from anm_nb.training.processes import checkpoint_of, train_in_processes


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("each seed may appear once")
    return seeds


Seeds = Annotated[tuple[NonNegativeInt, ...], Field(strict=False, min_length=1), AfterValidator(_distinct)]

Step = TypeVar("Step")
# stacked: all seeds as one batch dimension; loop: one after the other; auto: stacked on cuda where the learner can be
SeedsAtOnce = Literal["auto", "stacked", "loop"]


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite; the message names the seed, the step and the parts of the loss."""


def not_finite(loss: Tensor, parts: Mapping[str, Tensor], step: int, seed: int) -> NonFiniteLoss:
    """What to raise for a loss of a step that is not finite."""
    said = ", ".join(f"{name} = {float(part.detach()):g}" for name, part in parts.items())
    return NonFiniteLoss(
        f"loss = {float(loss.detach()):g} at step {step} of seed {seed} ({said}); "
        "a lower learning rate, stronger clipping or float32 precision are the first things to try"
    )


class LoopConfig(Parameters):
    """How long and how a model is trained, whatever it learns."""

    steps: PositiveInt = 300
    batch: PositiveInt = 128
    lr: PositiveFloat = 1e-3
    lr_final: Annotated[float, Field(gt=0, le=1)] = 0.05  # cosine decay to this fraction of lr; 1 = constant
    clip_norm: PositiveFloat = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    ema_every: PositiveInt = 1
    records: Annotated[int, Field(ge=3)] = 10  # measurements, half of them in the first 20 % of steps
    record_every: PositiveInt | None = None  # measure every so many steps, and at the last, instead
    patience: PositiveInt | None = None  # measurements without a better selection score before stopping; None: never
    stop_at_score: float | None = None  # selection score at which to stop, as nothing is left to gain; None: never
    checkpoint_every: PositiveInt = 1000
    keep_weights: bool = False  # the EMA weights of every record too, for looking at a landscape as it forms
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast, for a GPU
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seeds_at_once: SeedsAtOnce = "auto"
    compiled: bool = False  # the step of stacked seeds through torch.compile; with CUDA graphs on cuda
    threads: PositiveInt = 1  # CPU threads of one training; part of the config, as it changes the last bits

    @classmethod
    def of(cls, *settings: Parameters) -> LoopConfig:
        """What settings ask for by fields of the loop's own names; of several, the last to have it decides."""
        given = {name: value for each in settings for name, value in each if name in cls.model_fields}
        return cls(**given)

    def record_steps(self) -> list[int]:
        """Steps at which to measure: 0, the last, and dense over the first 20 % (ANM checklist, section J)."""
        if self.record_every is not None:
            return [*range(0, self.steps, self.record_every), self.steps]
        early = max(1, self.records // 2)
        late = max(1, self.records - early - 1)
        knee = self.steps / 5
        points = [int(knee * i / early) for i in range(early + 1)]
        points += [round(knee + (self.steps - knee) * i / late) for i in range(1, late + 1)]
        return sorted(set(points))

    def lr_factor(self, step: int) -> float:
        """Factor on every learning rate: cosine from 1 at step 0 to `lr_final` at the last."""
        return self.lr_final + (1 - self.lr_final) * (1 + math.cos(math.pi * step / self.steps)) / 2


@dataclass
class Trained:
    """What training leaves: tidy metrics (a row per seed and step), arrays [seeds, records, …], final weights.

    Where one seed stopped before another, its arrays end in NaN. Arrays of a final evaluation are [seeds, 1, …], and
    its numbers stand in the last row of each seed. Times are beside the metrics, which are the same whenever trained.
    """

    metrics: pd.DataFrame
    trace: dict[str, Tensor]
    weights: dict[str, Tensor]
    seconds: dict[int, list[float]] = field(default_factory=dict)  # by seed, spent in the steps before each measurement
    processes: int = 1  # that trained at a time


def resolve_device(device: str) -> str:
    """ "auto" becomes cuda where there is one, else cpu. Raises `ParameterError` when cuda is asked for and missing."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device = 'cuda': no CUDA device here; allowed: auto, cpu")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def train(
    make_learner: Callable[[int, str], Learner], config: LoopConfig, seeds: Sequence[int], workdir: Path
) -> Trained:
    """Train one learner for each seed, resuming from the checkpoints in `workdir`.

    `make_learner(seed, device)` builds the learner of one seed. Seeds are trained as one stack, or one after the other,
    or, on a CPU with cores to spare, in processes of their own, which changes no bit of the result. Raises
    `NonFiniteLoss`, and `ParameterError` where `seeds_at_once = "stacked"` is asked of learners that cannot be stacked.
    """
    from anm_nb.training.stacked import train_stacked  # it builds on this module

    device = resolve_device(config.device)
    processes = 1
    with cpu_threads(config.threads):
        finished = train_stacked(make_learner, config, seeds, device, workdir)
        if not finished and device == "cpu":
            processes = train_in_processes(make_learner, config, seeds, workdir)
        for seed in seeds if not finished else ():
            training = SeedTraining(make_learner(seed, device), config, seed, device)
            training.run(checkpoint_of(workdir, seed))
            finished.append(training)
    return Trained(
        metrics=pd.DataFrame([row for training in finished for row in training.rows]),
        trace={
            name: _stacked([torch.stack(training.arrays[name]) for training in finished]) for name in finished[0].arrays
        },
        weights={
            f"seed{training.seed}.{name}": tensor.cpu()
            for training in finished
            for name, tensor in training.weights().items()
        },
        seconds={training.seed: training.record_seconds for training in finished},
        processes=processes,
    )


class SeedTraining:
    """The state of training one seed: everything that has to survive a kill for the rest to come out bit-identical."""

    def __init__(self, learner: Learner, config: LoopConfig, seed: int, device: str) -> None:
        self.learner, self.config, self.seed, self.device = learner, config, seed, device
        self.averaged = AveragedModel(
            learner.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True
        )
        self.averaged.requires_grad_(False).eval()
        self.base_lrs = [[g["lr"] for g in group.optimiser.param_groups] for group in learner.groups]
        self.step = 0
        self.rows: list[dict[str, float]] = []
        self.arrays: dict[str, list[Tensor]] = {}
        self.grad_norms: dict[str, Tensor] = {}
        self.selected: dict[str, Tensor] = {}
        self.kept: dict[str, Tensor] = {}  # EMA weights of the records, `step<n>.averaged.…`
        self.selection: dict[str, float] = {}  # step and score of the selected weights, and measurements since
        self.finished = False
        self.seconds = 0.0  # spent in finished steps, without measurements and checkpoints
        self.record_seconds: list[float] = []  # as they stood at each measurement

    def run(self, checkpoint: Path, shown: bool = True) -> None:
        """Train to the last step, from the checkpoint, or the one before it, where there is one that is whole.

        A bar of progress is shown to whoever watches, or else to nobody.
        """
        stored = last_good_checkpoint(checkpoint)
        if stored is not None:
            self.restore(stored)
        if self.finished:
            return
        records = set(self.config.record_steps())
        steps = range(self.step, self.config.steps + 1)
        for step in progress(steps, f"seed {self.seed}", len(steps)) if shown else steps:
            self.step = step
            if step > 0 and step % self.config.checkpoint_every == 0:
                self.save(checkpoint)
            began = time.perf_counter()
            losses = self.losses()
            spent = time.perf_counter() - began
            if step in records:
                self.record(losses)
                if self.stops_here():
                    break
            if step < self.config.steps:
                began = time.perf_counter()
                self.update(losses)
                self.seconds += spent + time.perf_counter() - began
        self.finish()
        self.save(checkpoint)

    def losses(self) -> StepLosses:
        """The learner's losses at this step; raises `NonFiniteLoss` before anything is updated with them."""
        for group in self.learner.groups:
            for parameter in group.parameters:
                parameter.requires_grad_(self.step >= group.frozen_steps)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            losses = self.learner.losses(self.step, self.averaged.module)
        if not torch.isfinite(losses.total):
            raise not_finite(losses.total, losses.parts, self.step, self.seed)
        return losses

    def record(self, losses: StepLosses) -> None:
        """Append one row of metrics: the losses' parts, the learner's measurements, the last gradient norms."""
        measured = self.learner.measure(self.step, self.averaged.module, losses)
        row: dict[str, float] = {"seed": self.seed, "step": self.step}
        row |= {name: float(part.detach()) for name, part in losses.parts.items()}
        row |= {
            f"grad_norm_{group.name}": float(self.grad_norms.get(group.name, math.nan)) for group in self.learner.groups
        }
        self.rows.append(row | measured.scalars)
        self.record_seconds.append(round(self.seconds, 3))
        for name, array in measured.arrays.items():
            self.arrays.setdefault(name, []).append(array.detach().to("cpu", copy=True))
        if self.config.keep_weights:
            weights = self.averaged.module.state_dict()
            self.kept |= {f"step{self.step}.averaged.{name}": t.to("cpu", copy=True) for name, t in weights.items()}
        if measured.selection is not None:
            self.select(measured.selection)

    def select(self, score: float) -> None:
        """Keep the present EMA weights where their selection score is the best so far; the earliest of equals stays."""
        score = -math.inf if math.isnan(score) else score
        if not self.selection or score > self.selection["score"]:
            self.selected = {name: t.clone() for name, t in self.averaged.module.state_dict().items()}
            self.selection = {"step": self.step, "score": score, "waited": 0}
        else:
            self.selection["waited"] += 1

    def out_of_patience(self) -> bool:
        """Whether the selection score has not risen for `patience` measurements."""
        patience = self.config.patience
        return patience is not None and bool(self.selection) and self.selection["waited"] >= patience

    def stops_here(self) -> bool:
        """Whether nothing is left to gain, or nothing was gained for long."""
        return self.score_reached() or self.out_of_patience()

    def score_reached(self) -> bool:
        """Whether the best selection score is as good as `stop_at_score` asks for."""
        enough = self.config.stop_at_score
        return enough is not None and bool(self.selection) and self.selection["score"] >= enough

    def finish(self) -> None:
        """Say what was selected and whether training stopped early, and evaluate the learner where it wants to be."""
        if self.selection:
            early = self.step < self.config.steps
            self.rows[-1] |= {"selected_step": self.selection["step"], "stopped_early": float(early)}
            if self.config.stop_at_score is not None:
                self.rows[-1]["score_reached"] = float(self.score_reached())
            if early and not self.score_reached():
                warnings.warn(
                    f"seed {self.seed} stopped at step {self.step} of {self.config.steps}: "
                    f"no better selection score than at step {self.selection['step']:g} "
                    f"in {self.config.patience} measurements",
                    stacklevel=2,
                )
        if isinstance(self.learner, FinallyEvaluated):
            model = copy.deepcopy(self.averaged.module)
            if self.selected:
                model.load_state_dict(self.selected)
            evaluated = self.learner.evaluate(model)
            self.rows[-1] |= evaluated.scalars
            self.arrays |= {name: [array.detach().to("cpu", copy=True)] for name, array in evaluated.arrays.items()}
        self.finished = True

    def update(self, losses: StepLosses) -> None:
        """One optimiser step of every group that is not frozen, and the EMA's."""
        for group in self.learner.groups:
            group.optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        factor = self.config.lr_factor(self.step)
        for group, lrs in zip(self.learner.groups, self.base_lrs, strict=True):
            if self.step < group.frozen_steps:
                continue
            self.grad_norms[group.name] = nn.utils.clip_grad_norm_(group.parameters, group.clip_norm)
            for settings, lr in zip(group.optimiser.param_groups, lrs, strict=True):
                settings["lr"] = lr * factor
            group.optimiser.step()
        if (self.step + 1) % self.config.ema_every == 0:
            self.averaged.update_parameters(self.learner.model)

    def weights(self) -> dict[str, Tensor]:
        """Weights by name: `model.…`, its EMA's, `averaged.…`, and where any `selected.…` and `step<n>.averaged.…`."""
        weights = {f"model.{name}": tensor for name, tensor in self.learner.model.state_dict().items()}
        weights |= {f"averaged.{name}": t for name, t in self.averaged.module.state_dict().items()}
        return weights | {f"selected.{name}": tensor for name, tensor in self.selected.items()} | self.kept

    def save(self, path: Path) -> None:
        """Write the state as it stands before step `self.step`, atomically."""
        save_checkpoint(path, *self.state())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state as it stands before step `self.step`: tensors, and facts for JSON."""
        tensors = self.weights() | {"ema_updates": self.averaged.n_averaged}
        for group in self.learner.groups:
            for index, state in group.optimiser.state_dict()["state"].items():
                for name, value in state.items():
                    tensors[f"optimiser.{group.name}.{index}.{name}"] = torch.as_tensor(value)
        tensors |= {f"generator.{name}": g.get_state() for name, g in self.learner.generators.items()}
        tensors |= {f"array.{name}": torch.stack(values) for name, values in self.arrays.items()}
        tensors |= {f"grad_norm.{name}": norm for name, norm in self.grad_norms.items()}
        if isinstance(self.learner, Stateful):
            tensors |= {f"state.{name}": tensor for name, tensor in self.learner.state.items()}
        facts = {"rows": self.rows, "selection": self.selection, "finished": self.finished}
        facts |= {"seconds": self.seconds, "record_seconds": self.record_seconds}
        return tensors, {"step": self.step} | facts

    def restore(self, path: Path) -> None:
        """Continue exactly where `save` stood."""
        self.load_state(*load_checkpoint(path, self.device))

    def load_state(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Continue exactly where `state` stood."""
        part = by_prefix(tensors)
        self.step, self.rows = facts["step"], facts["rows"]
        self.selection, self.finished = facts["selection"], facts["finished"]
        self.seconds, self.record_seconds = facts["seconds"], facts["record_seconds"]
        self.selected = part("selected.")
        self.kept = {name: tensor.cpu() for name, tensor in tensors.items() if re.match(r"step\d+\.", name)}
        if isinstance(self.learner, Stateful):
            for name, tensor in part("state.").items():
                self.learner.state[name].copy_(tensor)
        self.learner.model.load_state_dict(part("model."))
        self.averaged.module.load_state_dict(part("averaged."))
        self.averaged.n_averaged.copy_(tensors["ema_updates"])
        for group in self.learner.groups:
            stored: dict[int, dict[str, Tensor]] = {}
            for key, value in part(f"optimiser.{group.name}.").items():
                index, name = key.split(".", 1)
                stored.setdefault(int(index), {})[name] = value
            group.optimiser.load_state_dict(group.optimiser.state_dict() | {"state": stored})
        for name, source in self.learner.generators.items():
            source.set_state(tensors[f"generator.{name}"].cpu())
        self.arrays = {name: list(values.cpu()) for name, values in part("array.").items()}
        self.grad_norms = part("grad_norm.")


def by_prefix(tensors: Mapping[str, Tensor]) -> Callable[[str], dict[str, Tensor]]:
    """The tensors whose names begin with a given prefix, by the rest of their names."""
    return lambda prefix: {
        name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }


def _stacked(arrays: Sequence[Tensor]) -> Tensor:
    """Arrays [records, …] of several seeds in one; the shorter ones end in NaN."""
    if len({len(array) for array in arrays}) == 1:
        return torch.stack(list(arrays))
    return nn.utils.rnn.pad_sequence(list(arrays), batch_first=True, padding_value=math.nan)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Run torch's CPU operators on `count` threads, and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def progress(steps: Iterable[Step], what: str, total: int) -> Iterable[Step]:
    """The same, with a bar where somebody can see it: in a terminal, or in a kernel that a Jupyter server started."""
    if sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ:
        return tqdm(steps, desc=what, total=total, leave=False)
    return steps


def adam(parameters: Sequence[nn.Parameter], config: LoopConfig, **options: Any) -> torch.optim.Optimizer:
    """Adam as published for IRED: betas (0.9, 0.99)."""
    return torch.optim.Adam(parameters, lr=config.lr, betas=(0.9, 0.99), fused=True, **options)
