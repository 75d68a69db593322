"""Networks of one shape over a seed axis, their updates, and on a GPU whole steps of them as CUDA graphs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field
from inspect import unwrap
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

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


class Stack(nn.Module):
    """S networks of one shape as one, whose tensors `members` view; one alone is itself, as vmap costs a fifth."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.size, self.members = len(members), tuple(members)  # a tuple is not registered as a submodule
        self.network = _Applied(members[0] if self.size == 1 else deepcopy(members[0]))
        self.stack_of: dict[int, Any] = {}  # by the id of the first member's tensor, as two modules may share it
        for into, *owners in zip(self.network.inner.modules(), *(each.modules() for each in members), strict=True):
            for kind in ("_parameters", "_buffers"):
                for name, first in getattr(owners[0], kind).items():
                    if first is not None and id(first) not in self.stack_of:
                        self.stack_of[id(first)] = _joined([getattr(owner, kind)[name] for owner in owners])
                    getattr(into, kind)[name] = first if first is None else self.stack_of[id(first)]
        self.train(members[0].training)

    def each(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """function(member, *inputs[s]) of every member, for inputs [S, …] or None; its tensors as [S, …]."""
        if self.size == 1:
            result = function(self.network.inner, *tree_map_only(Tensor, lambda each: each.squeeze(0), inputs))
            return tree_map_only(Tensor, lambda each: each.unsqueeze(0), result)
        # every name of a shared tensor, as untying them at each call takes longer than a small network
        state: dict[str, Tensor] = dict(self.network.named_parameters(remove_duplicate=False))
        state |= dict(self.network.named_buffers(remove_duplicate=False))

        def one(state: dict[str, Tensor], *inputs: Any) -> Any:
            return functional_call(self.network, state, (function, *inputs), tie_weights=False)

        dims = [0 if isinstance(each, Tensor) else None for each in inputs]
        return torch.vmap(one, in_dims=(0, *dims))(state, *inputs)

    def rows(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """The same for rows [S·b, …] of all seeds, seed after seed; its tensors as rows [S·b, …]."""
        if self.size == 1:
            return function(self.network.inner, *inputs)
        result = self.each(function, *tree_map_only(Tensor, self.apart, inputs))
        return tree_map_only(Tensor, lambda each: each.flatten(0, 1), result)

    def forward(self, *rows: Tensor) -> Any:
        """The networks' outputs for rows [S·b, …] of all seeds, in the same order."""
        return self.rows(lambda network, *inputs: network(*inputs), *rows)

    def apart(self, rows: Tensor) -> Tensor:
        """Rows [S·b, …] as [S, b, …]."""
        return rows.unflatten(0, (self.size, -1))

    def by_seed(self, tensor: Tensor) -> Tensor:
        """A parameter, or whatever has its shape, as [S, …]."""
        return tensor.unsqueeze(0) if self.size == 1 else tensor

    def tensors(self) -> list[Tensor]:
        """All parameters and buffers."""
        return [*self.network.parameters(), *self.network.buffers()]


def _joined(own: Sequence[Tensor]) -> Tensor:
    """Tensors of all members as views of one, which is returned; one alone as it is."""
    if len(own) == 1:
        return own[0]
    stack = torch.stack([tensor.detach() for tensor in own])
    for tensor, view in zip(own, stack, strict=True):
        tensor.data = view
    return nn.Parameter(stack, own[0].requires_grad) if isinstance(own[0], nn.Parameter) else stack


class _Applied(nn.Module):
    """Any function of a network as a module's forward, which is all that `functional_call` calls."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, function: Callable[..., Any], *inputs: Any) -> Any:
        return function(self.inner, *inputs)


@dataclass(eq=False)
class ParameterGroup:
    """Parameters of a stack, updated as each seed's alone; of differing rates all take their part of the largest."""

    name: str
    stack: Stack
    parameters: Sequence[nn.Parameter]  # of the stack's first member
    optimiser: type[torch.optim.Optimizer]
    lr: float
    clip_norm: float
    frozen_steps: int = 0  # for which they stay as they are
    options: dict[str, Any] = field(default_factory=dict)  # the optimiser's other settings
    lrs: Sequence[float] = ()  # of each seed, where they may differ

    def __post_init__(self) -> None:
        self.stacked: list[nn.Parameter] = [self.stack.stack_of[id(each)] for each in self.parameters]
        device, self.largest = self.stacked[0].device, max(self.lrs, default=self.lr)
        self.on_gpu, differ = device.type == "cuda", len(set(self.lrs)) > 1
        self.shares = torch.tensor([each / self.largest for each in self.lrs], device=device) if differ else None
        options = {"fused": True, **self.options} | ({"capturable": True} if self.on_gpu else {})
        lr: Any = torch.tensor(self.largest, device=device) if self.on_gpu else self.largest  # a graph reads a tensor
        # Torch imports its compiler, 2 s, to keep these two out of what it compiles, which nothing here is.
        unguarded = {name: unwrap(getattr(self.optimiser, name)) for name in ("add_param_group", "step")}
        optimiser = type(self.optimiser.__name__, (self.optimiser,), unguarded)
        self.own: torch.optim.Optimizer = optimiser(self.stacked, lr=lr, **options)
        self.norms = torch.full((self.stack.size,), torch.nan, device=device)  # of the last gradient, before clipping

    def update(self, gradients: Sequence[Tensor | None], factor: Tensor | float) -> None:
        """One step at `factor` times the learning rate, each seed's gradient scaled to at most `clip_norm`."""
        present, seeds = [gradient for gradient in gradients if gradient is not None], self.stack.size
        if present and seeds == 1:  # whose stacks have no axis of seeds
            self.norms.copy_(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(present))))
            torch._foreach_mul_(present, (self.clip_norm / (self.norms[0] + 1e-6)).clamp_max(1.0))
        elif present:
            parts = [torch.linalg.vector_norm(gradient.reshape(seeds, -1), dim=1) for gradient in present]
            self.norms.copy_(torch.linalg.vector_norm(torch.stack(parts), dim=0))
            for each in present:
                each.mul_(_along_first((self.clip_norm / (self.norms + 1e-6)).clamp_max(1.0), each))
        for parameter, gradient in zip(self.stacked, gradients, strict=True):
            parameter.grad = gradient
        settings, lr = self.own.param_groups[0], self.largest * factor
        settings["lr"] = settings["lr"].copy_(lr) if self.on_gpu else lr
        before = [] if self.shares is None else [parameter.clone() for parameter in self.stacked]
        self.own.step()
        if self.shares is not None:
            for parameter, start in zip(self.stacked, before, strict=True):
                parameter.copy_(torch.lerp(start, parameter, _along_first(self.shares, parameter)))

    def state_of(self, place: int) -> dict[str, Any]:
        """One seed's last gradient norm, and its part of the optimiser's state of each parameter."""
        own = [
            {n: each if n == "step" else self.stack.by_seed(each)[place] for n, each in self.own.state[p].items()}
            for p in self.stacked
        ]
        return {"norm": self.norms[place], "optimiser": own}

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue with the states of all seeds."""
        self.norms.copy_(torch.stack([state["norm"] for state in states]))
        for index, parameter in enumerate(self.stacked):
            for name, first in states[0]["optimiser"][index].items():
                own = [state["optimiser"][index][name] for state in states]
                joined = first if name == "step" or len(own) == 1 else torch.stack(own)
                self.own.state[parameter][name] = joined.to(parameter.device, copy=True)


def update(total: Float[Tensor, " seeds"], groups: Sequence[ParameterGroup], factor: Tensor | float) -> None:
    """One step of each group down each seed's own loss, at `factor` times the learning rates."""
    parameters = [parameter for each in groups for parameter in each.stacked]
    found = torch.autograd.grad(total.sum(), parameters, allow_unused=True)
    gradients = iter([None if each is None else each.contiguous() for each in found])  # as fused Adam reads them
    with torch.no_grad():
        for each in groups:
            each.update([next(gradients) for _ in each.stacked], factor)


def _along_first(values: Float[Tensor, " seeds"], stack: Tensor) -> Tensor:
    """One value for each seed, to be multiplied with a stack [S, …]."""
    return values.view(-1, *[1] * (stack.ndim - 1))


class NotCapturable(RuntimeError):
    """A step waits for the host, so that no CUDA graph can hold it; the message says what to change."""


class StepGraphs:
    """Takes steps of several kinds; each kind is captured after `WARM_UP` steps, and replayed from then on.

    A kind is what the step's Python code branches on, and the shapes of its inputs, which are copied into buffers. All
    steps, and what else makes gradients of the same parameters, go on one stream that is not the default.
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
        except RuntimeError as error:  # the step has been taken before: the capture is what forbids something
            first = error.__context__ if isinstance(error.__context__, RuntimeError) else error  # what ended it
            if isinstance(first, torch.OutOfMemoryError):
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
