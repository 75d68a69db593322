"""Strategies that propose negatives for the contrastive loss, in clean y-space; the trainer noises them once."""

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
    """Base class: set `name`, add options as fields, implement `propose`, and register the class."""

    name: ClassVar[str]

    @abstractmethod
    def propose(self, problem: MiningProblem) -> Mined:
        """Negatives [b, y_dim] in clean y-space. Called with gradients disabled."""

    def loss(self, problem: MiningProblem, y_neg: Targets, e_pos: Values, e_neg: Values) -> Values | None:
        """The strategy's own loss of each pair [b]; None for the contrastive loss (`info_nce` or its soft form)."""
        return None


STRATEGIES: Registry[NegativeStrategy] = Registry("negative strategy")
register_negatives = STRATEGIES.register


def get_negatives(name: Any, **options: Any) -> Any:
    """Strategy by name and options (its miner's too), or by a mapping of both; None for "none"; or `ParameterError`."""
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
    strategy = STRATEGIES.get(name)
    allowed = strategy.model_fields | (MinerConfig.model_fields if "miner" in strategy.model_fields else {})
    if unknown := options.keys() - allowed.keys():
        raise ParameterError(unknown_name(f"option of '{name}'", min(unknown), allowed))
    if mining := {option: options.pop(option) for option in options.keys() - strategy.model_fields.keys()}:
        options["miner"] = dict(options.get("miner", {})) | mining
    return strategy(**options)


def labelled(strategies: Sequence[Any]) -> dict[str, NegativeStrategy | None]:
    """Strategies by label, such as "anm, eps 0.5". Raises `ValueError` for equal labels, else as `get_negatives`."""
    found = {}
    for each in strategies:
        options = {"name": each} if isinstance(each, str) else dict(each)
        label = [options.pop("name"), *(f"{name} {value}" for name, value in options.items())]
        found[", ".join(label)] = get_negatives(each)
    if len(found) < len(strategies):
        raise ValueError("each may appear only once")
    return found


_FROM = BeforeValidator(get_negatives)
_TO = PlainSerializer(lambda each: {"name": each.name, **each.model_dump(mode="json")} if each else "none")
_CHECKED, _DISTINCT = (
    AfterValidator(lambda value, check=check: (check(value), value)[1]) for check in (get_negatives, labelled)
)
Negatives = Annotated[NegativeStrategy | None, _FROM, _TO]  # a field for one strategy; None for "none"
StrategyName = Annotated[str, _CHECKED]
Strategies = Annotated[tuple[Annotated[Any, _CHECKED], ...], SEVERAL, _DISTINCT]  # stored as written


@register_negatives
class Stock(NegativeStrategy):
    """IRED's negatives: the task's corruption (continuous tasks: two descent steps from y noised with 3ε). Clues stay.

    `form` "released" follows the released code: later steps are twice as long; a seed's rows are clamped as its first.
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
            how = schedule.step_size(k), bound, self.descent_steps
            return schedule.to_clean(descend(problem.noised_energy, start, *how, later=later), k)

        return Mined(problem.impose(problem.task.corrupt(problem.y_pos, settled, problem.draws)))


@register_negatives
class Random(NegativeStrategy):
    """y⁺ plus a random vector of length `eps`·‖y⁺‖, optionally ⟂ to the noise; clues stay."""

    name = "random"
    eps: PositiveFloat = 1.0
    orthogonal_to_noise: bool = False

    def propose(self, problem: MiningProblem) -> Mined:
        y_pos, normal = problem.y_pos, problem.noise.eps if self.orthogonal_to_noise else None
        ball = L2Ball(y_pos, self.eps * y_pos.norm(dim=1), problem.given, normal)
        shift = at_length(ball.tangent(problem.draws.normal(y_pos.shape).to(y_pos.dtype)), ball.radius)
        return Mined(y_pos + ball.tangent(shift))  # a tangent again, as rescaling magnifies rounding


@register_negatives
class Mrncl(Random):
    """VFScale's loss (`monotonic_regression`) of y⁺, the negative of `random`, and a point at `near` of the way to it.

    All three carry the batch's noise; the released code also compares them without. Notebook 16 has VFScale's KL term.
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
    `orthogonal_to_noise` (L2 ball only) keeps y⁻ − y⁺ ⟂ ε, hence m* > 0.
    """

    name = "anm"
    orthogonal_to_noise: bool = False
    ball: Literal["l2", "linf"] = "l2"
    miner: MinerConfig = Field(default_factory=MinerConfig)

    @model_validator(mode="after")
    def _projects(self) -> "Anm":
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
    """`anm` with `orthogonal_to_noise`, under its own name in tables and figures."""

    name = "anm_orthogonal"
    orthogonal_to_noise: bool = True


@register_negatives
class AnmSimplex(NegativeStrategy):
    """Adversarial mining over the relaxed answers of a discrete task, clues fixed (ANM checklist, sections B and G).

    The task needs `classes`, the number of ±1 entries per one-hot decision, or 1 if every entry is a sign; otherwise
    `ParameterError`. Examples restart while no decision differs, whatever `delta`, and `eps` bounds only the start.
    `round` returns the nearest answer. It has m* > 0 if `legitimate`, which forbids decisions that alone have m* ≤ 0.
    """

    name = "anm_simplex"
    legitimate: bool = False
    round: bool = True
    miner: MinerConfig = Field(default_factory=MinerConfig)

    def propose(self, problem: MiningProblem) -> Mined:
        y_pos, answers = problem.y_pos, self.answers(problem)
        entries = min(2, problem.task.classes)  # that change with one decision

        def changed(y: Tensor) -> Tensor:
            return (answers.nearest_vertex(y) != y_pos).sum(1) / entries

        sources = problem.draws.generators
        mined = mine(problem.energy, y_pos, answers, self.miner, sources, near=lambda y: changed(y) == 0)
        log = mined.log | answers.log(mined.y_neg) | {"decisions_changed": changed(mined.y_neg)}
        return Mined(answers.nearest_vertex(mined.y_neg) if self.round else mined.y_neg, log)

    def answers(self, problem: MiningProblem) -> MaskedSimplex | SignBox:
        """The relaxed answers that clues, and `legitimate`, allow."""
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
    """`anm_simplex` with `legitimate`, under its own name in tables and figures."""

    name = "anm_simplex_legitimate"
    legitimate: bool = True
