"""Negative strategies: what the contrastive loss is shown as wrong. Bring your own by subclassing `NegativeStrategy`.

A strategy works in clean y-space. Noising is the trainer's, once, with the noise of the positive (`SharedNoise`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from pydantic import BeforeValidator, Field, PlainSerializer, PositiveFloat, PositiveInt
from torch import Tensor, nn

from anm_nb.config import ParameterError, Parameters, unknown_name
from anm_nb.energy.constraints import L2Ball, LinfBall
from anm_nb.energy.miner import Energy, Mined, MinerConfig, mine, random_shift
from anm_nb.energy.networks import energy_given
from anm_nb.energy.sampler import descend
from anm_nb.energy.schedule import SharedNoise
from anm_nb.energy.simplex import DiscreteSet, MaskedSimplex, SignBox
from anm_nb.tasks.base import Clues, DenoisingTask
from anm_nb.training.seeds import RowDraws


@dataclass(frozen=True)
class MiningProblem:
    """Everything a strategy may use to propose negatives for a batch.

    Raises `ParameterError` for a progress outside [0, 1].
    """

    task: DenoisingTask
    x: Float[Tensor, "b x_dim"]
    y_pos: Float[Tensor, "b y_dim"]
    noise: SharedNoise  # levels k and ε that positive and negative share
    model: nn.Module  # the network in training
    averaged: nn.Module  # its EMA, in eval mode and without gradients
    generator: torch.Generator
    clues: Clues | None = None  # entries of the answers that are given, and stay as they are
    progress: float = 1.0  # share of the training that is done, for curricula
    prepared: Energy | None = None  # E(x, ·, k) of `model`, for all who ask in this step
    parts: tuple[MiningProblem, ...] = ()  # where rows and networks are those of several seeds: the problem of each

    def __post_init__(self) -> None:
        if not 0 <= self.progress <= 1:
            raise ParameterError(f"progress = {self.progress}: should be between 0 and 1")

    @property
    def energy(self) -> Energy:
        """EMA energies of clean points y, noised with the batch's own noise: what a mined negative should have low.

        What does not depend on y is computed here, with the weights of the moment: take it once for many points.
        """
        noise, clues = self.noise, self.clues
        of_noised = energy_given(self.averaged, self.x, noise.k)

        def energy(y: Float[Tensor, "b y_dim"]) -> Float[Tensor, " b"]:
            y = y if clues is None else clues.impose(y)
            return of_noised(noise.schedule.q_sample(y, noise.k, noise.eps).as_subclass(Tensor))

        return energy

    @property
    def noised_energy(self) -> Energy:
        """Energies of noised points under the network in training."""
        return self.prepared or energy_given(self.model, self.x, self.noise.k)

    def prepare(self) -> MiningProblem:
        """The same, with what energies of noised points need of x and k computed once, gradients and all."""
        return replace(self, prepared=energy_given(self.model, self.x, self.noise.k))

    def denoising(self, noised: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """x, ỹ⁺, k, ε and which entries are given: what the denoising loss is computed from."""
        return self.x, noised.as_subclass(Tensor), self.noise.k, self.noise.eps, self.given

    @property
    def given(self) -> Bool[Tensor, "b y_dim"] | None:
        """Which entries are clues, where there are any."""
        return None if self.clues is None else self.clues.mask

    @property
    def sources(self) -> list[torch.Generator]:
        """The generators of the `parts`."""
        return [part.generator for part in self.parts]

    def rows(self, chosen: Bool[Tensor, " b"], generator: torch.Generator) -> MiningProblem:
        """The problem of some of the examples, with a generator of its own."""
        clues, noise = self.clues, self.noise
        return replace(
            self,
            x=self.x[chosen],
            y_pos=self.y_pos[chosen],
            noise=SharedNoise(noise.schedule, noise.k[chosen], noise.eps[chosen]),
            generator=generator,
            clues=None if clues is None else Clues(clues.mask[chosen], clues.values[chosen]),
            prepared=None,
        )


class NegativeStrategy(Parameters):
    """A way to propose negatives. Set `name`, add options as fields, implement `propose`, and register the class."""

    name: ClassVar[str]

    @abstractmethod
    def propose(self, problem: MiningProblem) -> Mined:
        """Negatives [batch, y_dim] in clean y-space. Runs without gradients to any weights."""

    def propose_stacked(self, problem: MiningProblem) -> Mined:
        """What `propose` gives for each of the problem's `parts`, in their order, each drawn from its own generator.

        One part after the other, which is right for every strategy. Override it where the networks of the whole
        `problem` can take the rows of all parts at once; a class that overrides `propose` alone has this one.
        """
        mined = [self.propose(part) for part in problem.parts]
        log = {name: torch.cat([each.log[name] for each in mined]) for name in mined[0].log}
        return Mined(torch.cat([each.y_neg for each in mined]), log)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "propose" in vars(cls) and "propose_stacked" not in vars(cls):
            cls.propose_stacked = NegativeStrategy.propose_stacked  # type: ignore[method-assign]


def together(parts: Sequence[MiningProblem], model: nn.Module, averaged: nn.Module) -> MiningProblem:
    """The problems of several seeds as one: their rows seed after seed, for networks that take those of all seeds.

    Its generator is the first part's: whatever is drawn has to be drawn from those of the `parts`.
    """
    first = parts[0]
    clues = [part.clues for part in parts if part.clues is not None]
    noises = [part.noise for part in parts]
    return replace(
        first,
        x=torch.cat([part.x for part in parts]),
        y_pos=torch.cat([part.y_pos for part in parts]),
        noise=SharedNoise(
            first.noise.schedule, torch.cat([noise.k for noise in noises]), torch.cat([noise.eps for noise in noises])
        ),
        model=model,
        averaged=averaged,
        prepared=None,
        clues=Clues(*(torch.cat([getattr(clue, name) for clue in clues]) for name in ("mask", "values")))
        if clues
        else None,
        parts=tuple(parts),
    )


_STRATEGIES: dict[str, type[NegativeStrategy]] = {}


def register_negatives(strategy: type[NegativeStrategy]) -> type[NegativeStrategy]:
    """Class decorator: makes a strategy known by its `name`. Defining it again replaces it, as notebooks do."""
    _STRATEGIES[strategy.name] = strategy
    return strategy


def get_negatives(name: str, **options: Any) -> NegativeStrategy:
    """A strategy by name: `get_negatives("random", eps=0.5)`. Raises `ParameterError` for unknown names and options."""
    if name not in _STRATEGIES:
        raise ParameterError(unknown_name("negative strategy", name, _STRATEGIES))
    return _STRATEGIES[name](**options)


def named_negatives(name: str) -> NegativeStrategy | None:
    """The strategy of that name with its default options; None for "none", training without a contrastive loss."""
    if name not in (*_STRATEGIES, "none"):
        raise ParameterError(unknown_name("negative strategy", name, [*_STRATEGIES, "none"]))
    return None if name == "none" else get_negatives(name)


def strategy_from(value: Any) -> Any:
    """A strategy from its name, or from {"name": …, options}; anything else as it is, for pydantic to judge."""
    if isinstance(value, str):
        return get_negatives(value)
    if isinstance(value, dict) and "name" in value:
        return get_negatives(value["name"], **{name: option for name, option in value.items() if name != "name"})
    return value


def strategy_to_json(strategy: NegativeStrategy) -> dict[str, Any]:
    """What `strategy_from` reads back."""
    return {"name": strategy.name, **strategy.model_dump(mode="json")}


Negatives = Annotated[NegativeStrategy, BeforeValidator(strategy_from), PlainSerializer(strategy_to_json)]


@register_negatives
class Stock(NegativeStrategy):
    """IRED's own: the task's corruption (`DenoisingTask.corrupt`), clues left in place.

    For continuous tasks that is the truth noised with 3ε, after two energy-descent steps, back in y-space and clamped.
    """

    name = "stock"
    noise_factor: PositiveFloat = 3.0
    descent_steps: PositiveInt = 2

    def propose(self, problem: MiningProblem) -> Mined:
        """Negatives by the published recipe."""
        y_neg = problem.task.corrupt(
            problem.y_pos, lambda: self._settled(problem), RowDraws([problem.generator], problem.y_pos.device)
        )
        return Mined(y_neg if problem.clues is None else problem.clues.impose(y_neg))

    def propose_stacked(self, problem: MiningProblem) -> Mined:
        """Corruption of all parts together, which draws from the generator of each."""
        draws = RowDraws(problem.sources, problem.y_pos.device)
        y_neg = problem.task.corrupt(problem.y_pos, lambda: self._settled(problem), draws)
        return Mined(y_neg if problem.clues is None else problem.clues.impose(y_neg))

    def _settled(self, problem: MiningProblem) -> Tensor:
        """Noised targets after a few descent steps on the energy, back in y-space."""
        schedule, k = problem.noise.schedule, problem.noise.k
        start = schedule.q_sample(problem.y_pos, k, self.noise_factor * problem.noise.eps)
        settled = descend(
            problem.noised_energy,
            start.as_subclass(Tensor),
            schedule.step_size(k),
            schedule.signal(k) * problem.task.sample_clamp,
            self.descent_steps,
        )
        return schedule.to_clean(settled, k)


@register_negatives
class Random(NegativeStrategy):
    """A random direction at distance `eps`·‖y⁺‖ from the truth, clues left in place; optionally ⟂ to the noise."""

    name = "random"
    eps: PositiveFloat = 1.0
    orthogonal_to_noise: bool = False

    def propose(self, problem: MiningProblem) -> Mined:
        """Negatives that look at neither the energy nor the problem."""
        y_pos = problem.y_pos
        length = self.eps * y_pos.norm(dim=1)
        shift = random_shift(y_pos, length, problem.generator)
        if self.orthogonal_to_noise or problem.clues is not None:
            normal = problem.noise.eps if self.orthogonal_to_noise else None
            ball = L2Ball(torch.zeros_like(y_pos), length, normal, problem.given)
            shift = ball.project(shift)
            shift = shift * (length / shift.norm(dim=1).clamp_min(1e-30)).unsqueeze(1)
            if problem.clues is not None:  # where they leave no direction at all, what was stretched is rounding
                shift = ball.project(shift)
        return Mined(y_pos + shift)


@register_negatives
class Anm(NegativeStrategy):
    """Adversarial negative mining: low EMA energy within a ball around the truth (ANM checklist, section B).

    `ball` "l2" has radius `miner.eps`·‖y⁺‖; "linf" is the box inscribed in it, of half-width `miner.eps`·‖y⁺‖/√y_dim.
    Clues stay in place. `orthogonal_to_noise` keeps y⁻ − y⁺ orthogonal to the shared ε, which makes every negative
    legitimate (`SharedNoise.optimal_margin`); without it the miner removes the noise of the positive instead of
    finding an error.
    """

    name = "anm"
    orthogonal_to_noise: bool = False
    ball: Literal["l2", "linf"] = "l2"
    miner: MinerConfig = Field(default_factory=MinerConfig)

    def propose(self, problem: MiningProblem) -> Mined:
        """Negatives mined against the EMA energy."""
        return mine(problem.energy, problem.y_pos, self.constraint(problem), self.miner, problem.generator)

    def propose_stacked(self, problem: MiningProblem) -> Mined:
        """The rows of all parts mined at once."""
        return mine(problem.energy, problem.y_pos, self.constraint(problem), self.miner, problem.sources)

    def constraint(self, problem: MiningProblem) -> L2Ball | LinfBall:
        """The ball around each truth."""
        normal = problem.noise.eps if self.orthogonal_to_noise else None
        radius = self.miner.eps * problem.y_pos.norm(dim=1)
        if self.ball == "l2":
            return L2Ball(problem.y_pos, radius, normal, problem.given)
        return LinfBall(problem.y_pos, radius / problem.y_pos.shape[1] ** 0.5, normal, problem.given)


@register_negatives
class AnmOrthogonal(Anm):
    """`anm` with the negative kept orthogonal to the noise, under a name of its own for tables and figures."""

    name = "anm_orthogonal"
    orthogonal_to_noise: bool = True


@runtime_checkable
class DiscreteTask(Protocol):
    """What a task brings for its answers to be mined as discrete ones."""

    classes: int  # consecutive entries that form one one-hot decision in {−1, 1}; 1 when every entry is a sign


@register_negatives
class AnmSimplex(NegativeStrategy):
    """Adversarial mining over the relaxed answers of a discrete task (ANM checklist, sections B and G).

    The set is the whole of the relaxation, clues fixed, so the miner's `eps` bounds only where descent starts; its
    `delta` gives way to "at least one decision differs". `round` returns the nearest answer instead of the relaxed
    point: the truth is always one-hot, so a network can tell a relaxed negative from it without looking at the problem
    at all, and the contrastive loss saturates on that. `legitimate` forbids each decision that alone would have
    m* ≤ 0 (`SharedNoise.optimal_margin`): as m* is a sum over decisions, every rounded negative then has m* > 0.
    Raises `ParameterError` for a task whose answers are not discrete.
    """

    name = "anm_simplex"
    legitimate: bool = False
    round: bool = True
    miner: MinerConfig = Field(default_factory=MinerConfig)

    def propose(self, problem: MiningProblem) -> Mined:
        """Negatives mined against the EMA energy; entropy and invalid mass are those of the relaxed points."""
        return self._mined(problem, problem.generator)

    def propose_stacked(self, problem: MiningProblem) -> Mined:
        """The rows of all parts mined at once."""
        return self._mined(problem, problem.sources)

    def _mined(self, problem: MiningProblem, source: torch.Generator | Sequence[torch.Generator]) -> Mined:
        y_pos, answers = problem.y_pos, self.answers(problem)

        def is_truth(y: Tensor) -> Tensor:
            return answers.decisions_changed(answers.nearest_vertex(y), y_pos) == 0

        mined = mine(problem.energy, y_pos, answers, self.miner, source, near=is_truth)
        vertex = answers.nearest_vertex(mined.y_neg)
        changed = {"decisions_changed": answers.decisions_changed(vertex, y_pos)}
        return Mined(vertex if self.round else mined.y_neg, mined.log | answers.log(mined.y_neg) | changed)

    def answers(self, problem: MiningProblem) -> DiscreteSet:
        """The relaxed answers that the problem's clues (and the wish for legitimate ones) leave."""
        task, y_pos = problem.task, problem.y_pos
        if not isinstance(task, DiscreteTask):
            raise ParameterError(f"negatives '{self.name}': task '{task.name}' is continuous; use 'anm' for it")
        allowed = torch.ones_like(y_pos, dtype=torch.bool)
        if self.legitimate:
            allowed = change_margin(problem, task.classes) > 0
        if task.classes > 1:
            return MaskedSimplex(allowed | (y_pos > 0), task.classes, problem.clues)
        return SignBox.around(y_pos, ~allowed if problem.given is None else ~allowed | problem.given)


@register_negatives
class AnmSimplexLegitimate(AnmSimplex):
    """`anm_simplex` with legitimate decisions only, under a name of its own for tables and figures."""

    name = "anm_simplex_legitimate"
    legitimate: bool = True


def change_margin(problem: MiningProblem, classes: int) -> Float[Tensor, "b y_dim"]:
    """m* of changing one decision of the truth: to each class, or, when each entry is a sign, to the other sign.

    Zero at the true classes, where nothing changes. Elsewhere the shift Δ is 2 at the new class and −2 at the true one,
    so ‖Δ‖² = 8 and Δ·ε = 2(ε_new − ε_true); for a sign it is −2y⁺, so ‖Δ‖² = 4 and Δ·ε = −2y⁺ε.
    """
    y_pos, noise = problem.y_pos, problem.noise
    signal, sigma = noise.schedule.signal(noise.k), noise.schedule.sigma(noise.k)
    if classes == 1:
        return 2 * signal**2 / sigma - 2 * signal * y_pos * noise.eps
    of_truth = (noise.eps * (y_pos > 0)).unflatten(1, (-1, classes)).sum(2)
    gain = noise.eps - of_truth.repeat_interleave(classes, dim=1)
    return (4 * signal**2 / sigma + 2 * signal * gain).masked_fill(y_pos > 0, 0.0)


@register_negatives
class Mixed(NegativeStrategy):
    """Two kinds of negatives in one batch: the within-run A/B of the ANM checklist's section F, and curricula.

    A random share of the rows, `fraction` of them to the nearest row, is `first`'s and marked by the log column
    `mined`; the rest is `second`'s. With `fraction_at_start` the share moves linearly with the training's progress,
    from it to `fraction`. Each kind draws from a generator of its own, so neither's rows depend on what the other drew.
    A column that only one kind records is NaN in the other's rows.
    """

    name = "mixed"
    first: Negatives = Field(default_factory=AnmOrthogonal)
    second: Negatives = Field(default_factory=Stock)
    fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    fraction_at_start: Annotated[float, Field(ge=0, le=1)] | None = None

    def propose(self, problem: MiningProblem) -> Mined:
        """Negatives of both kinds, each mined on its own rows only."""
        n, source = len(problem.y_pos), problem.generator
        place = torch.rand(n, generator=source, device=source.device).argsort()
        mined = place < round(self.share(problem.progress) * n)
        seeds = torch.randint(2**62, (2,), generator=source, device=source.device).tolist()
        parts = []
        for strategy, rows, seed in zip((self.first, self.second), (mined, ~mined), seeds, strict=True):
            if bool(rows.any()):
                own = torch.Generator(device=source.device).manual_seed(seed)
                parts.append((rows, strategy.propose(problem.rows(rows, own))))
        y_neg = torch.empty_like(problem.y_pos)
        for rows, part in parts:
            y_neg[rows] = part.y_neg
        return Mined(y_neg, _joined(parts, n) | {"mined": mined})

    def share(self, progress: float) -> float:
        """The fraction of `first` at some progress of the training."""
        start = self.fraction if self.fraction_at_start is None else self.fraction_at_start
        return start + (self.fraction - start) * progress


def _joined(parts: Iterable[tuple[Bool[Tensor, " b"], Mined]], n: int) -> dict[str, Tensor]:
    """The logs of disjoint rows as one, as floats."""
    joined: dict[str, Tensor] = {}
    for rows, part in parts:
        for name, values in part.log.items():
            blank = torch.full((n,), torch.nan, device=values.device)
            joined.setdefault(name, blank)[rows] = values.to(blank.dtype)
    return joined
