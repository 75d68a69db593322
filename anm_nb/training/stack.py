"""Networks stacked along a seed axis, their updates, and CUDA graphs of whole training steps."""

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

WARM_UP = 3  # steps of a kind to take before capturing it, while libraries and optimisers initialise
_host_may_wait: ContextVar[bool] = ContextVar("host_may_wait", default=True)


def host_may_wait() -> bool:
    """Whether code may read values on the host: False inside a step that is captured or could be."""
    return _host_may_wait.get()


@contextmanager
def without_host(refused: bool = True) -> Iterator[None]:
    """Make `host_may_wait()` return False inside; does nothing if `refused` is False."""
    token = _host_may_wait.set(not refused and host_may_wait())
    try:
        yield
    finally:
        _host_may_wait.reset(token)


class Stack(nn.Module):
    """S networks of one shape as one; `members` view its tensors. One alone is used directly, as vmap costs 20 %."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.size, self.members = len(members), tuple(members)  # a tuple, so that they are not registered as submodules
        self.network = _Applied(members[0] if self.size == 1 else deepcopy(members[0]))
        self.stack_of: dict[int, Any] = {}  # by id of the first member's tensor, which modules may share
        for into, *owners in zip(self.network.inner.modules(), *(each.modules() for each in members), strict=True):
            for kind in ("_parameters", "_buffers"):
                for name, first in getattr(owners[0], kind).items():
                    if first is not None and id(first) not in self.stack_of:
                        self.stack_of[id(first)] = _joined([getattr(owner, kind)[name] for owner in owners])
                    getattr(into, kind)[name] = first if first is None else self.stack_of[id(first)]
        self.train(members[0].training)

    def each(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Return function(member, *inputs[s]) for every member s, stacked [S, …]; inputs are [S, …] or None."""
        if self.size == 1:
            result = function(self.network.inner, *tree_map_only(Tensor, lambda each: each.squeeze(0), inputs))
            return tree_map_only(Tensor, lambda each: each.unsqueeze(0), result)
        # with every name of a shared tensor: untying them in each call would take longer than a small network
        state: dict[str, Tensor] = dict(self.network.named_parameters(remove_duplicate=False))
        state |= dict(self.network.named_buffers(remove_duplicate=False))

        def one(state: dict[str, Tensor], *inputs: Any) -> Any:
            return functional_call(self.network, state, (function, *inputs), tie_weights=False)

        dims = [0 if isinstance(each, Tensor) else None for each in inputs]
        return torch.vmap(one, in_dims=(0, *dims))(state, *inputs)

    def rows(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Like `each`, for inputs and results as rows [S·b, …], seed after seed."""
        if self.size == 1:
            return function(self.network.inner, *inputs)
        result = self.each(function, *tree_map_only(Tensor, self.apart, inputs))
        return tree_map_only(Tensor, lambda each: each.flatten(0, 1), result)

    def forward(self, *rows: Tensor) -> Any:
        """The networks' outputs for rows [S·b, …], seed after seed."""
        return self.rows(lambda network, *inputs: network(*inputs), *rows)

    def apart(self, rows: Tensor) -> Tensor:
        """Reshape rows [S·b, …] to [S, b, …]."""
        return rows.unflatten(0, (self.size, -1))

    def by_seed(self, tensor: Tensor) -> Tensor:
        """Reshape a parameter, or a tensor of its shape, to [S, …]."""
        return tensor.unsqueeze(0) if self.size == 1 else tensor

    def tensors(self) -> list[Tensor]:
        return [*self.network.parameters(), *self.network.buffers()]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Stack the tensors of all members, make each a view of the stack, and return it; a single one stays as it is."""
    if len(tensors) == 1:
        return tensors[0]
    stack = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, view in zip(tensors, stack, strict=True):
        tensor.data = view
    return nn.Parameter(stack, tensors[0].requires_grad) if isinstance(tensors[0], nn.Parameter) else stack


class _Applied(nn.Module):
    """Makes any function of a network a module's forward, as `functional_call` needs it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, function: Callable[..., Any], *inputs: Any) -> Any:
        return function(self.inner, *inputs)


@dataclass(eq=False)
class ParameterGroup:
    """Parameters of a stack, updated per seed; with differing rates, each seed takes its share of the largest step."""

    name: str
    stack: Stack
    parameters: Sequence[nn.Parameter]  # those of the stack's first member
    optimiser: type[torch.optim.Optimizer]
    lr: float
    clip_norm: float
    frozen_steps: int = 0  # first steps, in which the parameters stay fixed
    options: dict[str, Any] = field(default_factory=dict)  # other settings of the optimiser
    lrs: Sequence[float] = ()  # learning rate of each seed, where they may differ

    def __post_init__(self) -> None:
        self.stacked: list[nn.Parameter] = [self.stack.stack_of[id(each)] for each in self.parameters]
        device, self.largest = self.stacked[0].device, max(self.lrs, default=self.lr)
        self.on_gpu, differ = device.type == "cuda", len(set(self.lrs)) > 1
        self.shares = torch.tensor([each / self.largest for each in self.lrs], device=device) if differ else None
        options = {"fused": True, **self.options} | ({"capturable": True} if self.on_gpu else {})
        lr: Any = torch.tensor(self.largest, device=device) if self.on_gpu else self.largest  # a graph needs a tensor
        # Torch wraps these two to exclude them from compilation and imports its compiler for that (2 s). Unwrap them.
        unguarded = {name: unwrap(getattr(self.optimiser, name)) for name in ("add_param_group", "step")}
        optimiser = type(self.optimiser.__name__, (self.optimiser,), unguarded)
        self.updater: torch.optim.Optimizer = optimiser(self.stacked, lr=lr, **options)
        self.norms = torch.full((self.stack.size,), torch.nan, device=device)  # gradient norms before clipping

    def update(self, gradients: Sequence[Tensor | None], factor: Tensor | float) -> None:
        """Take a step at `factor` times the learning rate, with each seed's gradient clipped to norm `clip_norm`."""
        present, seeds = [gradient for gradient in gradients if gradient is not None], self.stack.size
        if present and seeds == 1:  # without a seed axis
            self.norms.copy_(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(present))))
            torch._foreach_mul_(present, (self.clip_norm / (self.norms[0] + 1e-6)).clamp_max(1.0))
        elif present:
            parts = [torch.linalg.vector_norm(gradient.reshape(seeds, -1), dim=1) for gradient in present]
            self.norms.copy_(torch.linalg.vector_norm(torch.stack(parts), dim=0))
            for each in present:
                each.mul_(_along_first((self.clip_norm / (self.norms + 1e-6)).clamp_max(1.0), each))
        for parameter, gradient in zip(self.stacked, gradients, strict=True):
            parameter.grad = gradient
        settings, lr = self.updater.param_groups[0], self.largest * factor
        settings["lr"] = settings["lr"].copy_(lr) if self.on_gpu else lr
        before = [] if self.shares is None else [parameter.clone() for parameter in self.stacked]
        self.updater.step()
        if self.shares is not None:
            for parameter, start in zip(self.stacked, before, strict=True):
                parameter.copy_(torch.lerp(start, parameter, _along_first(self.shares, parameter)))

    def state_of(self, place: int) -> dict[str, Any]:
        """One seed's last gradient norm and its part of the optimiser's state."""
        optimiser = [
            {n: each if n == "step" else self.stack.by_seed(each)[place] for n, each in self.updater.state[p].items()}
            for p in self.stacked
        ]
        return {"norm": self.norms[place], "optimiser": optimiser}

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.norms.copy_(torch.stack([state["norm"] for state in states]))
        for index, parameter in enumerate(self.stacked):
            for name, first in states[0]["optimiser"][index].items():
                values = [state["optimiser"][index][name] for state in states]
                joined = first if name == "step" or len(values) == 1 else torch.stack(values)
                self.updater.state[parameter][name] = joined.to(parameter.device, copy=True)


def update(total: Float[Tensor, " seeds"], groups: Sequence[ParameterGroup], factor: Tensor | float) -> None:
    """Take a gradient step on each seed's own loss in every group, at `factor` times the learning rates."""
    parameters = [parameter for each in groups for parameter in each.stacked]
    found = torch.autograd.grad(total.sum(), parameters, allow_unused=True)
    gradients = iter([None if each is None else each.contiguous() for each in found])  # as fused Adam needs them
    with torch.no_grad():
        for each in groups:
            each.update([next(gradients) for _ in each.stacked], factor)


def _along_first(values: Float[Tensor, " seeds"], stack: Tensor) -> Tensor:
    """Reshape one value per seed to multiply a stack [S, …]."""
    return values.view(-1, *[1] * (stack.ndim - 1))


class NotCapturable(RuntimeError):
    """A step waits for the host, so it cannot be captured as a CUDA graph; the message says what to change."""


class StepGraphs:
    """Takes steps of several kinds: runs each kind `WARM_UP` times, captures it as a CUDA graph, then replays it.

    A kind is everything the step's Python code branches on, plus the shapes of the inputs, which are copied into
    buffers. All steps, and other code with gradients of the same parameters, must run on one non-default stream.
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
        """Take one step of this kind."""
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
        except RuntimeError as error:  # the step ran before without capture, so capturing it is the problem
            first = error.__context__ if isinstance(error.__context__, RuntimeError) else error  # the original error
            if isinstance(first, torch.OutOfMemoryError):
                raise
            reason = str(first).strip().partition("\n")[0]
            raise NotCapturable(
                f"the training step cannot be captured as a CUDA graph ({reason}): something in it waits for the host. "
                f"Look at {self.suspects} for .item(), float(), bool(), tolist(), nonzero or boolean-mask indexing, "
                "and use torch.where and masks instead; or set graph = False"
            ) from error
        torch.cuda.synchronize()
        self.setup_seconds += time.perf_counter() - started
        return graph, buffers
