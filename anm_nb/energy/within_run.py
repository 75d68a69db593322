"""Both kinds of negatives inside one training: what each update does to pairs of each kind (ANM checklist, section F).

The document compares the pairs of a mixed batch before and after its one update, which follows the gradients of both
kinds and of denoising at once. Here every update that is compared is taken for real, from copies of the same weights
and optimiser state.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.energy.losses import Contrast, info_nce, step_losses
from anm_nb.energy.miner import Mined, MiningProblem
from anm_nb.energy.negatives import (
    AnmOrthogonal,
    Mixed,
    NegativeStrategy,
    Stock,
    get_negatives,
    strategy_to_json,
)
from anm_nb.energy.train import EnergyConfig, EnergyLearner
from anm_nb.training.learner import Measurement, Member, StepLosses
from anm_nb.training.seeds import RowDraws, generator
from anm_nb.training.stack import Stack, update

if TYPE_CHECKING:
    from anm_nb.training.loop import Training

MIXED, NO_NEGATIVES = "mixed", "none"  # the updates that belong to neither kind


class WithinRunConfig(EnergyConfig):
    """An energy run whose batches hold two kinds of negatives, which are compared at its record steps.

    Beside the metrics of every energy run, the trace holds arrays `within.<column>` [seeds, records, updates, kinds],
    in the order of `updates` and `kinds`. Raises `ParameterError` where the kinds have no names of their own, or a
    batch would lack one of them.
    """

    negatives: Annotated[Mixed, BeforeValidator(get_negatives), PlainSerializer(strategy_to_json)] = Field(
        default_factory=lambda: Mixed(first=AnmOrthogonal(), second=Stock())
    )
    compare_updates: bool = True  # training is bit-identical with and without

    @model_validator(mode="after")
    def _two_kinds(self) -> WithinRunConfig:
        if len({*self.updates}) < 4:
            kinds = "negatives.first = '{}', negatives.second = '{}'".format(*self.kinds)
            raise ParameterError(f"{kinds}: need two different kinds, neither of them '{MIXED}'")
        if round(self.negatives.fraction * self.batch) in (0, self.batch):
            share = f"negatives.fraction = {self.negatives.fraction}"
            raise ParameterError(f"{share}: leaves one kind without a row in a batch of {self.batch}; 0.5 is half each")
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
        return [*super().plugins(), type(self.negatives.first), type(self.negatives.second)]

    def make_learner(self, members: Sequence[Member], device: str) -> WithinRunLearner:
        return WithinRunLearner(members, device)


class _Given(NegativeStrategy):
    """Negatives that are known already."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name = "given"
    y_neg: Tensor

    def propose(self, problem: MiningProblem) -> Mined:
        return Mined(self.y_neg)


class WithinRunLearner(EnergyLearner):
    """S seeds of a within-run comparison."""

    config: WithinRunConfig

    def measure(self, training: Training, losses: StepLosses) -> list[Measurement]:
        measured = super().measure(training, losses)
        if self.config.compare_updates:
            for column, values in self.effects(training, losses).items():
                for each, own in zip(measured, values, strict=True):
                    each.arrays[f"within.{column}"] = own
        return measured

    def effects(self, training: Training, losses: StepLosses) -> dict[str, Float[Tensor, "seeds updates kinds"]]:
        """What each update does to the pairs of each kind in the batch of `losses`, from the weights as they stand.

        Of the pairs before the update: margin (nats) and illegitimate_fraction. Change by the update, after − before,
        on the same pairs: delta_margin and delta_loss_con. Of the update as a whole: update_norm (the Euclidean length
        of the change of all weights), delta_loss_mse (denoising loss of the same batch with the same noise) and
        delta_dev_margin (held-out pairs, legitimate and always the same; the energy in training, not its EMA).
        """
        assert isinstance(losses.detail, Contrast)
        contrast, apart = losses.detail, self.model.apart
        first = apart(contrast.mined.log["mined"].bool())
        kinds = torch.stack([first, ~first], 1)  # [seeds, kinds, b]

        def by_kind(values: Float[Tensor, " rows"]) -> Float[Tensor, "seeds kinds"]:
            return torch.where(kinds, apart(values.detach())[:, None], 0.0).sum(2) / kinds.sum(2)

        dev_margin, found = apart(self.dev_margin(self.model)).mean(1), []
        for name, y_neg in self.negatives_of_updates(training.step, contrast).items():
            model = self.updated(training, contrast, y_neg, contrast.weight * (name != NO_NEGATIVES))
            after = self._losses_by(model, contrast, contrast.mined.y_neg, contrast.weight).detail
            pairs = zip(model.network.parameters(), self.model.network.parameters(), strict=True)
            moved = [self.model.by_seed((new - old).detach()).flatten(1).norm(dim=1) for new, old in pairs]
            of_update = {
                "update_norm": torch.stack(moved).norm(dim=0),
                "delta_loss_mse": (after.loss_mse - contrast.loss_mse).detach(),
                "delta_dev_margin": apart(self.dev_margin(model)).mean(1) - dev_margin,
            }
            of_pairs = {
                "margin": _margin(contrast),
                "illegitimate_fraction": (contrast.optimal_margin < 0).float(),
                "delta_margin": _margin(after) - _margin(contrast),
                "delta_loss_con": _pair_loss(after) - _pair_loss(contrast),
            }
            whole = {column: value[:, None].expand(-1, 2) for column, value in of_update.items()}
            found.append(whole | {column: by_kind(values) for column, values in of_pairs.items()})
        return {column: torch.stack([each[column] for each in found], 1).as_subclass(Tensor) for column in found[0]}

    def negatives_of_updates(self, step: int, contrast: Contrast) -> dict[str, Float[Tensor, "b y_dim"]]:
        """The negatives of each update: those of the batch, and, for one kind, its own joined by more of it elsewhere.

        So every update is on as many pairs, and an update with one kind contains the pairs of that kind in the batch.
        """
        shown, first = contrast.mined.y_neg, contrast.mined.log["mined"].bool()
        negatives = dict.fromkeys(self.config.updates, shown)
        mixed = self.config.negatives
        for strategy, own in ((mixed.first, first), (mixed.second, ~first)):
            purpose = f"counterfactual {strategy.name} at {step}"
            draws = RowDraws([generator(seed, purpose, self.device) for seed in self.seeds], self.device)
            with torch.no_grad():
                elsewhere = strategy.propose(replace(contrast.problem, draws=draws)).y_neg
            negatives[strategy.name] = torch.where(own.unsqueeze(1), shown, elsewhere)
        return negatives

    def updated(
        self, training: Training, contrast: Contrast, y_neg: Float[Tensor, "b y_dim"], weight: Float[Tensor, " seeds"]
    ) -> Stack:
        """Copies of the networks after the loop's own update with those negatives."""
        model = Stack([copy.deepcopy(member) for member in self.model.members])
        group = replace(self.groups[0], stack=model, parameters=list(model.members[0].parameters()))
        group.load([self.groups[0].state_of(place) for place in range(len(self.seeds))])
        update(self._losses_by(model, contrast, y_neg, weight).total, [group], training.lr_factor())
        return model

    def _losses_by(
        self, model: Stack, contrast: Contrast, y_neg: Float[Tensor, "b y_dim"], weight: Float[Tensor, " seeds"]
    ) -> StepLosses:
        """The losses of the same batch with the same noise, and those negatives, by other weights."""
        bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast(self.device, torch.bfloat16, enabled=bfloat16, cache_enabled=False):
            return step_losses(
                replace(contrast.problem, model=model), _Given(y_neg=y_neg), weight, self.config.soft_label
            )


def _margin(contrast: Contrast) -> Float[Tensor, " b"]:
    return contrast.e_neg - contrast.e_pos


def _pair_loss(contrast: Contrast) -> Float[Tensor, " b"]:
    return info_nce(contrast.e_pos, contrast.e_neg)
