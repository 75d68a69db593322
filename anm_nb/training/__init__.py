"""Training for all families: the interface that a family implements, progress, loggers, time limits, interrupts."""

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
from anm_nb.training.seeds import generator, initialise
from anm_nb.training.stack import ParameterGroup, Stack

if TYPE_CHECKING:
    from anm_nb.training.loop import Training

Named = Mapping[str, Tensor]
Tell = Callable[..., object]  # called with (member, step, loss, row); the row is empty where nothing was measured
Logger = Callable[[Any, int, int, Mapping[str, float]], object]
LOGGERS: dict[str, Logger] = {}
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


def on_record(logger: Logger) -> Logger:
    """Call `logger(config, seed, step, row)` at every record and at the final test; `row` is as in `Run.metrics`."""
    LOGGERS[logger.__qualname__] = logger
    return logger


@contextmanager
def progress(members: Sequence[Any]) -> Iterator[Tell]:
    """Yield a callback that advances one progress bar over all seeds and calls every registered logger."""
    from tqdm.auto import tqdm

    config, steps = members[0].config, dict[tuple[int, int], int]()
    method = getattr(config, "method", None) or getattr(config, "routing", config.family)
    visible = sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ  # in a terminal, or a Jupyter server's kernel
    total, title = len(members) * config.total_steps(), f"{method}, seeds: {len(members)}"
    with tqdm(desc=title, total=total, unit="step", leave=False, disable=not visible) as bar:

        def tell(member: Any, step: int, loss: float, row: Mapping[str, float]) -> None:
            if row:
                for logger in LOGGERS.values():
                    logger(member.config, member.seed, step, row)
            key = id(member.config), member.seed
            bar.update(step - steps.get(key, 0))
            bar.set_postfix(loss=f"{loss:.3g}")
            steps[key] = step

        yield tell


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite; the message names the seed, the step and the parts of the loss."""


class OutOfTime(RuntimeError):
    """The time limit was reached; the training is saved and continues from there when it is requested again."""


class Interrupted(KeyboardInterrupt):
    """A training was interrupted and is saved. A notebook shows the message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Make trainings inside save their state and raise `OutOfTime` after this many seconds."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left() -> float:
    """Return the seconds until the current `time_limit`: infinite without one, −∞ after an interrupt."""
    return _deadline.get() - time.monotonic()


@contextmanager
def interrupts() -> Iterator[None]:
    """At the first interrupt (SIGINT), end the time limit and raise `Interrupted`; a second one acts as usual."""
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return

    def expire(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, previous)
        _deadline.set(-math.inf)

    token = _deadline.set(_deadline.get())
    signal.signal(signal.SIGINT, expire)
    try:
        yield
        if seconds_left() == -math.inf:
            raise Interrupted("this training had just ended and is saved; run again to continue")
    except OutOfTime as stopped:
        if seconds_left() > -math.inf:
            raise
        raise Interrupted(stopped) from None
    finally:
        signal.signal(signal.SIGINT, previous)
        _deadline.reset(token)


class TrainingConfig(RunConfig):
    """Fields and defaults shared by every family: stopping, checkpoints, precision, device, seeds."""

    scheduled: ClassVar[Sequence[str]] = ()  # numeric fields that may differ within a stack
    length: ClassVar[str] = ""  # field with the training's length; "" if longer runs never continue shorter ones

    patience: PositiveInt | None = None  # measurements without a better selection score before stopping
    stop_at_score: float | None = None  # selection score at which to stop; None: never
    checkpoint_every: Steps = 1000  # steps
    keep_weights: bool = False  # keep the EMA weights of every record too, to watch a landscape form
    # Of matrix products. tf32 rounds factors to 10 bits on a GPU (and is float32 on a CPU); bfloat16 is autocast.
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    graph: bool = True  # on a GPU, capture the whole step as a CUDA graph
    threads: Threads = 1  # CPU threads of one training; part of the config because it changes the last bits
    seeds: Seeds = (0, 1, 2)

    @abstractmethod
    def total_steps(self) -> int: ...  # number of updates
    @abstractmethod
    def record_steps(self) -> list[int]: ...  # sorted steps to measure before their update, with 0 and the last
    @abstractmethod
    def make_learner(self, members: "Sequence[Member]", device: str) -> "Learner": ...  # members share a `stack_key`

    def stack_key(self) -> str:
        """A key shared by configs that can train as one stack: they differ only in seeds and `scheduled` numbers."""
        return self.model_dump_json(exclude={"seeds", *self.scheduled})

    def can_be_extended(self) -> bool:
        """Whether no step depends on the total `length`, so that a longer training can continue this one."""
        return bool(self.length)

    def learner(self, *seeds: int, device: str = "cpu") -> Any:
        return self.make_learner([Member(self, seed) for seed in seeds], device)

    def lr_factor(self, step: int) -> float:
        """Factor on all learning rates at a step; constant unless a family overrides it."""
        return 1.0

    def averaging(self) -> tuple[float, int]:
        """EMA decay and the number of steps between EMA updates; with decay 0 the average equals the weights."""
        return 0.0, 1

    def device_kind(self) -> str:
        """The device that `device` resolves to on this machine: cpu or cuda."""
        return resolve_device(self.device)


def resolve_device(device: str) -> str:
    """Resolve "auto" to cuda if available, else cpu. Raises `ParameterError` if cuda is requested but missing."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device = 'cuda': no CUDA device on this machine; allowed: auto, cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


class Member(NamedTuple):
    """One seed of a stack, with its config."""

    config: Any  # an instance of the learner's own config class
    seed: int


@dataclass
class StepLosses:
    """Each seed's loss and its named parts, all [S], and details that the family's measurements need."""

    total: Float[Tensor, " seeds"]
    parts: dict[str, Float[Tensor, " seeds"]]
    detail: Any = None


@dataclass
class Measurement:
    """One seed's metrics and arrays. The EMA weights with the highest `selection` score (never NaN) are kept."""

    scalars: dict[str, float]
    arrays: dict[str, Tensor] = field(default_factory=dict)
    selection: float | None = None

    def __post_init__(self) -> None:
        self.scalars = {name: float(value) for name, value in self.scalars.items()}  # a task may return numpy numbers


class Learner(ABC):
    """S seeds of one family. `losses` is captured as a CUDA graph and must not wait for the host; `inputs` may."""

    groups: Sequence[ParameterGroup]
    generators: Mapping[str, Sequence[torch.Generator]] = {}  # by purpose, one per seed
    schedules: Named  # [steps + 1] or [steps + 1, S], on the device, indexed by step
    block = 1  # steps whose inputs are drawn at once; a training can stop only between blocks
    suspects: str  # the user's own classes in a step, named in error messages

    def __init__(self, members: Sequence[Member], device: str, make_network: Callable[[], nn.Module]) -> None:
        self.members, self.device, self.config = members, device, members[0].config
        networks = [make_network() for _ in members]
        for member, network in zip(members, networks, strict=True):
            initialise(network, generator(member.seed, "weights"))
        self.model = Stack([network.to(device) for network in networks])

    def sources(self, purpose: str) -> list[torch.Generator]:
        """One generator per seed for this purpose."""
        return [generator(member.seed, purpose, self.device) for member in self.members]

    def state(self, place: int) -> dict[str, Any]:
        """Everything that the next step of the seed at this index depends on."""
        return {
            "model": self.model.members[place].state_dict(),
            "generators": {purpose: sources[place].get_state() for purpose, sources in self.generators.items()},
            "groups": [group.state_of(place) for group in self.groups],
        }

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        for place, state in enumerate(states):
            self.model.members[place].load_state_dict(state["model"])
            for purpose, sources in self.generators.items():
                sources[place].set_state(state["generators"][purpose])
        for index, group in enumerate(self.groups):
            group.load([state["groups"][index] for state in states])

    def branch(self, step: int, recorded: bool) -> Hashable:
        """Every condition that the Python code of `losses` branches on."""
        return None

    @abstractmethod
    def inputs(self, step: int) -> dict[str, Tensor]: ...  # the next batch of all seeds
    @abstractmethod  # `now` holds the schedules' current values, `averaged` is the EMA
    def losses(self, inputs: Named, now: Named, branch: Any, averaged: Stack) -> StepLosses: ...
    @abstractmethod  # one per seed, before the update of this step; must leave `generators` unchanged
    def measure(self, training: "Training", losses: StepLosses) -> list[Measurement]: ...
    @abstractmethod  # one seed after training, with its selected or averaged weights, on data never used for choices
    def evaluate(self, place: int, selected: nn.Module) -> Measurement: ...
