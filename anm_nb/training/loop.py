"""The training loop: S seeds step together, and on a GPU the step is a CUDA graph."""

import copy
import math
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anm_nb.training import Learner, Measurement, NonFiniteLoss, OutOfTime, StepLosses, Tell, interrupts, seconds_left
from anm_nb.training.checkpoint import by_prefix, checkpoint_of, common_checkpoints, save_checkpoint
from anm_nb.training.stack import Stack, StepGraphs, update, without_host

TELL_SECONDS = 0.5  # between two progress reports, for which the host waits for a GPU


class Kind(NamedTuple):
    """Everything that the Python code of a step branches on: known before the step, the same for all seeds."""

    branch: Hashable  # from the learner
    average: str  # what happens to the EMA: "keep", "copy" at its first update, or "move"
    frozen: tuple[str, ...]  # parameter groups that are not trained yet


@dataclass
class SeedRecord:
    """One seed's measurements so far and its kept weights, on the CPU, by name as in `Run.weights`."""

    seed: int
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # time spent in steps up to each row
    selection: dict[str, float] = field(default_factory=dict)  # best step, its score, measurements waited since
    ended: bool = False
    failure: str = ""  # why the seed could not continue
    arrays: dict[str, list[Tensor]] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, prefix: str, weights: Mapping[str, Tensor]) -> None:
        """Store a copy of the weights under names that begin with this prefix."""
        self.weights |= {f"{prefix}.{name}": each.detach().to("cpu", copy=True) for name, each in weights.items()}

    def add(self, row: dict[str, float], measured: Measurement, averaged: Mapping[str, Tensor], seconds: float) -> None:
        """Append a row and its arrays, and keep the EMA weights if the selection score is the best so far."""
        self.rows.append({"seed": self.seed, **row, **measured.scalars})
        self.seconds.append(round(seconds, 3))
        for name, array in measured.arrays.items():
            self.arrays.setdefault(name, []).append(array.detach().to("cpu", copy=True))
        if measured.selection is None:
            return
        score = -math.inf if math.isnan(measured.selection) else measured.selection
        if not self.selection or score > self.selection["score"]:  # among equal scores the earliest stays
            self.keep("selected", averaged)
            self.selection = {"step": row["step"], "score": score, "waited": -1}
        self.selection["waited"] += 1


class Training:
    """S seeds that train together, with checkpoints in `folders[s]`; `host=False` reads no values, as on a GPU."""

    def __init__(self, learner: Learner, folders: Sequence[Path] = (), host: bool | None = None) -> None:
        self.learner, self.members, self.device = learner, learner.members, learner.device
        self.config, self.model = self.members[0].config, learner.model
        self.averaged = Stack([copy.deepcopy(each).requires_grad_(False).eval() for each in self.model.members])
        self.records = [SeedRecord(member.seed) for member in self.members]
        pairs = zip(folders, self.members, strict=bool(folders))
        self.checkpoints = [checkpoint_of(folder, member.seed) for folder, member in pairs]
        self.step = self.saved_at = 0
        self.counter = torch.zeros(1, dtype=torch.long, device=self.device)  # the step, as a captured graph reads it
        factors = [self.config.lr_factor(step) for step in range(self.config.total_steps() + 1)]
        self.lr_factors = torch.tensor(factors, device=self.device) if self.device == "cuda" else factors
        self.failed_at = torch.full((len(self.members),), -1, device=self.device)
        self.failed: dict[str, Tensor] = {}  # the loss and its parts at each seed's first non-finite step
        self.latest = torch.full((len(self.members),), torch.nan, device=self.device)  # losses of the latest step
        self.seconds = self.began = 0.0  # time spent in steps, without measurements and checkpoints
        self.host = self.device == "cpu" if host is None else host
        self.stream = torch.cuda.Stream() if self.device == "cuda" else None
        self.graphs: StepGraphs | None = None
        if self.device == "cuda" and self.config.graph:
            draws = [each for purpose in learner.generators.values() for each in purpose]
            self.graphs = StepGraphs(self._step, draws, learner.suspects)

    def run(self, tell: Tell = lambda *report: None) -> list[SeedRecord]:
        """Resume and train to the end. Raises `NonFiniteLoss` at the end; `OutOfTime`, `Interrupted` after saving."""
        total, recorded, reported_at = self.config.total_steps(), set(self.config.record_steps()), -math.inf
        self.tell, everybody = tell, range(len(self.members))
        with interrupts() if self.checkpoints else nullcontext(), self.on_stream():
            self.restore()
            steps = range(self.step, total + 1) if self.running() else range(0)
            self.began = time.perf_counter()
            for self.step in steps:
                if time.perf_counter() - reported_at > TELL_SECONDS:
                    reported_at = time.perf_counter()
                    self._tell(everybody, {})
                if self.step % self.learner.block == 0:
                    self._save_or_leave()
                inputs, kind = self.learner.inputs(self.step), self.kind(self.step, self.step in recorded)
                if self.step not in recorded:
                    self.take(inputs, kind)
                    continue
                losses = self.losses(inputs, kind)
                self._measure(losses)
                if not self.running():
                    break
                if self.step < total:
                    self.update(losses, kind)
            for place in self.running():
                self._end(place)
            self._tell(everybody, {})
            if len(steps):
                self.save()
        self._raise_failures()
        return self.records

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """On a GPU, use the one stream on which all steps of this training must run."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def running(self) -> list[int]:
        """Indices of the seeds that have not ended."""
        return [place for place, record in enumerate(self.records) if not record.ended]

    def kind(self, step: int, recorded: bool = False) -> Kind:
        """The kind of this step; `recorded` steps are measured."""
        every = self.config.averaging()[1]
        average = "keep" if (step + 1) % every else "copy" if step + 1 == every else "move"
        frozen = tuple(group.name for group in self.learner.groups if step < group.frozen_steps)
        return Kind(self.learner.branch(step, recorded), average, frozen)

    def take(self, inputs: Mapping[str, Tensor], kind: Kind) -> None:
        """Take one step without a measurement, as a CUDA graph where steps are captured."""
        (self.graphs.take if self.graphs else self._step)(inputs, kind)

    def _step(self, inputs: Mapping[str, Tensor], kind: Any) -> None:
        self.update(self.losses(inputs, kind), kind)

    def losses(self, inputs: Mapping[str, Tensor], kind: Kind) -> StepLosses:
        """Compute the losses of every seed, and note the step and losses of seeds that become non-finite."""
        now = {name: self.now(values) for name, values in self.learner.schedules.items()}
        bfloat16 = self.config.precision == "bfloat16"  # without autocast's cache, which would outlive a graph
        with (
            without_host(not self.host),
            torch.autocast(self.device, torch.bfloat16, enabled=bfloat16, cache_enabled=False),
        ):
            losses = self.learner.losses(inputs, now, kind.branch, self.averaged)
        failing = ~losses.total.detach().isfinite() & (self.failed_at < 0)
        self.failed_at.copy_(torch.where(failing, self.counter, self.failed_at))
        self.latest.copy_(losses.total.detach())
        for name, values in {"loss": losses.total, **losses.parts}.items():
            known = self.failed.setdefault(name, torch.full_like(values.detach(), torch.nan))
            known.copy_(torch.where(failing, values.detach(), known))
        if self.host:
            self._drop_failed()
        return losses

    def update(self, losses: StepLosses, kind: Kind) -> None:
        """Update every group that is not frozen, and the EMA."""
        factor = self.lr_factors[self.step] if isinstance(self.lr_factors, list) else self.now(self.lr_factors)
        update(losses.total, [each for each in self.learner.groups if each.name not in kind.frozen], factor)
        with torch.no_grad():
            average, now = self.averaged.tensors(), self.model.tensors()
            if kind.average == "copy":
                torch._foreach_copy_(average, now)
            elif kind.average == "move":
                torch._foreach_lerp_(average, now, 1 - self.config.averaging()[0])
            self.counter += 1

    def now(self, schedule: Tensor) -> Tensor:
        """The schedule's value at this step, indexed by the step counter."""
        return schedule.index_select(0, self.counter).squeeze(0)

    def _drop_failed(self) -> None:
        """End the seeds with a non-finite loss. Raises `NonFiniteLoss` if no seed is left."""
        for place, step in enumerate(self.failed_at.tolist()):
            record = self.records[place]
            if step >= 0 and not record.ended:
                loss, *parts = (f"{name} = {float(each[place]):g}" for name, each in self.failed.items())
                record.ended = True
                record.failure = (
                    f"{loss} at step {step} of seed {record.seed} ({', '.join(parts)}); "
                    "first try a lower learning rate, stronger clipping or float32 precision"
                )
        if not self.running():
            self._raise_failures()

    def _raise_failures(self) -> None:
        if failures := [record.failure for record in self.records if record.failure]:
            raise NonFiniteLoss("\n".join(failures))

    def _measure(self, losses: StepLosses) -> None:
        """Add a row of metrics for every running seed, and end the seeds that stop early."""
        self._count_time()
        parts = {name: values.tolist() for name, values in losses.parts.items()}
        parts |= {f"grad_norm_{each.name}": each.norms.tolist() for each in self.learner.groups}
        measured = self.learner.measure(self, losses)
        for place in self.running():
            record, averaged = self.records[place], self.averaged.members[place].state_dict()
            row = {"step": self.step} | {name: values[place] for name, values in parts.items()}
            record.add(row, measured[place], averaged, self.seconds / len(self.records))
            self._tell([place], record.rows[-1])
            if self.config.keep_weights:
                record.keep(f"step{self.step}.averaged", averaged)
            late = record.selection.get("waited", -1) >= (self.config.patience or math.inf)
            enough = math.inf if self.config.stop_at_score is None else self.config.stop_at_score
            if late or record.selection.get("score", -math.inf) >= enough:
                self._end(place)
        self.began = time.perf_counter()

    def _end(self, place: int) -> None:
        """Evaluate a seed with its selected weights, or its EMA without a selection, and keep its final weights."""
        record, model = self.records[place], copy.deepcopy(self.averaged.members[place])
        if selected := by_prefix(record.weights, "selected."):
            model.load_state_dict(selected)
        evaluated = self.learner.evaluate(place, model)
        self._tell([place], evaluated.scalars)
        if record.selection:
            early = float(self.step < self.config.total_steps())
            record.rows[-1] |= {"selected_step": record.selection["step"], "stopped_early": early}
        record.rows[-1] |= evaluated.scalars
        record.arrays |= {name: [each.detach().to("cpu", copy=True)] for name, each in evaluated.arrays.items()}
        record.ended = True
        record.keep("model", self.model.members[place].state_dict())
        record.keep("averaged", self.averaged.members[place].state_dict())

    def _count_time(self) -> None:
        """Stop the clock of the steps, and end the seeds that have failed."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self.began
        self._drop_failed()

    def _tell(self, places: Iterable[int], row: Mapping[str, float]) -> None:
        for place in places:
            step = self.config.total_steps() if self.records[place].ended else self.step
            self.tell(self.members[place], step, float(self.latest[place]), row)

    def _save_or_leave(self) -> None:
        """Between two blocks of steps, save if a checkpoint is due, and raise if the time is up."""
        total, leave = self.config.total_steps(), seconds_left() < 0
        # the last checkpoint before the end is where a longer training continues
        last = self.saved_at < self.step > total - self.learner.block and self.config.can_be_extended()
        if leave or last or self.step - self.saved_at >= self.config.checkpoint_every:
            self._count_time()
            self.save()
            self.began = time.perf_counter()
        if leave:
            raise OutOfTime(f"run again to continue from step {self.step:,} of {total:,}")

    def save(self) -> None:
        """Write every seed's state before step `self.step`, each file atomically."""
        for place, path in enumerate(self.checkpoints):
            averaged = self.averaged.members[place].state_dict()
            facts = {"step": self.step, "spent": self.seconds, "record": vars(self.records[place])}
            save_checkpoint(path, self.learner.state(place) | {"averaged": averaged} | facts)
        self.saved_at = self.step

    def restore(self) -> None:
        """Continue exactly from the newest state that is intact for all seeds, if there is one."""
        found = common_checkpoints(self.checkpoints)
        self.records = [SeedRecord(**state["record"]) for state in found] or self.records
        if found and self.running():
            self.learner.load(found)
            for network, state in zip(self.averaged.members, found, strict=True):
                network.load_state_dict(state["averaged"])
            self.step = self.saved_at = found[0]["step"]
            self.seconds = found[0]["spent"]
            self.counter.fill_(self.step)
