"""Training a ranking model: the config of a run, with every fix of the document a switch, and one seed's learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from anm_nb.bounds import require_memory
from anm_nb.config import ParameterError
from anm_nb.ranking.evaluate import assess, routing_arrays
from anm_nb.ranking.losses import RANKING_LOSSES, combined_ranking_loss, pointer_loss
from anm_nb.ranking.networks import Decoder, ModelConfig, PointerDecoder, RankingModel, ScoreDecoder
from anm_nb.ranking.routing import routing_entropy
from anm_nb.store import RunConfig
from anm_nb.tasks import get_task, task_class
from anm_nb.tasks.base import Batch
from anm_nb.tasks.ordering import RankingTask
from anm_nb.training.epochs import batch_indices, batches_per_epoch
from anm_nb.training.learner import Learner, Measurement, ParameterGroup, StepLosses
from anm_nb.training.loop import LoopConfig, Seeds, SeedsAtOnce, Trained, resolve_device, train
from anm_nb.training.memory import weight_bytes
from anm_nb.training.seeds import generator, initialise
from anm_nb.training.stacked import StackedLosses
from anm_nb.training.stacked_network import StackedNetwork

Fraction = Annotated[float, Field(gt=0, le=1)]

# What only a model whose controller is trained makes use of …
LEARNED_ROUTING_FIELDS = (
    "entropy_weight",
    "entropy_decay",
    "entropy_every",
    "two_optimisers",
    "controller_lr",
    "controller_clip",
    "warmup_epochs",
)
# … only one that has a controller …
ROUTED_FIELDS = (
    "trained_routing",
    "slow_state",
    "hrm_period",
    "top_k",
    "controller_width",
    "temperature",
    "temperature_min",
    "temperature_decay",
    *LEARNED_ROUTING_FIELDS,
)
# … and only one with a controller, or with several iterations.
ITERATED_FIELDS = (*ROUTED_FIELDS, "tied", "gradient", "deep_supervision", "supervision_power")

# What each of several stacked learners may have of its own: numbers that enter a step as tensors or after its losses.
SCHEDULED = (
    "temperature",
    "temperature_min",
    "temperature_decay",
    "entropy_weight",
    "entropy_decay",
    "entropy_every",
)


# Which items of a batch a metric compares; None: all.
COMPARED: dict[str, Callable[[Batch], Tensor | None]] = {
    "tau_obs": lambda batch: batch.known,
    "tau_all": lambda batch: None,
}


class RankingConfig(RunConfig, ModelConfig):
    """One ranking run: a task, an architecture, and how to train it, for several seeds.

    The document's setting is size 20, mask_rate 0.5, width 128, n_heads 4, batch 32, train_samples 1000, epochs 100,
    max_inner_iters 12, hrm_period 4 and seeds 1–5; the defaults are a small one of the same kind.
    """

    family: ClassVar[str] = "ranking"
    version: ClassVar[int] = 1  # raise it when a golden run says that numerics have changed

    task: str = "partial_sort"
    size: PositiveInt = 12  # items
    mask_rate: Annotated[float, Field(ge=0, lt=1)] = 0.5
    encoding: Literal["scaled", "raw"] = "scaled"  # raw: the published −999 for hidden values
    task_options: dict[str, Any] = Field(default_factory=dict)  # the task's options beside these three
    train_samples: PositiveInt = 500  # a fixed set
    dev_samples: PositiveInt = 200
    test_samples: PositiveInt = 300
    epochs: PositiveInt = 8
    batch: PositiveInt = 32

    mask_aware: bool = True  # the loss compares the items that the task's metric does; else all
    # On dev; None: the task's metric; tau_index: as published.
    selection: Literal["tau_obs", "tau_all", "tau_index"] | None = None
    loss: Literal["ranknet", "listnet", "soft_sort", "combined", "cross_entropy"] = "ranknet"
    margin: NonNegativeFloat = 0.0  # of RankNet, in units of the score
    loss_temperature: PositiveFloat = 1.0  # of ListNet and soft sorting
    # Of the three parts of the combined loss.
    loss_weights: dict[str, NonNegativeFloat] = Field(default_factory=lambda: dict.fromkeys(RANKING_LOSSES, 1.0))
    deep_supervision: bool = True  # a loss after every iteration; else after the last only
    supervision_power: NonNegativeFloat = 1.0  # iteration t = 1, 2, … weighs t to this power; 0: all alike
    temperature: PositiveFloat = 2.0  # of routing in epoch 0 …
    temperature_decay: Fraction = 0.95  # … times this in every epoch …
    temperature_min: PositiveFloat = 0.8  # … but never less
    entropy_weight: NonNegativeFloat = 1e-3  # of the mean routing entropy (nats) in the loss, in epoch 0 …
    entropy_decay: Fraction = 0.5  # … times this …
    entropy_every: PositiveInt = 5  # … in every so many epochs
    two_optimisers: bool = True  # else the controller takes the encoder's learning rate and clipping norm
    encoder_lr: PositiveFloat = 3e-4
    controller_lr: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.01
    encoder_clip: PositiveFloat = 1.0
    controller_clip: PositiveFloat = 0.5
    warmup_epochs: NonNegativeInt = 5  # epochs for which the controller stays frozen

    probe_examples: PositiveInt = 4  # dev problems whose routing weights are kept at every epoch
    patience: PositiveInt | None = None  # epochs without a better dev score before stopping; None: never
    # Dev score at which a seed stops, as with the ceiling's nothing is left to gain; None: never.
    stop_at_score: Annotated[float, Field(gt=-1, le=1)] | None = None
    checkpoint_every: PositiveInt = 1000  # steps
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seeds_at_once: SeedsAtOnce = "auto"
    compiled: bool = False  # the step of stacked seeds through torch.compile
    threads: PositiveInt = 1
    seeds: Seeds = (1, 2, 3)

    @model_validator(mode="after")
    def _usable(self) -> RankingConfig:
        if not issubclass(task_class(self.task), RankingTask):
            raise ParameterError(f"task = '{self.task}': the ranking family needs a task whose answer is an order")
        if (metric := self.make_task().metric) not in COMPARED:
            raise ParameterError(f"task = '{self.task}': its metric is '{metric}'; allowed: {', '.join(COMPARED)}")
        if self.deep_supervision and self.gradient == "last":
            raise ParameterError(
                "gradient = 'last': it cuts off the iterations that deep_supervision = True would supervise; "
                "allowed with it: gradient = 'full'"
            )
        if self.temperature_min > self.temperature:
            raise ParameterError(f"temperature_min = {self.temperature_min}: at most temperature = {self.temperature}")
        if unknown := set(self.loss_weights) - set(RANKING_LOSSES):
            raise ParameterError(f"loss_weights: {sorted(unknown)} not among {', '.join(RANKING_LOSSES)}")
        require_memory(dict(self), self.least_bytes())
        return self

    def least_bytes(self) -> dict[str, int]:
        """Bytes that training one seed needs at least, by the fields they come from."""
        problem = 4 * self.size * self.make_task().x_dim
        # states and attention weights of every iteration are kept for the backward pass
        row = 4 * self.max_inner_iters * self.size * (self.width + self.n_heads * self.size)
        large = self.width * max(self.width, self.max_inner_iters) > 10**5  # counting takes milliseconds
        return {
            "width": weight_bytes(self.make_model) if large else 0,
            "batch max_inner_iters size width": min(self.batch, self.train_samples) * row,
            "train_samples size": self.train_samples * problem,
            "dev_samples size": self.dev_samples * problem,
            "test_samples size": self.test_samples * problem,
        }

    def changed(self, **values: Any) -> RankingConfig:
        """This config with other values, checked like any."""
        return type(self)(**(dict(self) | values))

    def baseline(self) -> RankingConfig:
        """The same model without iteration: one pass, every head alike.

        What only iteration makes use of is set to its default, so that configs that differ in nothing else share a run.
        """
        return self.without(ITERATED_FIELDS, routing="uniform", max_inner_iters=1)

    def without(self, unused: Sequence[str], **values: Any) -> RankingConfig:
        """This config with other values, and what it then makes no use of set to its default."""
        return self.changed(**{name: type(self).model_fields[name].default for name in unused}, **values)

    @property
    def decoder(self) -> Decoder:
        """A pointer for each rank under the published cross-entropy, a score for each item under a ranking loss."""
        return "pointer" if self.loss == "cross_entropy" else "score"

    @property
    def loop(self) -> LoopConfig:
        """Epochs as steps: constant learning rates, no weight averaging, a measurement after every epoch."""
        per_epoch = batches_per_epoch(self.train_samples, self.batch)
        return LoopConfig(
            steps=self.epochs * per_epoch,
            batch=self.batch,
            lr=self.encoder_lr,
            lr_final=1.0,
            ema_decay=0.0,
            record_every=per_epoch,
            patience=self.patience,
            stop_at_score=self.stop_at_score,
            checkpoint_every=self.checkpoint_every,
            precision=self.precision,
            device=self.device,
            seeds_at_once=self.seeds_at_once,
            compiled=self.compiled,
            threads=self.threads,
        )

    def temperature_at(self, epoch: int) -> float:
        """max(T_min, T₀·decay^epoch)."""
        return max(self.temperature_min, self.temperature * self.temperature_decay**epoch)

    def entropy_weight_at(self, epoch: int) -> float:
        """w₀·decay^(epoch // every); 0 without routing to learn, which is all it could regularise."""
        if not self.learns_routing:
            return 0.0
        return self.entropy_weight * self.entropy_decay ** (epoch // self.entropy_every)

    def make_task(self) -> RankingTask:
        """The task, with its options. Raises `ParameterError` for an option it refuses, or has twice."""
        fields = {"size": self.size, "mask_rate": self.mask_rate, "encoding": self.encoding}
        if twice := sorted(fields.keys() & self.task_options.keys()):
            raise ParameterError(f"task_options: {', '.join(twice)}: set by the config's field of that name")
        task = get_task(self.task, **fields, **self.task_options)
        assert isinstance(task, RankingTask)
        return task

    def make_model(self) -> RankingModel:
        """The model, its weights not yet drawn from a seed."""
        return RankingModel(self, features=self.make_task().x_dim, decoder=self.decoder, size=self.size)

    def device_kind(self) -> str:
        """cpu or cuda, as `device` resolves here."""
        return resolve_device(self.device)

    def plugins(self) -> list[type]:
        """The task's class."""
        return [task_class(self.task)]

    def train(self, workdir: Path) -> Trained:
        """Train every seed."""
        return train(self.learner, self.loop, self.seeds, workdir)

    def learner(self, seed: int, device: str) -> Learner:
        """The learner of one seed."""
        return RankingLearner(self, seed, device)


class RankingLearner:
    """One seed of a ranking run.

    Data and initial weights come from generators of their own: runs of one seed that differ only in model or fixes see
    the same training set in the same order, and are tested on the same problems.
    """

    def __init__(self, config: RankingConfig, seed: int, device: str) -> None:
        self.config, self.seed, self.device = config, seed, device
        task = config.make_task()
        sizes = {"train": config.train_samples, "dev": config.dev_samples, "test": config.test_samples}
        self.training, self.dev, self.test = (
            task.sample(n, generator=generator(seed, stream, device), device=device, stream=stream)  # type: ignore[arg-type]
            for stream, n in sizes.items()
        )
        self.selection = config.selection or task.metric
        self.compared = COMPARED[task.metric](self.training) if config.mask_aware else None
        self.network = config.make_model()
        initialise(self.network, generator(seed, "weights"))
        self.network.set_temperature(config.temperature_at(0))
        self.model: nn.Module = self.network.to(device)
        self.groups: Sequence[ParameterGroup] = parameter_groups(config, self.network)
        self.generators: Mapping[str, torch.Generator] = {}  # every draw is made above, or derived from seed and epoch
        self.supervision = supervision_weights(config).to(device)

    def epoch(self, step: int) -> int:
        """Whole epochs before a step."""
        return step // batches_per_epoch(self.config.train_samples, self.config.batch)

    def losses(self, step: int, averaged: nn.Module) -> StepLosses:
        """Ranking loss over the supervised iterations and weighted routing entropy of the next batch."""
        batch = self.prepared(step, averaged)
        loss_rank, entropy = self.objective(self.network, *batch)
        loss_entropy = self.config.entropy_weight_at(self.epoch(step)) * entropy
        parts = {"loss_rank": loss_rank, "loss_entropy": loss_entropy}
        return StepLosses(loss_rank + loss_entropy, parts)

    def stack_key(self) -> str:
        """Learners of equal keys have the same task, shapes and objective; `SCHEDULED` numbers are each one's own."""
        return self.config.model_dump_json(exclude={"seeds", *SCHEDULED})

    def stacked_losses(
        self,
        learners: Sequence[RankingLearner],
        step: int,
        model: StackedNetwork,
        averaged: StackedNetwork,
        compiled: Callable[[Any], Any],
    ) -> StackedLosses:
        """The losses of every learner's next batch, by `model`, their networks stacked."""
        batches = [learner.prepared(step, own) for learner, own in zip(learners, averaged.members, strict=True)]
        each = compiled(StackedNetwork.each)
        loss_rank, entropies = each(model, self.objective, *(torch.stack(part) for part in zip(*batches, strict=True)))
        epoch = self.epoch(step)
        weighted = zip(learners, entropies, strict=True)
        loss_entropy = torch.stack([learner.config.entropy_weight_at(epoch) * entropy for learner, entropy in weighted])
        parts = {"loss_rank": loss_rank, "loss_entropy": loss_entropy}
        return StackedLosses(loss_rank + loss_entropy, parts)

    def prepared(self, step: int, averaged: nn.Module) -> tuple[Tensor, ...]:
        """Inputs, ranks and, where not all are, compared items of the next batch; its epoch's temperature is set."""
        for model in (self.network, averaged):
            assert isinstance(model, RankingModel)
            model.set_temperature(self.config.temperature_at(self.epoch(step)))
        rows = batch_indices(self.config.train_samples, self.config.batch, step, self.seed, self.device)
        parts = (self.training.x, self.training.y, self.compared)
        return tuple(part[rows] for part in parts if part is not None)

    def objective(
        self, network: nn.Module, x: Tensor, ranks: Tensor, compared: Tensor | None = None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Ranking loss and mean routing entropy (nats) of a batch by a network of the learner's kind."""
        assert isinstance(network, RankingModel)
        z_per_iter, alphas = network.refine(x)
        return self.ranking_loss(network.decoder, z_per_iter, ranks, compared), routing_entropy(alphas).mean()

    def ranking_loss(
        self, decoder: ScoreDecoder | PointerDecoder, z_per_iter: Tensor, ranks: Tensor, compared: Tensor | None
    ) -> Float[Tensor, ""]:
        """Mean loss of the supervised iterations, the later ones weighing more."""
        config = self.config
        z = z_per_iter[:, -len(self.supervision) :]
        ranks = ranks.unsqueeze(1)
        compared = None if compared is None else compared.unsqueeze(1)
        if isinstance(decoder, PointerDecoder):
            rows = pointer_loss(decoder.logits(z, ranks), ranks, compared, reduction="none")
        elif config.loss == "combined":
            rows = combined_ranking_loss(decoder(z), ranks, compared, weights=config.loss_weights, reduction="none")
        else:
            option = "margin" if config.loss == "ranknet" else "temperature"
            value = config.margin if config.loss == "ranknet" else config.loss_temperature
            rows = RANKING_LOSSES[config.loss](decoder(z), ranks, compared, reduction="none", **{option: value})
        return rows.mean(0) @ self.supervision

    def measure(self, step: int, averaged: nn.Module, losses: StepLosses) -> Measurement:
        """τ on dev and routing, over all and for every iteration."""
        epoch = self.epoch(step)
        dev = assess(averaged, self.dev)
        arrays = routing_arrays(dev.alphas) | {"tau_obs": dev.tau_obs, "tau_all": dev.tau_all}
        scalars = {
            "epoch": float(epoch),
            **dev.last(),
            "entropy": float(arrays["entropies"].mean()),
            "herfindahl": float(arrays["herfindahl"].mean()),
            "max_alpha": float(arrays["max_alpha"].mean()),
            "temperature": self.config.temperature_at(epoch),
            "entropy_weight": self.config.entropy_weight_at(epoch),
        }
        arrays["alphas"] = dev.alphas[: self.config.probe_examples]
        return Measurement(scalars, arrays, scalars[self.selection])

    def evaluate(self, selected: nn.Module) -> Measurement:
        """τ on test, and the scores, ranks and masks it comes from, for other metrics of the same predictions."""
        test = assess(selected, self.test)
        scalars = {f"test_{name}": value for name, value in test.last().items()}
        arrays = {"test_scores": test.scores, "test_ranks": self.test.y}
        if self.test.known is not None:
            arrays["test_known"] = self.test.known
        return Measurement(scalars, arrays)


def supervision_weights(config: RankingConfig) -> Float[Tensor, " supervised"]:
    """Weights, summing to 1, of the last iterations that carry a loss: all of them, or the very last."""
    iterations = config.max_inner_iters if config.deep_supervision else 1
    weights = torch.arange(1.0, iterations + 1) ** config.supervision_power
    return weights / weights.sum()


def parameter_groups(config: RankingConfig, network: RankingModel) -> list[ParameterGroup]:
    """The encoder's group (all but the controller), and the controller's where one is trained, each with its AdamW."""
    two = config.two_optimisers
    controller_lr = config.controller_lr if two else config.encoder_lr
    controller_clip = config.controller_clip if two else config.encoder_clip
    routed = network.controller_parameters() if config.learns_routing else []
    frozen = config.warmup_epochs * batches_per_epoch(config.train_samples, config.batch)
    wanted = [
        ("encoder", network.encoder_parameters(), config.encoder_lr, config.encoder_clip, 0),
        ("controller", routed, controller_lr, controller_clip, frozen),
    ]
    return [
        ParameterGroup(
            name,
            parameters,
            torch.optim.AdamW(parameters, lr=lr, weight_decay=config.weight_decay, fused=True),
            clip,
            frozen_steps,
        )
        for name, parameters, lr, clip, frozen_steps in wanted
        if parameters
    ]
