"""Data, losses and measurements of S seeds of ranking runs."""

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

PROBES = 4  # dev problems whose x, ranks, mask and, at every record, routing weights are kept
TAUS = ("tau_obs", "tau_all", "tau_index")


def objective(
    config: "RankingConfig", network: RankingModel, x: Tensor, ranks: Tensor, compared: Tensor | None
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Ranking loss over the items `compared`, with later iterations weighted more, and routing entropy (nats)."""
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
    """Scores [n, iters, items] to `SCORE_DECIMALS`, mean tau_obs and tau_all [iters], and the last mean tau_index."""
    scores, ranks = output.scores.float().round(decimals=SCORE_DECIMALS), batch.y.unsqueeze(1)
    known = None if batch.known is None else batch.known.unsqueeze(1)
    taus = kendall_tau(scores, ranks, known), kendall_tau(scores, ranks), index_space_tau(scores[:, -1:], ranks)
    return {"scores": scores} | {name: tau.nanmean(0) for name, tau in zip(TAUS, taus, strict=True)}


class RankingLearner(Learner):
    """S seeds of ranking runs. Runs that differ only in the model see the same data [S, …] in the same order."""

    def __init__(self, members: Sequence[Member], device: str) -> None:
        config: RankingConfig = members[0].config
        super().__init__(members, device, config.make_model)
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
        network: Any = self.model.members[0]  # a trained controller has its own group of parameters
        encoder = [each for name, each in network.named_parameters() if not name.startswith("controller.")]
        adam, rates = torch.optim.AdamW, (config.encoder_lr, config.encoder_clip)
        decay = {"weight_decay": config.weight_decay}
        self.groups = [ParameterGroup("encoder", self.model, encoder, adam, *rates, options=decay)]
        if config.learns_routing:
            frozen, controller = config.warmup_epochs * config.steps_per_epoch(), list(network.controller.parameters())
            rates = (config.controller_lr, config.controller_clip) if config.two_optimisers else rates
            self.groups.append(ParameterGroup("controller", self.model, controller, adam, *rates, frozen, decay))
        at_steps = [[each.config.at_epoch(self.epoch(s)) for each in members] for s in range(config.total_steps() + 1)]
        columns = {name: [[values[name] for values in row] for row in at_steps] for name in at_steps[0][0]}
        self.schedules = {name: torch.tensor(rows, device=device) for name, rows in columns.items()}
        set_temperature(self.model, self.schedules["temperature"][0])
        self.suspects = type(self.task).__name__

    def epoch(self, step: int) -> int:
        return step // self.config.steps_per_epoch()

    def inputs(self, step: int) -> dict[str, Tensor]:
        """Rows [S, b] of every seed's training sets for a step; each epoch has its own order."""
        n, batch = self.config.train_samples, self.config.batch
        rows = [batch_indices(n, batch, step, member.seed, self.device) for member in self.members]
        last = self.x.shape[1] // n - 1  # a curriculum's last stage, which begins half-way
        stage = min(2 * last * self.epoch(step) // self.config.epochs, last)
        return {"rows": torch.stack(rows) + stage * n}

    def losses(self, inputs: Named, now: Named, branch: None, averaged: Stack) -> StepLosses:
        """A batch's ranking loss over the supervised iterations, and its weighted routing entropy."""
        for stack in (self.model, averaged):
            set_temperature(stack, now["temperature"])
        seeds = torch.arange(len(self.members), device=self.device).unsqueeze(1)
        parts = (self.x, self.ranks, self.compared)
        batch = (None if part is None else part[seeds, inputs["rows"]] for part in parts)
        loss_rank, entropy = self.model.each(partial(objective, self.config), *batch)
        loss_entropy = now["entropy_weight"] * entropy
        return StepLosses(loss_rank + loss_entropy, {"loss_rank": loss_rank, "loss_entropy": loss_entropy})

    @torch.no_grad()
    def measure(self, training: "Training", losses: StepLosses) -> list[Measurement]:
        """Every seed's τ on dev and routing statistics, overall and per iteration."""
        output = training.averaged.each(RankingModel.__call__, torch.stack([batch.x for batch in self.dev]))
        epoch, measured = self.epoch(training.step), []
        for place, member in enumerate(self.members):
            member_output = RankingOutput(*(each[place] for each in output))
            dev, alphas = assess(member_output, self.dev[place]), member_output.alphas
            routing = {"herfindahl": alphas.square().sum(-1), "max_alpha": alphas.amax(-1)}  # 1 for a single head
            scalars = {"epoch": float(epoch), **{name: float(dev[name][-1]) for name in TAUS}}
            scalars |= {"entropy": float(member_output.entropies.mean())}
            scalars |= {name: float(each.mean((0, 2)).mean()) for name, each in routing.items()}
            scalars |= member.config.at_epoch(epoch)
            arrays = {"entropies": member_output.entropies, "alphas": alphas[:PROBES]}
            arrays |= {name: dev[name] for name in ("tau_obs", "tau_all")}  # after each iteration
            measured.append(Measurement(scalars, arrays, scalars[self.selection]))
        return measured

    def evaluate(self, place: int, selected: nn.Module) -> Measurement:
        """τ on test with its scores, ranks and masks, and the dev problems that are shown as examples."""
        problems, shown = self.test[place], self.dev[place]
        test = assess(selected(problems.x), problems)
        probes = {"probe_x": shown.x, "probe_ranks": shown.y, "probe_known": shown.known}
        arrays = {"test_scores": test["scores"], "test_ranks": problems.y, "test_known": problems.known}
        arrays |= {name: each[:PROBES] for name, each in probes.items()}
        return Measurement({f"test_{name}": float(test[name][-1]) for name in TAUS}, arrays)

    def _problems(self, stream: Stream, n: int, task: "PartialSort") -> list[Batch]:
        """n problems for each seed."""
        return [task.sample(n, generator=each, device=self.device, stream=stream) for each in self.sources(stream)]


def set_temperature(stack: Stack, temperature: Float[Tensor, " seeds"]) -> None:
    """Set the routing temperature of every network, if it has a controller."""
    if (buffer := getattr(stack.members[0].controller, "temperature", None)) is not None:
        stack.by_seed(stack.stack_of[id(buffer)]).copy_(temperature)
