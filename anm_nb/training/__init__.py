"""Training: one step over the seed axis for all families. Here: what it asks of a family, and who hears of it."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from anm_nb.config import ParameterError, Seeds, Steps, Threads
from anm_nb.identity import RunConfig
from anm_nb.training.checkpoint import State
from anm_nb.training.seeds import generator, initialise
from anm_nb.training.stack import ParameterGroup, Stack

if TYPE_CHECKING:
    from anm_nb.training.loop import Training

Named = Mapping[str, Tensor]
Tell = Callable[..., object]  # of a seed's Member, step, loss, and a row where one was measured
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
LOGGERS: dict[str, Callable[[Any, int, int, Mapping[str, float]], object]] = {}


def on_record(logger: Callable[[Any, int, int, Mapping[str, float]], object]) -> Any:
    """Call `logger(config, seed, step, row)` at every record, and with the final tests; `row` as in `Run.metrics`."""
    LOGGERS[logger.__qualname__] = logger
    return logger


@contextmanager
def progress(members: Sequence[Any]) -> Iterator[Tell]:
    """Whom trainings of these seeds tell where they are: a bar over the steps of all of them, and every logger."""
    from tqdm.auto import tqdm

    config, steps = members[0].config, dict[tuple[int, int], int]()
    what = getattr(config, "method", None) or getattr(config, "routing", config.family)
    seen = sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ  # in a terminal, or a Jupyter server's kernel
    total, what = len(members) * config.total_steps(), f"{what}, seeds: {len(members)}"
    with tqdm(desc=what, total=total, unit="step", leave=False, disable=not seen) as bar:

        def tell(member: Any, step: int, loss: float, row: Mapping[str, float]) -> None:
            for logger in LOGGERS.values() if row else ():
                logger(member.config, member.seed, step, row)
            place = id(member.config), member.seed
            bar.update(step - steps.get(place, 0))
            bar.set_postfix(loss=f"{loss:.3g}")
            steps[place] = step

        yield tell


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite; the message names the seed, the step and the parts of the loss."""


class OutOfTime(RuntimeError):
    """A training's time was up; its state is saved, and it goes on from there when it is asked for again."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Trainings inside save their state and raise `OutOfTime` once so many seconds have passed."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left() -> float:
    """Until the `time_limit` that is set; infinite without one."""
    return _deadline.get() - time.monotonic()


class Interrupted(KeyboardInterrupt):
    """Somebody interrupted a training, whose state is saved. A notebook shows the message and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


@contextmanager
def interrupts() -> Iterator[None]:
    """At the first interrupt (SIGINT) inside, time is up, and `Interrupted` is raised; another one is as ever."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def once(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        _deadline.set(-math.inf)

    token = _deadline.set(_deadline.get())
    signal.signal(signal.SIGINT, once)
    try:
        yield
        if seconds_left() == -math.inf:
            raise Interrupted("this training had just ended, and is saved; run again to go on")
    except OutOfTime as left:
        if seconds_left() > -math.inf:
            raise
        raise Interrupted(left) from None
    finally:
        signal.signal(signal.SIGINT, before)
        _deadline.reset(token)


class TrainingConfig(RunConfig):
    """How any model is trained, whatever it learns."""

    scheduled: ClassVar[Sequence[str]] = ()  # fields with numbers that may differ within a stack
    length: ClassVar[str] = ""  # the field that says for how long, where a longer training may go on from a shorter one

    patience: PositiveInt | None = None  # measurements without a better selection score before stopping; None: never
    stop_at_score: float | None = None  # selection score at which to stop, as nothing is left to gain; None: never
    checkpoint_every: Steps = 1000  # steps
    keep_weights: bool = False  # the EMA weights of every record too, for looking at a landscape as it forms
    # Of matrix products: tf32 rounds their factors to 10 bits on a GPU (on a CPU it is float32); bfloat16 is autocast.
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    graph: bool = True  # on a GPU the whole step is captured as a CUDA graph
    threads: Threads = 1  # CPU threads of one training; part of the config, as it changes the last bits
    seeds: Seeds = (0, 1, 2)

    @abstractmethod
    def total_steps(self) -> int: ...  # updates in all
    @abstractmethod
    def record_steps(self) -> list[int]: ...  # before whose update to measure, in order: 0 and the last among them
    @abstractmethod
    def make_learner(self, members: Sequence[Member], device: str) -> Learner: ...  # of configs with one `stack_key`

    def stack_key(self) -> str:
        """Equal for configs that differ in seeds and `scheduled` numbers only, which can be one stack."""
        return self.model_dump_json(exclude={"seeds", *self.scheduled})

    def can_be_extended(self) -> bool:
        """Whether a training with more of its `length` has the same steps as this one as far as it goes."""
        return bool(self.length)

    def learner(self, *seeds: int, device: str = "cpu") -> Any:
        """The learner of some seeds."""
        return self.make_learner([Member(self, seed) for seed in seeds], device)

    def lr_factor(self, step: int) -> float:
        """Factor on every learning rate at a step; constant where a family does not say otherwise."""
        return 1.0

    def averaging(self) -> tuple[float, int]:
        """Decay of the weights' average, and after how many steps it moves; a decay of 0 follows the weights."""
        return 0.0, 1

    def device_kind(self) -> str:
        """cpu or cuda, as `device` resolves here."""
        return resolve_device(self.device)


def resolve_device(device: str) -> str:
    """ "auto" becomes cuda where there is one, else cpu. Raises `ParameterError` when cuda is asked for and missing."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device = 'cuda': no CUDA device here; allowed: auto, cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


class Member(NamedTuple):
    """One seed of a stack, and the config it is of."""

    config: Any  # of the learner's own class
    seed: int


@dataclass
class StepLosses:
    """What each seed descends and its parts by name, all [S], and whatever else the family's measurements need."""

    total: Float[Tensor, " seeds"]
    parts: dict[str, Float[Tensor, " seeds"]]
    detail: Any = None


@dataclass
class Measurement:
    """A row of one seed's metrics and arrays beside it; EMA weights are kept where `selection` is highest (not NaN)."""

    scalars: dict[str, float]
    arrays: dict[str, Tensor] = field(default_factory=dict)
    selection: float | None = None

    def __post_init__(self) -> None:
        self.scalars = {name: float(value) for name, value in self.scalars.items()}  # a task's may be numpy's


class Learner(ABC):
    """S seeds of a family; `losses` is what a CUDA graph holds: it must not wait for the host, as `inputs` may."""

    groups: Sequence[ParameterGroup]
    generators: Mapping[str, Sequence[torch.Generator]] = {}  # by purpose, one for each seed
    schedules: Named  # [steps + 1] or [steps + 1, S], on the device, read at the step's place
    block = 1  # steps whose inputs are drawn at once: only between blocks can a training be interrupted
    suspects: str  # the user's own parts of a step, for messages

    def __init__(self, members: Sequence[Member], device: str, make_network: Callable[[], nn.Module]) -> None:
        self.members, self.device, self.config = members, device, members[0].config
        networks = [make_network() for _ in members]
        for member, network in zip(members, networks, strict=True):
            initialise(network, generator(member.seed, "weights"))
        self.model = Stack([network.to(device) for network in networks])

    def sources(self, purpose: str) -> list[torch.Generator]:
        """A generator of every seed."""
        return [generator(each.seed, purpose, self.device) for each in self.members]

    def state(self, place: int) -> State:
        """All of one seed that its next step depends on."""
        return {
            "model": self.model.members[place].state_dict(),
            "generators": {purpose: own[place].get_state() for purpose, own in self.generators.items()},
            "groups": [group.state_of(place) for group in self.groups],
        }

    def load(self, states: Sequence[State]) -> None:
        """Go on with the states of all seeds."""
        for place, state in enumerate(states):
            self.model.members[place].load_state_dict(state["model"])
            for purpose, own in self.generators.items():
                own[place].set_state(state["generators"][purpose])
        for index, group in enumerate(self.groups):
            group.load([state["groups"][index] for state in states])

    def branch(self, step: int, recorded: bool) -> Hashable:
        """All that the Python code of `losses` branches on."""
        return None

    @abstractmethod
    def inputs(self, step: int) -> dict[str, Tensor]: ...  # the next batch of all seeds
    @abstractmethod  # of a batch; `now` holds the schedules' values, `averaged` is the EMA
    def losses(self, inputs: Named, now: Named, branch: Any, averaged: Stack) -> StepLosses: ...
    @abstractmethod  # of every seed before the update of this step; leaves `generators` as they are
    def measure(self, training: Training, losses: StepLosses) -> list[Measurement]: ...
    @abstractmethod  # of one seed at the end, with its selected or averaged weights, on data that nothing was chosen by
    def evaluate(self, place: int, selected: nn.Module) -> Measurement: ...
