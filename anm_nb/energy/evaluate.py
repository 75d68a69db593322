"""The last word on a trained energy: its sampler's scores on problems nothing was chosen by, beside the references."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from anm_nb.energy.sampler import SamplerConfig, sample
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.parameters import Parameters
from anm_nb.tasks.base import Batch, DenoisingTask
from anm_nb.tasks.references import SPLITS
from anm_nb.training.seeds import generator


class FinalTest(Parameters):
    """On how many test problems a trained energy is judged, and at which numbers of descent steps a level."""

    examples: PositiveInt = 1000
    inner_steps: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = ()  # beside the sampler's own number


def predict(
    model: nn.Module,
    task: DenoisingTask,
    batch: Batch,
    schedule: NoiseSchedule,
    sampler: SamplerConfig,
    seed: int,
    clamp: float | None = None,
) -> Tensor:
    """The sampler's answers to a batch, from starting noise that depends on the seed alone.

    `clamp` replaces the one published for the task.
    """
    source = generator(seed, "sampling", batch.x.device.type)
    y_dim = batch.y.shape[1]
    bound = task.sample_clamp if clamp is None else clamp
    return sample(model, schedule, batch.x, y_dim, source, sampler, bound, task.clues(batch))


def final_scores(
    model: nn.Module,
    task: DenoisingTask,
    schedule: NoiseSchedule,
    sampler: SamplerConfig,
    test: FinalTest,
    seed: int,
    device: str,
) -> dict[str, float]:
    """Test scores by `split/metric/predictor`, every predictor on the same problems.

    Predictors are `model`, with the sampler as configured and the task's clamp for that kind of problems; `steps=…`,
    with other numbers of descent steps; `published clamp`, where that is another one; and the task's references by
    name, which learn from as many training problems as there are test problems.
    """
    source = generator(seed, "references", device)
    training = task.stream("train").sample(test.examples, generator=source, device=device)
    columns: dict[str, float] = {}
    for split, harder in SPLITS.items():
        source = generator(seed, f"test/{split}", device)
        batch = task.stream("test").sample(test.examples, generator=source, device=device, harder=harder)
        answers = {name: y_hat for (name, _), y_hat in task.references(training, batch).items()}
        clamp = task.clamp(harder)
        answers["model"] = predict(model, task, batch, schedule, sampler, seed, clamp)
        if clamp != task.sample_clamp:
            answers["published clamp"] = predict(model, task, batch, schedule, sampler, seed)
        for steps in test.inner_steps:
            at_steps = sampler.model_copy(update={"inner_steps": steps})
            known = steps == sampler.inner_steps
            answers[f"steps={steps}"] = (
                answers["model"] if known else predict(model, task, batch, schedule, at_steps, seed, clamp)
            )
        for predictor, y_hat in answers.items():
            scores = task.metrics(y_hat, batch)
            columns |= {f"{split}/{metric}/{predictor}": score for metric, score in scores.items()}
    return columns
