"""Both kinds of negatives inside one training: what each update does to pairs of each kind (ANM checklist, section F).

The document's A/B compares the pairs of a mixed batch before and after the update. That update follows the gradients of
both kinds at once, so what it does to one kind's pairs is partly the other kind's doing, and the denoising loss's. Here
every update that is compared is taken for real, from copies of the same weights and optimiser state.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from torch import Tensor, nn

from anm_nb.config import ParameterError
from anm_nb.energy.contrast import Contrast, EnergyLosses
from anm_nb.energy.losses import info_nce
from anm_nb.energy.miner import Mined
from anm_nb.energy.negatives import (
    AnmOrthogonal,
    MiningProblem,
    Mixed,
    NegativeStrategy,
    Stock,
    strategy_from,
    strategy_to_json,
)
from anm_nb.energy.train import EnergyConfig, EnergyLearner
from anm_nb.training.learner import Learner, Measurement, StepLosses
from anm_nb.training.loop import SeedTraining
from anm_nb.training.seeds import RowDraws, generator

MIXED, NO_NEGATIVES = "mixed", "none"  # the updates that belong to neither kind
EFFECTS = "within."  # prefix of the recorded arrays


class WithinRunConfig(EnergyConfig):
    """An energy run whose batches hold two kinds of negatives, which are compared at its record steps.

    Beside the metrics of every energy run, the trace holds arrays `within.<column>` [seeds, records, updates, kinds],
    in the order of `updates` and `kinds`; `anm_nb.analysis.within_run.effects` reads them as a table. Raises
    `ParameterError` where the kinds have no names of their own, or a batch would lack one of them.
    """

    negatives: Annotated[Mixed, BeforeValidator(strategy_from), PlainSerializer(strategy_to_json)] = Field(
        default_factory=lambda: Mixed(first=AnmOrthogonal(), second=Stock())
    )
    compare_updates: bool = True  # training is bit-identical with and without

    @model_validator(mode="after")
    def _two_kinds(self) -> WithinRunConfig:
        if len({*self.kinds, MIXED, NO_NEGATIVES}) < 4:
            raise ParameterError(
                f"negatives.first = '{self.kinds[0]}', negatives.second = '{self.kinds[1]}': need two different kinds, "
                f"neither of them '{MIXED}'"
            )
        shares = [self.negatives.share(progress) for progress in (0.0, 1.0)]
        if any(round(share * self.loop.batch) in (0, self.loop.batch) for share in shares):
            raise ParameterError(
                f"negatives.fraction = {self.negatives.fraction}: leaves one kind without a row in a batch of "
                f"{self.loop.batch}; between 0 and 1 are allowed, 0.5 is half of each"
            )
        return self

    @property
    def kinds(self) -> tuple[str, str]:
        """The names of the two kinds of pairs."""
        return self.negatives.first.name, self.negatives.second.name

    @property
    def updates(self) -> tuple[str, str, str, str]:
        """The names of the updates: the one that is made, with one kind on every row, and with denoising alone."""
        return MIXED, *self.kinds, NO_NEGATIVES

    def plugins(self) -> list[type]:
        """As of any energy run, with the strategies of both kinds."""
        return [*super().plugins(), type(self.negatives.first), type(self.negatives.second)]

    def learner(self, seed: int, device: str) -> Learner:
        """The learner of one seed."""
        return WithinRunLearner(self, seed, device)


class _Given(NegativeStrategy):
    """Negatives that are known already."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name = "given"
    y_neg: Tensor

    def propose(self, problem: MiningProblem) -> Mined:
        """These negatives."""
        return Mined(self.y_neg)


class WithinRunLearner(EnergyLearner):
    """One seed of a within-run comparison."""

    config: WithinRunConfig

    def __init__(self, config: WithinRunConfig, seed: int, device: str) -> None:
        super().__init__(config, seed, device)
        self.given: _Given | None = None  # negatives that stand in for those the config would propose
        self.given_weight: float | None = None  # a contrastive weight that stands in for the config's
        self.records = set(config.loop.record_steps()) if config.compare_updates else set()

    def losses(self, step: int, averaged: nn.Module) -> EnergyLosses:
        """As of any energy run. Before a measurement, where the generators stood is kept, to draw the batch again."""
        if step in self.records:
            self.before_batch = {name: source.get_state() for name, source in self.generators.items()}
        return super().losses(step, averaged)

    def contrast(
        self, problem: MiningProblem, strategy: NegativeStrategy, noised_pos: Tensor, e_pos: Tensor
    ) -> Contrast:
        """As of any energy run, but for negatives that stand in for the strategy's."""
        return super().contrast(problem, self.given or strategy, noised_pos, e_pos)

    def weight_at(self, progress: float) -> float:
        """As of any energy run, but for a weight that stands in for it."""
        return super().weight_at(progress) if self.given_weight is None else self.given_weight

    def measure(self, step: int, averaged: nn.Module, losses: StepLosses) -> Measurement:
        """The columns of any energy run, and what each update would do to the pairs of each kind."""
        measured = super().measure(step, averaged, losses)
        if step in self.records:
            assert isinstance(losses, EnergyLosses)
            effects = self.effects(step, losses)
            measured.arrays |= {f"{EFFECTS}{column}": values for column, values in effects.items()}
        return measured

    def effects(self, step: int, losses: EnergyLosses) -> dict[str, Float[Tensor, "updates kinds"]]:
        """What each update does to the pairs of each kind in the batch of `losses`, from the weights as they stand.

        Of the pairs before the update: margin, loss_con (nats), p_hard and illegitimate_fraction. Change by the update,
        after − before, on the same pairs: delta_margin and delta_loss_con. Of the update as a whole: update_norm (the
        Euclidean length of the change of all weights), grad_norm (before clipping), delta_loss_mse (denoising loss of
        the same batch with the same noise) and delta_dev_margin (held-out pairs, legitimate and always the same; the
        energy in training, not its EMA).
        """
        contrast = losses.contrast
        assert contrast is not None
        margin, rows = _margin(contrast), self.rows_of_kinds(contrast)
        before = {
            "margin": margin,
            "loss_con": _pair_loss(contrast),
            "p_hard": (margin < 0).float(),
            "illegitimate_fraction": (contrast.optimal_margin < 0).float(),
        }
        loss_mse, dev_margin = losses.parts["loss_mse"].detach(), self._dev_margin(self.model).mean()
        table: dict[str, list[Tensor]] = {}
        for update, y_neg in self.negatives_of_updates(step, contrast).items():
            forked, grad_norm = self.updated(step, y_neg, 0.0 if update == NO_NEGATIVES else losses.weight)
            after = forked.again(step, contrast.mined.y_neg)
            assert after.contrast is not None
            of_pairs = before | {
                "delta_margin": _margin(after.contrast) - margin,
                "delta_loss_con": _pair_loss(after.contrast) - before["loss_con"],
            }
            of_update = {
                "update_norm": _distance(self.model, forked.model),
                "grad_norm": grad_norm,
                "delta_loss_mse": after.parts["loss_mse"].detach() - loss_mse,
                "delta_dev_margin": self._dev_margin(forked.model).mean() - dev_margin,
            }
            for column, values in of_pairs.items():
                table.setdefault(column, []).append(torch.stack([values[chosen].mean() for chosen in rows.values()]))
            for column, value in of_update.items():
                table.setdefault(column, []).append(value.expand(len(rows)))
        return {column: torch.stack(values).as_subclass(Tensor) for column, values in table.items()}

    def rows_of_kinds(self, contrast: Contrast) -> dict[str, Bool[Tensor, " b"]]:
        """Which rows of a mixed batch have negatives of each kind."""
        first = contrast.mined.log["mined"].bool()
        return dict(zip(self.config.kinds, (first, ~first), strict=True))

    def negatives_of_updates(self, step: int, contrast: Contrast) -> dict[str, Float[Tensor, "b y_dim"]]:
        """The negatives of each update: those of the batch, and, for one kind, its own joined by more of it elsewhere.

        So every update is on as many pairs, and an update with one kind contains the pairs of that kind in the batch.
        """
        shown = contrast.mined.y_neg
        negatives = dict.fromkeys(self.config.updates, shown)
        strategies = (self.config.negatives.first, self.config.negatives.second)
        for strategy, (kind, own) in zip(strategies, self.rows_of_kinds(contrast).items(), strict=True):
            source = generator(self.seed, f"counterfactual {kind} at {step}", self.device)
            with torch.no_grad():
                elsewhere = strategy.propose(replace(contrast.problem, draws=RowDraws([source], self.device))).y_neg
            negatives[kind] = shown.clone()
            negatives[kind][~own] = elsewhere[~own]
        return negatives

    def updated(
        self, step: int, y_neg: Float[Tensor, "b y_dim"], weight: float
    ) -> tuple[WithinRunLearner, Float[Tensor, ""]]:
        """A copy of this learner after the loop's own update with those negatives, and the norm of its gradient."""
        forked = self.fork()
        forked.given_weight = weight
        losses = forked.again(step, y_neg)
        training = SeedTraining(forked, self.config.loop, self.seed, self.device)
        training.step = step
        training.update(losses)
        return forked, training.grad_norms[forked.groups[0].name]

    def again(self, step: int, y_neg: Float[Tensor, "b y_dim"]) -> EnergyLosses:
        """The losses of the same batch with the same noise, and those negatives, by the weights as they stand."""
        self.given = _Given(y_neg=y_neg)
        for name, state in self.before_batch.items():
            self.generators[name].set_state(state)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.config.loop.precision == "bfloat16"):
            return super().losses(step, self.model)

    def fork(self) -> WithinRunLearner:
        """A learner with copies of everything that training changes: weights, optimiser state and generators."""
        forked = copy.copy(self)
        forked.model, forked.groups = copy.deepcopy((self.model, list(self.groups)))  # at once: groups hold weights
        for group in forked.groups:
            for settings in group.optimiser.param_groups:
                settings["lr"] = group.optimiser.defaults["lr"]  # which the loop scales by the schedule
        forked.state = {name: value.clone() for name, value in self.state.items()}
        forked.generators = {name: torch.Generator(device=g.device) for name, g in self.generators.items()}
        return forked


def _margin(contrast: Contrast) -> Float[Tensor, " b"]:
    return (contrast.e_neg - contrast.e_pos).detach()


def _pair_loss(contrast: Contrast) -> Float[Tensor, " b"]:
    return info_nce(contrast.e_pos, contrast.e_neg).detach()


def _distance(one: nn.Module, other: nn.Module) -> Float[Tensor, ""]:
    """‖θ′ − θ‖ over all weights."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return torch.stack([(a - b).detach().norm() for a, b in pairs]).norm()
