"""Training a ranking model: the config of a run, its variants and comparators, and trained models."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from anm_nb import config as fields
from anm_nb.config import ParameterError
from anm_nb.ranking.learner import RankingLearner, objective
from anm_nb.ranking.networks import RankingModel
from anm_nb.store import Run
from anm_nb.tasks import get_task, task_class
from anm_nb.tasks.ordering import PartialSort
from anm_nb.training import Member, TrainingConfig
from anm_nb.training.checkpoint import by_prefix
from anm_nb.training.run import Trained, counted_flops, train

TEMPERATURE = ("temperature", "temperature_min", "temperature_decay")
ENTROPY = ("entropy_weight", "entropy_decay", "entropy_every")
# Fields used only with a trained controller, and fields used only with a controller.
LEARNED_ROUTING = (*ENTROPY, "warmup_epochs", "two_optimisers", "controller_lr", "controller_clip")
ROUTED = ("trained_routing", "slow_state", "hrm_period", "controller_width", *TEMPERATURE, *LEARNED_ROUTING)

# Models to compare with an HRM model. Each lacks one thing, so a difference in scores is due to that thing.
COMPARATORS: dict[str, dict[str, Any]] = {
    "no iteration": {"routing": "uniform", "max_inner_iters": 1},  # the encoder and one pass through the block
    "deep untied": {"routing": "uniform", "tied": False},  # as many passes, each with its own block
    "weight-tied": {"routing": "uniform"},  # the same block in every pass; this is also "uniform α"
    "random α": {"routing": "random"},  # uneven α that varies by iteration, at random and independently of the input
    "untrained controller": {"trained_routing": False},  # α depends on token and history, but is not learned
    "one timescale": {"slow_state": False},
    "equal timescales": {"hrm_period": 1},  # both states and all parameters of HRM, but both move in every iteration
    "HRM per token": {"routing": "token"},
    "HRM per sequence": {"routing": "sequence"},
}


class RankingConfig(TrainingConfig):
    """One ranking run of several seeds: task, architecture and training; `params/paper` has the document's values."""

    family: ClassVar[str] = "ranking"
    version: ClassVar[int] = 1  # raise it when a golden run reports changed numerics
    length: ClassVar[str] = "epochs"
    scheduled: ClassVar[Sequence[str]] = (*TEMPERATURE, *ENTROPY)

    task: str = "partial_sort"
    size: fields.Size = 12  # items
    mask_rate: fields.Rate = 0.5
    encoding: Literal["scaled", "raw"] = "scaled"  # raw: unscaled, with −999 for hidden values, as published
    mask_rate_start: fields.Rate | None = None  # curriculum: start here, reach mask_rate half-way
    task_options: dict[str, Any] = Field(default_factory=dict)  # further options of the task
    train_samples: fields.Examples = 500  # a fixed training set
    dev_samples: fields.Examples = 200
    test_samples: fields.Examples = 300

    # The model. With one iteration and without a controller (`routing="uniform"`) it is the baseline.
    width: fields.Width = 32
    n_heads: fields.Count = 4
    max_inner_iters: fields.Count = 4  # passes through the Pointer-over-Heads block
    tied: bool = True  # the same block in every iteration; else each iteration has its own
    norm: Literal["post", "pre"] = "post"  # layer norm after each residual sum, or before each layer
    # token, sequence: a controller per token or per sequence; uniform: equal heads; random: `RandomRouting`.
    routing: Literal["token", "sequence", "uniform", "random"] = "token"
    trained_routing: bool = True  # else the controller keeps its initial weights
    slow_state: bool = True  # else the controller has its fast state only
    hrm_period: fields.Count = 2  # iterations between updates of the slow state
    controller_width: fields.Width = 32
    gradient: Literal["full", "last"] = "full"  # last: no gradient through the iterations before the last

    epochs: fields.Epochs = 8
    batch: fields.Examples = 32
    mask_aware: bool = True  # the loss compares the items that the task's metric compares; else all
    selection: Literal["tau_obs", "tau_all", "tau_index"] | None = None  # metric on dev; None: the task's metric
    loss: Literal["ranknet", "listnet", "soft_sort", "combined", "cross_entropy"] = "ranknet"
    deep_supervision: bool = True  # a loss after every iteration t = 1, 2, … with weight t; else only the last
    temperature: fields.Temperature = 2.0  # routing temperature in epoch 0 …
    temperature_decay: fields.Fraction = 0.95  # … multiplied by this every epoch …
    temperature_min: fields.Temperature = 0.8  # … but never below this
    entropy_weight: fields.Weight = 1e-3  # weight of the mean routing entropy (nats) in the loss, in epoch 0 …
    entropy_decay: fields.Fraction = 0.5  # … multiplied by this …
    entropy_every: fields.Epochs = 5  # … after every so many epochs
    two_optimisers: bool = True  # else the controller uses the encoder's learning rate and clipping norm
    encoder_lr: fields.LearningRate = 3e-4
    controller_lr: fields.LearningRate = 1e-4
    lr_warmup: Annotated[int, Field(ge=0, le=10**5)] = 0  # epochs of linear warm-up of both learning rates
    weight_decay: NonNegativeFloat = 0.01
    encoder_clip: PositiveFloat = 1.0
    controller_clip: PositiveFloat = 0.5
    warmup_epochs: Annotated[int, Field(ge=0, le=10**5)] = 5  # epochs in which the controller is frozen
    stop_at_score: Annotated[float, Field(gt=-1, le=1)] | None = None  # score on dev
    seeds: fields.Seeds = (1, 2, 3)

    @model_validator(mode="after")
    def _usable(self) -> "RankingConfig":
        if not issubclass(task_class(self.task), PartialSort):
            raise ParameterError(f"task = '{self.task}': the ranking family needs a task whose answer is a ranking")
        task, most = self.make_task(), self.max_inner_iters
        if task.metric not in ("tau_obs", "tau_all"):
            raise ParameterError(f"task = '{self.task}': its metric is '{task.metric}'; allowed: tau_obs, tau_all")
        if self.width % self.n_heads:
            raise ParameterError(f"n_heads = {self.n_heads}: must divide width = {self.width}")
        if self.has_controller and self.slow_state and self.hrm_period > most:
            reason = f"with max_inner_iters = {most} the slow state would never be updated; allowed: 1 to {most}"
            raise ParameterError(f"hrm_period = {self.hrm_period}: {reason}")
        if self.deep_supervision and self.gradient == "last":
            reason = "it gives the iterations that deep_supervision = True supervises no gradient"
            raise ParameterError(f"gradient = 'last': {reason}; allowed with deep_supervision: 'full'")
        if self.temperature_min > self.temperature:
            raise ParameterError(f"temperature_min = {self.temperature_min}: at most temperature = {self.temperature}")
        return self

    @property
    def has_controller(self) -> bool:
        """Whether a controller computes α from the states of a token or of the sequence."""
        return self.routing in ("token", "sequence")

    @property
    def learns_routing(self) -> bool:
        """Whether the model has a controller that is trained."""
        return self.has_controller and self.trained_routing

    def changed(self, **values: Any) -> "RankingConfig":
        """A copy with other values, validated like any config."""
        return type(self)(**(dict(self) | values))

    def baseline(self) -> "RankingConfig":
        """The same model without iteration: one pass, all heads equal."""
        return self.changed(routing="uniform", max_inner_iters=1).reduced()

    def reduced(self) -> "RankingConfig":
        """The same run with the fields that it does not use at their defaults, so that equal runs share one key."""
        once = self.routing == "uniform" and self.max_inner_iters == 1
        unused = {
            *([] if self.slow_state else ["hrm_period"]),
            *([] if self.learns_routing else LEARNED_ROUTING),
            *([] if self.has_controller else ROUTED),
            *(["tied", "gradient", "deep_supervision"] if once else []),
        }
        return self.changed(**{name: type(self).model_fields[name].default for name in unused})

    def at_epoch(self, epoch: int) -> dict[str, float]:
        """Temperature max(T_min, T₀·decay^epoch) and entropy weight w₀·decay^(epoch // every), 0 if none is learned."""
        weight = self.entropy_weight * self.entropy_decay ** (epoch // self.entropy_every)
        temperature = max(self.temperature_min, self.temperature * self.temperature_decay**epoch)
        return {"temperature": temperature, "entropy_weight": weight if self.learns_routing else 0.0}

    def lr_factor(self, step: int) -> float:
        """Rise linearly to 1 over the first `lr_warmup` epochs, then stay constant."""
        return min(1.0, (step + 1) / max(1, self.lr_warmup * self.steps_per_epoch()))

    def curriculum(self) -> list[float]:
        """Shares of hidden items in the training sets: one, or a curriculum's five, in even steps."""
        if (start := self.mask_rate_start) is None:
            return [self.mask_rate]
        return [*(start + stage * ((self.mask_rate - start) / 4) for stage in range(4)), self.mask_rate]

    def can_be_extended(self) -> bool:
        return self.mask_rate_start is None  # a curriculum's stages depend on the number of epochs

    def make_task(self) -> PartialSort:
        """Build the task. Raises `ParameterError` for an unknown option, and for one that is also a field."""
        options = {"size": self.size, "mask_rate": self.mask_rate, "encoding": self.encoding}
        if twice := sorted(options.keys() & self.task_options.keys()):
            raise ParameterError(f"task_options: {', '.join(twice)}: set by the config's field of that name")
        return cast(PartialSort, get_task(self.task, **options, **self.task_options))

    def make_model(self) -> RankingModel:
        """Build the model, not yet initialised from a seed, with a pointer decoder for the published cross-entropy."""
        pointed = self.size if self.loss == "cross_entropy" else None
        return RankingModel(self, features=self.make_task().x_dim, pointed=pointed)

    def plugins(self) -> list[type]:
        return [task_class(self.task)]

    def train(self, workdir: Path) -> Trained:
        return train(self, workdir)

    def make_learner(self, members: Sequence[Member], device: str) -> RankingLearner:
        return RankingLearner(members, device)

    def steps_per_epoch(self) -> int:
        """Steps in which every training problem is used once; the last batch may be smaller."""
        return math.ceil(self.train_samples / self.batch)

    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch()

    def record_steps(self) -> list[int]:
        """The first step of every epoch, and the last step."""
        return list(range(0, self.total_steps() + 1, self.steps_per_epoch()))


def trained_ranking(run: Run, seed: int) -> RankingModel:
    """A run's model as selected on dev, frozen, on the CPU. `ParameterError` for another family or an unknown seed."""
    if not isinstance(config := run.config, RankingConfig):
        raise ParameterError(f"run {run.key}: its config is {type(config).__name__}, which trains no ranking model")
    if seed not in config.seeds:
        raise ParameterError(f"seed = {seed}: run {run.key} has seeds {', '.join(map(str, config.seeds))}")
    model = config.make_model()
    model.load_state_dict(by_prefix(run.weights, f"seed{seed}.selected."))
    return model.requires_grad_(False).eval()


def comparators(config: RankingConfig) -> dict[str, RankingConfig]:
    """The comparators of a whole HRM config, and HRM itself per token and sequence. `ParameterError` for others."""
    whole = {name: getattr(config, name) for name in ("trained_routing", "slow_state", "tied")}
    whole |= {"routing": config.has_controller, "max_inner_iters": config.max_inner_iters > 1}
    if name := next((name for name, present in whole.items() if not present), None):
        raise ParameterError(
            f"{name} = {getattr(config, name)!r}: comparators need a whole HRM model: trained routing by token or "
            "sequence, a slow state, and 2 or more iterations of one block"
        )
    return {name: config.changed(**changes).reduced() for name, changes in COMPARATORS.items()}


def at_values(config: RankingConfig, field: str, values: Sequence[float]) -> dict[str, RankingConfig]:
    """The baseline, and the config at each value of a field ("hrm_period = 4"), including the config's own value."""
    if (own_value := getattr(config, field)) not in values:
        reason = f"{field} = {own_value} must be among them, because the others are compared with it"
        raise ParameterError(f"values = {list(values)}: {reason}")
    return {"baseline": config.baseline()} | {f"{field} = {v:g}": config.changed(**{field: v}) for v in values}


def model_cost(config: RankingConfig) -> dict[str, int]:
    """Count a model's parameters (all, trained, controller's) and operations per array (a multiply-add is 2)."""
    network, ranks = config.make_model(), torch.arange(config.size).unsqueeze(0)
    x, weights = torch.zeros(1, config.size, network.features), dict(network.named_parameters())
    return {
        "parameters": sum(each.numel() for each in weights.values()),
        "trained_parameters": sum(each.numel() for each in weights.values() if each.requires_grad),
        "controller_parameters": sum(each.numel() for n, each in weights.items() if n.startswith("controller.")),
        "forward_flops": counted_flops(lambda: network(x)),
        "training_flops": counted_flops(lambda: objective(config, network, x, ranks, None)[0].backward()),
    }
