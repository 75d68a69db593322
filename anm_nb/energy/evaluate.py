"""The last word on a trained energy: its sampler's scores on problems nothing was chosen by, beside the references."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from anm_nb.config import ParameterError
from anm_nb.energy.networks import EnergyNetwork
from anm_nb.energy.sampler import SamplerConfig, sample
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.store import Run
from anm_nb.tasks.base import SPLITS, Batch, DenoisingTask
from anm_nb.training.checkpoint import by_prefix
from anm_nb.training.seeds import generator

if TYPE_CHECKING:
    from anm_nb.energy.train import EnergyConfig


def predict(
    model: nn.Module,
    task: DenoisingTask,
    batch: Batch,
    schedule: NoiseSchedule,
    sampler: SamplerConfig,
    seeds: Sequence[int],
    clamp: float | None = None,
) -> Tensor:
    """The sampler's answers to the rows of all seeds, from starting noise that depends on each seed alone."""
    sources = [generator(seed, "sampling", batch.x.device.type) for seed in seeds]
    bound = task.sample_clamp if clamp is None else clamp
    return sample(model, schedule, batch.x, batch.y.shape[1], sources, sampler, bound, task.clues(batch))


def final_scores(model: nn.Module, config: EnergyConfig, n: int, seed: int, device: str) -> dict[str, float]:
    """Scores on n test problems by `split/metric/predictor`, every predictor on the same problems.

    Predictors are `model`, with the sampler as configured and the task's clamp for that kind of problems; `steps=…`,
    with other numbers of descent steps; `published clamp`, where that is another one; and the task's references, which
    learn from as many training problems as there are test problems.
    """
    task, schedule = config.make_task(), NoiseSchedule.cosine(config.levels, device=device)
    training = task.stream("train").sample(n, generator=generator(seed, "references", device), device=device)
    columns: dict[str, float] = {}
    for split, harder in SPLITS.items():
        source, clamp = generator(seed, f"test/{split}", device), task.clamp(harder)
        batch = task.stream("test").sample(n, generator=source, device=device, harder=harder)
        answers = {name: y_hat for (name, _), y_hat in task.references(training, batch).items()}
        ways = {"model": (config.make_sampler(task), clamp)}
        ways |= {"published clamp": (ways["model"][0], task.sample_clamp)} if clamp != task.sample_clamp else {}
        ways |= {f"steps={steps}": (SamplerConfig(inner_steps=steps), clamp) for steps in config.test_inner_steps}
        for name, (sampler, bound) in ways.items():
            answers[name] = predict(model, task, batch, schedule, sampler, [seed], bound)
        for predictor, y_hat in answers.items():
            scores = task.metrics(y_hat, batch)
            columns |= {f"{split}/{metric}/{predictor}": score for metric, score in scores.items()}
    return columns


def kept_steps(run: Run) -> list[int]:
    """The steps whose EMA weights a run has kept (`keep_weights`), in order; its end is always there."""
    found = (re.match(r"seed\d+\.step(\d+)\.", name) for name in run.weights)
    return sorted({int(match[1]) for match in found if match})


def trained_energy(run: Run, seed: int, step: int | None = None) -> EnergyNetwork:
    """The EMA energy of a finished run at a step (which needs `keep_weights`), or at the end; on the CPU, frozen.

    Needs the network's class and not the negative strategy's. Raises `ParameterError` for a run that is not of this
    family, and for a seed or step that it has no weights of.
    """
    if run.summary["family"] != "energy":
        raise ParameterError(f"run {run.key}: its config is {type(run.config).__name__}, which trains no energy")
    config = run.config_with(negatives="none")
    if seed not in config.seeds:
        raise ParameterError(f"seed = {seed}: run {run.key} has {', '.join(map(str, config.seeds))}")
    weights = by_prefix(run.weights, f"seed{seed}.{'' if step is None else f'step{step}.'}averaged.")
    if not weights:
        kept = ", ".join(map(str, kept_steps(run))) or "none; train with keep_weights"
        raise ParameterError(f"step = {step}: run {run.key} has no weights of it; steps kept: {kept}")
    energy = config.make_network(config.make_task())
    energy.load_state_dict(weights)
    return energy.requires_grad_(False).eval()
