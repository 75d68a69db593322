"""A training step as CUDA graphs: launched whole, so that the card does not wait for the host between kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

WARM_UP = 3  # steps of a kind taken as they are before it is captured: libraries and optimisers set themselves up
Step = Callable[[Mapping[str, Tensor], Hashable], None]

_host_may_wait: ContextVar[bool] = ContextVar("host_may_wait", default=True)


def host_may_wait() -> bool:
    """Whether code may look at values on the host: False inside a step that is, or may be, captured."""
    return _host_may_wait.get()


@contextmanager
def without_host(refused: bool = True) -> Iterator[None]:
    """Inside, `host_may_wait()` is False (unless `refused` is)."""
    token = _host_may_wait.set(not refused and host_may_wait())
    try:
        yield
    finally:
        _host_may_wait.reset(token)


class NotCapturable(RuntimeError):
    """A step waits for the host, so that no CUDA graph can hold it; the message says what to change."""


@dataclass
class _Captured:
    """One kind of step: how often it was taken, then its graph and the buffers the graph reads its inputs from."""

    taken: int = 0
    inputs: dict[str, Tensor] = field(default_factory=dict)
    graph: torch.cuda.CUDAGraph | None = None


class StepGraphs:
    """Takes steps of several kinds, each kind captured after it was taken `WARM_UP` times, and replayed from then on.

    A kind is whatever the step's Python code branches on, and the shapes of its inputs. The step may read and write
    any tensors that stay where they are; inputs are copied into buffers. All `generators` that it draws from are
    registered, so that every replay draws anew. `suspects` names the user's own parts for `NotCapturable`. All steps,
    and whatever else makes gradients of the same parameters, have to be taken on one stream that is not the default.
    """

    def __init__(self, step: Step, generators: Sequence[torch.Generator], suspects: str) -> None:
        self.step, self.generators, self.suspects = step, generators, suspects
        self.captured: dict[Hashable, _Captured] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.setup_seconds = 0.0
        self.replays = 0

    def take(self, inputs: Mapping[str, Tensor], kind: Hashable) -> None:
        """One step of that kind."""
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in inputs.items())
        known = self.captured.setdefault((kind, shapes), _Captured())
        if known.graph is None and known.taken < WARM_UP:
            known.taken += 1
            self.step(inputs, kind)
            return
        known.graph = known.graph or self._capture(known, inputs, kind)
        for name, tensor in inputs.items():
            known.inputs[name].copy_(tensor)
        known.graph.replay()
        self.replays += 1

    def _capture(self, known: _Captured, inputs: Mapping[str, Tensor], kind: Hashable) -> torch.cuda.CUDAGraph:
        started = time.perf_counter()
        known.inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=torch.cuda.current_stream()):
                self.step(known.inputs, kind)
        except RuntimeError as error:
            first = error
            while isinstance(first.__context__, RuntimeError):  # what ended the capture, before its own complaint
                first = first.__context__
            if "captur" not in f"{error} {first}".lower():
                raise
            said = str(first).strip().partition("\n")[0]
            raise NotCapturable(
                f"the training step cannot be captured as a CUDA graph ({said}): something in it waits for the host. "
                f"Look at {self.suspects} for .item(), float(), bool(), tolist(), nonzero or boolean-mask indexing, "
                "and use torch.where and masks instead; or set graph = False"
            ) from error
        torch.cuda.synchronize()
        self.setup_seconds += time.perf_counter() - started
        return graph
