"""S seeds of ranking runs: their data, losses and measurements."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anm_nb.ranking.evaluate import assess, routing_arrays
from anm_nb.ranking.losses import RANKING_LOSSES, pointer_loss
from anm_nb.ranking.networks import PointerDecoder, RankingModel, RankingOutput
from anm_nb.ranking.routing import Controller, routing_entropy
from anm_nb.tasks.base import Batch, Stream
from anm_nb.tasks.ordering import RankingTask
from anm_nb.training.learner import Measurement, Member, StepLosses
from anm_nb.training.seeds import batch_indices, generator, initialise
from anm_nb.training.stack import ParameterGroup, Stack

if TYPE_CHECKING:
    from anm_nb.ranking.train import RankingConfig
    from anm_nb.training.loop import Training

PROBES = 4  # dev problems of which x, ranks, mask and, at every record, routing weights are kept


def objective(
    config: RankingConfig, network: RankingModel, x: Tensor, ranks: Tensor, compared: Tensor | None
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Ranking loss, the mean over supervised iterations with later ones weighing more, and routing entropy (nats).

    x [batch, items, features], ranks [batch, items], and `compared` [batch, items], the items that the loss sees.
    """
    z_per_iter, alphas = network.refine(x)
    first = 0 if config.deep_supervision else z_per_iter.shape[1] - 1
    z, ranks = z_per_iter[:, first:], ranks.unsqueeze(1)
    compared = None if compared is None else compared.unsqueeze(1)
    if isinstance(network.decoder, PointerDecoder):
        rows = pointer_loss(network.decoder.logits(z, ranks), ranks, compared, reduction="none")
    else:
        rows = RANKING_LOSSES[config.loss](network.decoder(z), ranks, compared, reduction="none")
    weights = torch.arange(1.0, rows.shape[1] + 1, device=rows.device)
    return (rows.mean(0) * (weights / weights.sum())).sum(), routing_entropy(alphas).mean()


class RankingLearner:
    """S seeds of ranking runs, whose data and weights are [S, …].

    Data and initial weights of a seed come from generators of their own: runs of one seed that differ only in model or
    fixes see the same training set in the same order, and are tested on the same problems.
    """

    block = 1
    generators: Mapping[str, Sequence[torch.Generator]] = {}  # draws are made here, or derived from seed and epoch
    state: Mapping[str, Tensor] = {}

    def __init__(self, members: Sequence[Member], device: str) -> None:
        self.members, self.device = members, device
        config: RankingConfig = members[0].config
        self.config, self.task = config, config.make_task()
        self.dev = self._problems("dev", config.dev_samples)
        self.test = self._problems("test", config.test_samples)
        stages = [config.changed(mask_rate=rate).make_task() for rate in config.curriculum()]
        sets = [self._problems("train", config.train_samples, task) for task in stages]
        training = [joined(stage_sets) for stage_sets in zip(*sets, strict=True)]
        self.x, self.ranks = (torch.stack([getattr(batch, name) for batch in training]) for name in ("x", "y"))
        self.selection = config.selection or self.task.metric
        known = [batch.known for batch in training if batch.known is not None]
        observed = config.mask_aware and self.task.metric == "tau_obs"
        self.compared = torch.stack(known) if known and observed else None
        networks = [self._network(member.seed) for member in members]
        self.model = Stack(networks)
        self.groups: Sequence[ParameterGroup] = parameter_groups(config, networks[0])
        epochs = [self.epoch(step) for step in range(config.total_steps() + 1)]
        self.schedules: Mapping[str, Tensor] = {
            name: torch.tensor([[at(member.config, epoch) for member in members] for epoch in epochs], device=device)
            for name, at in SCHEDULES.items()
        }
        set_temperature(self.model, self.schedules["temperature"][0])
        self.suspects = type(self.task).__name__

    def epoch(self, step: int) -> int:
        """Whole epochs before a step."""
        return step // self.config.steps_per_epoch()

    def inputs(self, step: int) -> dict[str, Tensor]:
        """The rows [S, b] of every seed's training sets in a step, each epoch in an order of its own."""
        size = self.config.train_samples, self.config.batch
        rows = [batch_indices(*size, step, member.seed, self.device) for member in self.members]
        return {"rows": torch.stack(rows) + self.config.stage_at(self.epoch(step)) * self.config.train_samples}

    def branch(self, step: int, recorded: bool) -> Hashable:
        """All steps are alike."""
        return None

    def losses(
        self, inputs: Mapping[str, Tensor], now: Mapping[str, Tensor], branch: Hashable, averaged: Stack
    ) -> StepLosses:
        """Ranking loss over the supervised iterations and weighted routing entropy of a batch."""
        for stack in (self.model, averaged):
            set_temperature(stack, now["temperature"])
        seeds = torch.arange(len(self.members), device=self.device).unsqueeze(1)
        parts = (self.x, self.ranks, self.compared)
        batch = (None if part is None else part[seeds, inputs["rows"]] for part in parts)
        loss_rank, entropy = self.model.each(partial(objective, self.config), *batch)
        loss_entropy = now["entropy_weight"] * entropy
        return StepLosses(loss_rank + loss_entropy, {"loss_rank": loss_rank, "loss_entropy": loss_entropy})

    @torch.no_grad()
    def measure(self, training: Training, losses: StepLosses) -> list[Measurement]:
        """τ on dev and routing of every seed, over all and for every iteration."""
        output = training.averaged.each(RankingModel.__call__, torch.stack([batch.x for batch in self.dev]))
        epoch = self.epoch(training.step)
        measured = []
        for place, member in enumerate(self.members):
            dev = assess(RankingOutput(*(each[place] for each in output)), self.dev[place])
            arrays = routing_arrays(dev.alphas)
            scalars = {"epoch": float(epoch), **dev.last()}
            scalars |= {name.replace("entropies", "entropy"): float(each.mean()) for name, each in arrays.items()}
            scalars |= {name: at(member.config, epoch) for name, at in SCHEDULES.items()}
            arrays |= {"tau_obs": dev.tau_obs, "tau_all": dev.tau_all, "alphas": dev.alphas[:PROBES]}
            measured.append(Measurement(scalars, arrays, scalars[self.selection]))
        return measured

    def evaluate(self, place: int, selected: nn.Module) -> Measurement:
        """τ on test, the scores, ranks and masks it comes from, and the dev problems that are shown as examples."""
        own, shown = self.test[place], self.dev[place]
        test = assess(selected(own.x), own)
        arrays = {"test_scores": test.scores, "test_ranks": own.y}
        arrays |= {} if own.known is None else {"test_known": own.known}
        known = torch.ones_like(shown.y, dtype=torch.bool) if shown.known is None else shown.known
        probes = {"probe_x": shown.x, "probe_ranks": shown.y, "probe_known": known}
        arrays |= {name: each[:PROBES] for name, each in probes.items()}
        return Measurement({f"test_{name}": value for name, value in test.last().items()}, arrays)

    def _network(self, seed: int) -> RankingModel:
        network = self.config.make_model()
        initialise(network, generator(seed, "weights"))
        return network.to(self.device)

    def _problems(self, stream: Stream, n: int, task: RankingTask | None = None) -> list[Batch]:
        """n problems of each seed."""
        sources = [generator(member.seed, stream, self.device) for member in self.members]
        return [(task or self.task).sample(n, generator=each, device=self.device, stream=stream) for each in sources]


def joined(batches: Sequence[Batch]) -> Batch:
    """Training sets after one another."""
    known = [batch.known for batch in batches if batch.known is not None]
    x, y = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("x", "y"))
    return Batch(x, y, torch.cat(known) if known else None)


# What a config asks for in an epoch: numbers in which the configs of a stack may differ.
SCHEDULES: dict[str, Callable[[RankingConfig, int], float]] = {
    "temperature": lambda config, epoch: config.temperature_at(epoch),
    "entropy_weight": lambda config, epoch: config.entropy_weight_at(epoch),
}


def set_temperature(stack: Stack, temperature: Float[Tensor, " seeds"]) -> None:
    """Set the routing temperature of every network, where there is a controller to have one."""
    controller = stack.members[0].controller
    if isinstance(controller, Controller):
        stack.by_seed(stack.stack_of[id(controller.temperature)]).copy_(temperature)


def parameter_groups(config: RankingConfig, network: RankingModel) -> list[ParameterGroup]:
    """All parameters but the controller's, and the controller's where one is trained, each group with its AdamW."""
    routed = network.controller_parameters()
    others = [parameter for name, parameter in network.named_parameters() if not name.startswith("controller.")]
    options: dict[str, Any] = {"optimiser": torch.optim.AdamW, "options": {"weight_decay": config.weight_decay}}
    groups = [ParameterGroup("encoder", others, lr=config.encoder_lr, clip_norm=config.encoder_clip, **options)]
    if config.learns_routing:
        options["frozen_steps"] = config.warmup_epochs * config.steps_per_epoch()
        two = config.two_optimisers
        lr, clip = (config.controller_lr, config.controller_clip) if two else (config.encoder_lr, config.encoder_clip)
        groups.append(ParameterGroup("controller", routed, lr=lr, clip_norm=clip, **options))
    return groups
