"""Both kinds of negatives inside one training: what each update does to pairs of each kind (ANM checklist, section F).

The document's A/B compares the pairs of a mixed batch before and after the update. That update follows the gradients of
both kinds at once, so what it does to one kind's pairs is partly the other kind's doing, and the denoising loss's. Here
every update that is compared is taken for real, from copies of the same weights and optimiser state.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import torch
from jaxtyping import Bool, Float
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
from anm_nb.training.stack import Stack, StackOptimiser, update

if TYPE_CHECKING:
    from anm_nb.training.loop import Training

MIXED, NO_NEGATIVES = "mixed", "none"  # the updates that belong to neither kind
EFFECTS = "within."  # prefix of the recorded arrays


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
        if len({*self.kinds, MIXED, NO_NEGATIVES}) < 4:
            raise ParameterError(
                f"negatives.first = '{self.kinds[0]}', negatives.second = '{self.kinds[1]}': need two different kinds, "
                f"neither of them '{MIXED}'"
            )
        if round(self.negatives.fraction * self.batch) in (0, self.batch):
            raise ParameterError(
                f"negatives.fraction = {self.negatives.fraction}: leaves one kind without a row in a batch of "
                f"{self.batch}; between 0 and 1 are allowed, 0.5 is half of each"
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

    def make_learner(self, members: Sequence[Member], device: str) -> WithinRunLearner:
        """The learner of several seeds."""
        return WithinRunLearner(members, device)


class _Given(NegativeStrategy):
    """Negatives that are known already."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name = "given"
    y_neg: Tensor

    def propose(self, problem: MiningProblem) -> Mined:
        """These negatives."""
        return Mined(self.y_neg)


class WithinRunLearner(EnergyLearner):
    """S seeds of a within-run comparison."""

    config: WithinRunConfig

    def measure(self, training: Training, losses: StepLosses) -> list[Measurement]:
        """The columns of any energy run, and what each update would do to the pairs of each kind."""
        measured = super().measure(training, losses)
        if self.config.compare_updates:
            for column, values in self.effects(training, losses).items():
                for place, each in enumerate(measured):
                    each.arrays[f"{EFFECTS}{column}"] = values[place]
        return measured

    def effects(self, training: Training, losses: StepLosses) -> dict[str, Float[Tensor, "seeds updates kinds"]]:
        """What each update does to the pairs of each kind in the batch of `losses`, from the weights as they stand.

        Of the pairs before the update: margin, loss_con (nats), p_hard and illegitimate_fraction. Change by the update,
        after − before, on the same pairs: delta_margin and delta_loss_con. Of the update as a whole: update_norm (the
        Euclidean length of the change of all weights), grad_norm (before clipping), delta_loss_mse (denoising loss of
        the same batch with the same noise) and delta_dev_margin (held-out pairs, legitimate and always the same; the
        energy in training, not its EMA).
        """
        assert isinstance(losses.detail, Contrast)
        contrast, weight = losses.detail, losses.detail.weight
        margin, rows = _margin(contrast), self.rows_of_kinds(contrast)
        before = {
            "margin": margin,
            "loss_con": _pair_loss(contrast),
            "p_hard": (margin < 0).float(),
            "illegitimate_fraction": (contrast.optimal_margin < 0).float(),
        }
        loss_mse, dev_margin = contrast.loss_mse.detach(), self._dev_means(self.model)
        table: dict[str, list[Tensor]] = {}
        for name, y_neg in self.negatives_of_updates(training.step, contrast).items():
            model, grad_norm = self.updated(training, contrast, y_neg, weight * (name != NO_NEGATIVES))
            after = self._again(model, contrast, contrast.mined.y_neg, weight)
            of_pairs = before | {
                "delta_margin": _margin(after.detail) - margin,
                "delta_loss_con": _pair_loss(after.detail) - before["loss_con"],
            }
            of_update = {
                "update_norm": self._distance(model),
                "grad_norm": grad_norm,
                "delta_loss_mse": after.detail.loss_mse.detach() - loss_mse,
                "delta_dev_margin": self._dev_means(model) - dev_margin,
            }
            for column, values in of_pairs.items():
                table.setdefault(column, []).append(torch.stack([self._means(values, own) for own in rows.values()], 1))
            for column, value in of_update.items():
                table.setdefault(column, []).append(value.unsqueeze(1).expand(-1, len(rows)))
        return {column: torch.stack(values, 1).as_subclass(Tensor) for column, values in table.items()}

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
            sources = [generator(seed, f"counterfactual {kind} at {step}", self.device) for seed in self.seeds]
            with torch.no_grad():
                problem = replace(contrast.problem, draws=RowDraws(sources, self.device))
                elsewhere = strategy.propose(problem).y_neg
            negatives[kind] = torch.where(own.unsqueeze(1), shown, elsewhere)
        return negatives

    def updated(
        self, training: Training, contrast: Contrast, y_neg: Float[Tensor, "b y_dim"], weight: Float[Tensor, " seeds"]
    ) -> tuple[Stack, Float[Tensor, " seeds"]]:
        """Copies of the networks after the loop's own update with those negatives, and the norms of its gradients."""
        model = Stack([copy.deepcopy(member) for member in self.model.members])
        group = replace(self.groups[0], parameters=list(model.members[0].parameters()))
        optimiser = StackOptimiser(group, model, self.device)
        optimiser.load([training.optimisers[0].state_of(place) for place in range(len(self.seeds))])
        update(self._again(model, contrast, y_neg, weight).total, [optimiser], training.lr_factor())
        return model, optimiser.norms

    def _again(
        self, model: Stack, contrast: Contrast, y_neg: Float[Tensor, "b y_dim"], weight: Float[Tensor, " seeds"]
    ) -> StepLosses:
        """The losses of the same batch with the same noise, and those negatives, by other weights."""
        bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast(self.device, torch.bfloat16, enabled=bfloat16, cache_enabled=False):
            return step_losses(
                replace(contrast.problem, model=model), _Given(y_neg=y_neg), weight, self.config.soft_label
            )

    def _means(self, values: Float[Tensor, " b"], own: Bool[Tensor, " b"]) -> Float[Tensor, " seeds"]:
        """Each seed's mean over some of its rows."""
        chosen = self.model.apart(own)
        return self.model.apart(values).masked_fill(~chosen, 0.0).sum(1) / chosen.sum(1)

    def _dev_means(self, model: Stack) -> Float[Tensor, " seeds"]:
        return self.model.apart(self.dev_margin(model)).mean(1)

    def _distance(self, model: Stack) -> Float[Tensor, " seeds"]:
        """‖θ′ − θ‖ of each seed, over all weights."""
        pairs = zip(self.model.network.parameters(), model.network.parameters(), strict=True)
        moved = [self.model.by_seed((a - b).detach()).flatten(1).norm(dim=1) for a, b in pairs]
        return torch.stack(moved).norm(dim=0)


def _margin(contrast: Contrast) -> Float[Tensor, " b"]:
    return (contrast.e_neg - contrast.e_pos).detach()


def _pair_loss(contrast: Contrast) -> Float[Tensor, " b"]:
    return info_nce(contrast.e_pos, contrast.e_neg).detach()
