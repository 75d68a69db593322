"""A training step as CUDA graphs: launched whole, so that the card does not wait for the host between kernels."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # steps of a kind taken as they are before it is captured: libraries and optimisers set themselves up

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


class StepGraphs:
    """Takes steps of several kinds; each kind is captured after `WARM_UP` steps, and replayed from then on.

    A kind is what the step's Python code branches on, and the shapes of its inputs, which are copied into buffers. The
    step may read and write any tensors that stay where they are. All `generators` that it draws from are registered, so
    that every replay draws anew. `suspects` names the user's own parts for `NotCapturable`. All steps, and whatever
    else makes gradients of the same parameters, have to be taken on one stream that is not the default.
    """

    def __init__(
        self, step: Callable[[Mapping[str, Tensor], Any], None], generators: Sequence[torch.Generator], suspects: str
    ) -> None:
        self.step, self.generators, self.suspects = step, generators, suspects
        self.taken: Counter[Hashable] = Counter()
        self.captured: dict[Hashable, tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.setup_seconds, self.replays = 0.0, 0

    def take(self, inputs: Mapping[str, Tensor], kind: Hashable) -> None:
        """One step of that kind."""
        key = kind, tuple((name, tensor.shape) for name, tensor in inputs.items())
        self.taken[key] += 1
        if self.taken[key] <= WARM_UP:
            self.step(inputs, kind)
            return
        if key not in self.captured:
            self.captured[key] = self._capture(inputs, kind)
        graph, buffers = self.captured[key]
        for name, tensor in inputs.items():
            buffers[name].copy_(tensor)
        graph.replay()
        self.replays += 1

    def _capture(self, inputs: Mapping[str, Tensor], kind: Hashable) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]:
        started, graph = time.perf_counter(), torch.cuda.CUDAGraph()
        buffers = {name: tensor.clone() for name, tensor in inputs.items()}
        for generator in self.generators:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=torch.cuda.current_stream()):
                self.step(buffers, kind)
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
        return graph, buffers
