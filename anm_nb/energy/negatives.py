"""Negative strategies, in clean y-space: what the contrastive loss is shown as wrong; the trainer noises, once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PositiveFloat, model_validator
from torch import Tensor

from anm_nb.config import SEVERAL, Count, ParameterError, Parameters, Registry, shown, unknown_name
from anm_nb.energy.constraints import L2Ball, LinfBall, MaskedSimplex, SignBox, at_length
from anm_nb.energy.losses import monotonic_regression
from anm_nb.energy.miner import Mined, MinerConfig, MiningProblem, mine
from anm_nb.energy.networks import Targets
from anm_nb.energy.sampler import descend
from anm_nb.energy.schedule import Values


class NegativeStrategy(Parameters):
    """A way to propose negatives. Set `name`, add options as fields, implement `propose`, and register the class."""

    name: ClassVar[str]

    @abstractmethod
    def propose(self, problem: MiningProblem) -> Mined:
        """Negatives [batch, y_dim] in clean y-space. Runs without gradients to any weights."""

    def loss(self, problem: MiningProblem, y_neg: Targets, e_pos: Values, e_neg: Values) -> Values | None:
        """A loss of its own of each pair, in place of the contrastive one; None: `info_nce` or its soft form."""
        return None


STRATEGIES: Registry[NegativeStrategy] = Registry("negative strategy")
register_negatives = STRATEGIES.register


def get_negatives(name: Any, **options: Any) -> Any:
    """A strategy by name and options, its miner's too, or a mapping of both; None for "none". `ParameterError` else."""
    if name is None or isinstance(name, NegativeStrategy):
        return name
    if isinstance(name, Mapping):
        options = {**name, **options}
        name = options.pop("name", options)
    if not isinstance(name, str):
        raise ParameterError(f"{shown(name)}: write a name, or a name with options: {{'name': 'anm', 'eps': 0.5}}")
    if name == "none" and not options:
        return None
    if name not in (known := [*STRATEGIES.names(), "none"]):
        raise ParameterError(unknown_name(STRATEGIES.kind, name, known))
    own = STRATEGIES.get(name).model_fields
    allowed = own | (MinerConfig.model_fields if "miner" in own else {})
    if unknown := options.keys() - allowed.keys():
        raise ParameterError(unknown_name(f"option of '{name}'", min(unknown), allowed))
    if of_miner := {option: options.pop(option) for option in options.keys() - own.keys()}:
        options["miner"] = {**dict(options.get("miner", {})), **of_miner}
    return STRATEGIES.get(name)(**options)


def labelled(given: Sequence[Any]) -> dict[str, NegativeStrategy | None]:
    """Strategies by label ("anm, eps 0.5"). Raises as `get_negatives`, and ValueError where two labels are the same."""
    found = {}
    for each in given:
        options = {"name": each} if isinstance(each, str) else dict(each)
        label = [options.pop("name"), *(f"{name} {value}" for name, value in options.items())]
        found[", ".join(label)] = get_negatives(each)
    if len(found) < len(given):
        raise ValueError("each may appear once")
    return found


_FROM = BeforeValidator(get_negatives)
_TO = PlainSerializer(lambda each: {"name": each.name, **each.model_dump(mode="json")} if each else "none")
_CHECKED, _DISTINCT = (
    AfterValidator(lambda value, check=check: (check(value), value)[1]) for check in (get_negatives, labelled)
)
Negatives = Annotated[NegativeStrategy | None, _FROM, _TO]  # a field of one, None for "none"
StrategyName = Annotated[str, _CHECKED]
Strategies = Annotated[tuple[Annotated[Any, _CHECKED], ...], SEVERAL, _DISTINCT]  # kept as they are written


@register_negatives
class Stock(NegativeStrategy):
    """IRED's own: the task's corruption, clues left; of continuous tasks y noised with 3ε, after two descent steps.

    `form` "released" descends as the released code: later steps twice as long, clamped by the first example's level.
    """

    name = "stock"
    noise_factor: PositiveFloat = 3.0
    descent_steps: Count = 2
    form: Literal["paper", "released"] = "paper"

    def propose(self, problem: MiningProblem) -> Mined:
        schedule, k, clamp = problem.noise.schedule, problem.noise.k, problem.task.sample_clamp

        def settled() -> Tensor:
            start = schedule.q_sample(problem.y_pos, k, self.noise_factor * problem.noise.eps).as_subclass(Tensor)
            bound, later = schedule.signal(k) * clamp, 1.0
            if self.form == "released":
                by_seed = bound.unflatten(0, (problem.seeds, -1))
                bound, later = by_seed[:, :1].expand_as(by_seed).flatten(0, 1), clamp
            size, energy = schedule.step_size(k), problem.noised_energy
            return schedule.to_clean(descend(energy, start, size, bound, self.descent_steps, later=later), k)

        return Mined(problem.impose(problem.task.corrupt(problem.y_pos, settled, problem.draws)))


@register_negatives
class Random(NegativeStrategy):
    """A random direction at distance `eps`·‖y⁺‖ from the truth, clues left in place; optionally ⟂ to the noise."""

    name = "random"
    eps: PositiveFloat = 1.0
    orthogonal_to_noise: bool = False

    def propose(self, problem: MiningProblem) -> Mined:
        y_pos, normal = problem.y_pos, problem.noise.eps if self.orthogonal_to_noise else None
        length, shift = self.eps * y_pos.norm(dim=1), problem.draws.normal(y_pos.shape).to(y_pos.dtype)
        ball = L2Ball(y_pos, length, problem.given, normal)
        return Mined(y_pos + ball.tangent(at_length(ball.tangent(shift), length)))  # again: rounding was stretched too


@register_negatives
class Mrncl(Random):
    """VFScale's loss (`monotonic_regression`), with a nearer negative at the share `near` of the way to that at `eps`.

    All carry the batch's noise (released: also without). VFScale's KL term is notebook 16's.
    """

    name = "mrncl"
    near: Annotated[float, Field(gt=0, lt=1)] = 0.5
    least_slope: PositiveFloat = 1.0  # k_min, in nats per ‖y⁺‖

    def loss(self, problem: MiningProblem, y_neg: Targets, e_pos: Values, e_neg: Values) -> Values:
        y_pos = problem.y_pos
        nearer = problem.impose(y_pos + self.near * (y_neg - y_pos))
        e_near = problem.noised_energy(problem.noise.noised(nearer).as_subclass(Tensor))
        distance = (y_neg - y_pos).norm(dim=1) / y_pos.norm(dim=1).clamp_min(1e-12)
        distances = torch.stack([torch.zeros_like(distance), self.near * distance, distance], dim=1)
        return monotonic_regression(torch.stack([e_pos, e_near, e_neg], dim=1), distances, self.least_slope)


@register_negatives
class Anm(NegativeStrategy):
    """Adversarial negative mining: low EMA energy within a ball around the truth (ANM checklist, section B).

    `ball` "l2" has radius `miner.eps`·‖y⁺‖; "linf" is the box inscribed in it, of half-width `miner.eps`·‖y⁺‖/√y_dim.
    `orthogonal_to_noise`, in the L2 ball, keeps y⁻ − y⁺ ⟂ ε, and so m* > 0.
    """

    name = "anm"
    orthogonal_to_noise: bool = False
    ball: Literal["l2", "linf"] = "l2"
    miner: MinerConfig = Field(default_factory=MinerConfig)

    @model_validator(mode="after")
    def _projects(self) -> Anm:
        if self.ball == "linf" and self.orthogonal_to_noise:
            raise ValueError("ball = 'linf': should be 'l2' with orthogonal_to_noise")
        return self

    def propose(self, problem: MiningProblem) -> Mined:
        return mine(problem.energy, problem.y_pos, self.constraint(problem), self.miner, problem.draws.generators)

    def constraint(self, problem: MiningProblem) -> L2Ball | LinfBall:
        radius = self.miner.eps * problem.y_pos.norm(dim=1)
        if self.ball == "linf":
            return LinfBall(problem.y_pos, radius / problem.y_pos.shape[1] ** 0.5, problem.given)
        return L2Ball(problem.y_pos, radius, problem.given, problem.noise.eps if self.orthogonal_to_noise else None)


@register_negatives
class AnmOrthogonal(Anm):
    """`anm` with the negative kept orthogonal to the noise, under a name of its own for tables and figures."""

    name = "anm_orthogonal"
    orthogonal_to_noise: bool = True


@register_negatives
class AnmSimplex(NegativeStrategy):
    """Adversarial mining over the relaxed answers of a discrete task, clues fixed (ANM checklist, sections B and G).

    A task's `classes` says how many entries form a one-hot decision in {−1, 1}, 1 where each is a sign; without it
    `ParameterError`. At least one decision has to differ, in place of `delta`, and `eps` bounds only the start. `round`
    returns the nearest answer. `legitimate` forbids each decision that alone has m* ≤ 0: rounded negatives have m* > 0.
    """

    name = "anm_simplex"
    legitimate: bool = False
    round: bool = True
    miner: MinerConfig = Field(default_factory=MinerConfig)

    def propose(self, problem: MiningProblem) -> Mined:
        y_pos, answers = problem.y_pos, self.answers(problem)
        entries = 1 if isinstance(answers, SignBox) else 2  # that differ between two answers where one decision does

        def changed(y: Tensor) -> Tensor:
            return (answers.nearest_vertex(y) != y_pos).sum(1) / entries

        sources = problem.draws.generators
        mined = mine(problem.energy, y_pos, answers, self.miner, sources, near=lambda y: changed(y) == 0)
        log = mined.log | answers.log(mined.y_neg) | {"decisions_changed": changed(mined.y_neg)}
        return Mined(answers.nearest_vertex(mined.y_neg) if self.round else mined.y_neg, log)

    def answers(self, problem: MiningProblem) -> MaskedSimplex | SignBox:
        """The relaxed answers that the problem's clues (and the wish for legitimate ones) leave."""
        task, y_pos, given = problem.task, problem.y_pos, problem.given
        if (classes := getattr(task, "classes", None)) is None:
            raise ParameterError(f"negatives '{self.name}': task '{task.name}' is continuous; use 'anm' for it")
        forbidden = problem.noise.change_margin(y_pos, classes) <= 0 if self.legitimate else torch.zeros_like(y_pos) > 0
        if classes > 1:
            return MaskedSimplex(~forbidden | (y_pos > 0), classes, problem.clues)
        fixed = forbidden if given is None else forbidden | given
        return SignBox(y_pos * fixed, torch.ones_like(y_pos[:, 0]), fixed)


@register_negatives
class AnmSimplexLegitimate(AnmSimplex):
    """`anm_simplex` with legitimate decisions only, under a name of its own for tables and figures."""

    name = "anm_simplex_legitimate"
    legitimate: bool = True
