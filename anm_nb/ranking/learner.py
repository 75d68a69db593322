"""S seeds of ranking runs: their data, losses and measurements."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anm_nb.ranking.losses import RANKING_LOSSES
from anm_nb.ranking.networks import SCORE_DECIMALS, PointerDecoder, RankingModel, RankingOutput, routing_entropy
from anm_nb.tasks import Batch, Stream
from anm_nb.tasks.kendall import index_space_tau, kendall_tau
from anm_nb.training import Learner, Measurement, Member, Named, StepLosses
from anm_nb.training.seeds import batch_indices
from anm_nb.training.stack import ParameterGroup, Stack

if TYPE_CHECKING:
    from anm_nb.ranking.train import RankingConfig
    from anm_nb.tasks.ordering import PartialSort
    from anm_nb.training.loop import Training

PROBES = 4  # dev problems of which x, ranks, mask and, at every record, routing weights are kept
TAUS = ("tau_obs", "tau_all", "tau_index")


def objective(
    config: RankingConfig, network: RankingModel, x: Tensor, ranks: Tensor, compared: Tensor | None
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Ranking loss, weighing later iterations more, and routing entropy (nats); the loss sees items `compared`."""
    z_per_iter, alphas = network.refine(x)
    first = 0 if config.deep_supervision else z_per_iter.shape[1] - 1
    z, ranks, decoder = z_per_iter[:, first:], ranks.unsqueeze(1), network.decoder
    scores = decoder.logits(z, ranks) if isinstance(decoder, PointerDecoder) else decoder(z)
    compared = None if compared is None else compared.unsqueeze(1)
    rows = RANKING_LOSSES[config.loss](scores, ranks, compared, reduction="none")
    weights = torch.arange(1.0, rows.shape[1] + 1, device=rows.device)
    return (rows.mean(0) * (weights / weights.sum())).sum(), routing_entropy(alphas).mean()


@torch.no_grad()
def assess(output: RankingOutput, batch: Batch) -> dict[str, Tensor]:
    """Scores [n, iters, items] to `SCORE_DECIMALS`, mean tau_obs and tau_all [iters], and tau_index of the last."""
    scores, ranks = output.scores.float().round(decimals=SCORE_DECIMALS), batch.y.unsqueeze(1)
    known = None if batch.known is None else batch.known.unsqueeze(1)
    taus = kendall_tau(scores, ranks, known), kendall_tau(scores, ranks), index_space_tau(scores[:, -1:], ranks)
    return {"scores": scores} | {name: tau.nanmean(0) for name, tau in zip(TAUS, taus, strict=True)}


class RankingLearner(Learner):
    """S seeds of ranking runs; those that differ only in the model see the same sets [S, …] in the same order."""

    def __init__(self, members: Sequence[Member], device: str) -> None:
        config: RankingConfig = members[0].config
        super().__init__(members, device, config.make_model)
        network: Any = self.model.members[0]
        self.task = config.make_task()
        self.dev = self._problems("dev", config.dev_samples, self.task)
        self.test = self._problems("test", config.test_samples, self.task)
        tasks = [config.changed(mask_rate=rate).make_task() for rate in config.curriculum()]
        stages = [self._problems("train", config.train_samples, task) for task in tasks]
        self.x, self.ranks, known = (  # [S, stages · train_samples, …]
            torch.cat([torch.stack([getattr(batch, part) for batch in stage]) for stage in stages], dim=1)
            for part in ("x", "y", "known")
        )
        self.compared = known if config.mask_aware and self.task.metric == "tau_obs" else None
        self.selection = config.selection or self.task.metric
        # All parameters but the controller's, and the controller's where one is trained.
        own, decay = dict(network.named_parameters()), {"weight_decay": config.weight_decay}
        encoder = [parameter for name, parameter in own.items() if not name.startswith("controller.")]
        adam, rates = torch.optim.AdamW, (config.encoder_lr, config.encoder_clip)
        self.groups = [ParameterGroup("encoder", self.model, encoder, adam, *rates, options=decay)]
        if config.learns_routing:
            frozen, routed = config.warmup_epochs * config.steps_per_epoch(), list(network.controller.parameters())
            rates = (config.controller_lr, config.controller_clip) if config.two_optimisers else rates
            self.groups.append(ParameterGroup("controller", self.model, routed, adam, *rates, frozen, decay))
        scheduled = [[each.config.at_epoch(self.epoch(s)) for each in members] for s in range(config.total_steps() + 1)]
        named = {name: [[now[name] for now in row] for row in scheduled] for name in scheduled[0][0]}
        self.schedules = {name: torch.tensor(rows, device=device) for name, rows in named.items()}
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

    def losses(self, inputs: Named, now: Named, branch: None, averaged: Stack) -> StepLosses:
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
        epoch, measured = self.epoch(training.step), []
        for place, member in enumerate(self.members):
            own = RankingOutput(*(each[place] for each in output))
            dev, alphas = assess(own, self.dev[place]), own.alphas
            routing = {"herfindahl": alphas.square().sum(-1), "max_alpha": alphas.amax(-1)}  # 1 on one head
            scalars = {"epoch": float(epoch), **{name: float(dev[name][-1]) for name in TAUS}}
            scalars |= {"entropy": float(own.entropies.mean())}
            scalars |= {name: float(each.mean((0, 2)).mean()) for name, each in routing.items()}
            scalars |= member.config.at_epoch(epoch)
            arrays = {"entropies": own.entropies, "alphas": alphas[:PROBES]}
            arrays |= {name: dev[name] for name in ("tau_obs", "tau_all")}  # after each iteration
            measured.append(Measurement(scalars, arrays, scalars[self.selection]))
        return measured

    def evaluate(self, place: int, selected: nn.Module) -> Measurement:
        """τ on test, the scores, ranks and masks it comes from, and the dev problems that are shown as examples."""
        own, shown = self.test[place], self.dev[place]
        test = assess(selected(own.x), own)
        probes = {"probe_x": shown.x, "probe_ranks": shown.y, "probe_known": shown.known}
        arrays = {"test_scores": test["scores"], "test_ranks": own.y, "test_known": own.known}
        arrays |= {name: each[:PROBES] for name, each in probes.items()}
        return Measurement({f"test_{name}": float(test[name][-1]) for name in TAUS}, arrays)

    def _problems(self, stream: Stream, n: int, task: PartialSort) -> list[Batch]:
        """n problems of each seed."""
        return [task.sample(n, generator=each, device=self.device, stream=stream) for each in self.sources(stream)]


def set_temperature(stack: Stack, temperature: Float[Tensor, " seeds"]) -> None:
    """Set the routing temperature of every network, where there is a controller to have one."""
    if (own := getattr(stack.members[0].controller, "temperature", None)) is not None:
        stack.by_seed(stack.stack_of[id(own)]).copy_(temperature)
