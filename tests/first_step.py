"""Losses and measurements of single steps, outside the training loop."""

from anm_nb.training import TrainingConfig
from anm_nb.training.loop import Training


def begun(config: TrainingConfig, seed: int = 0, learner=None) -> Training:
    """The training of one seed before its first step."""
    return Training(learner or config.learner(seed))


def losses_at(training: Training, step: int = 0, recorded: bool = True):
    """The losses of a step, from the generators' current states; nothing is updated."""
    training.step = step
    training.counter.fill_(step)
    return training.losses(training.learner.inputs(step), training.kind(step, recorded))
