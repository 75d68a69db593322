"""The package's side of every workload that is a training step."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from anm_nb.training.loop import Training


class TrainingStep:
    """Steps of a training, one a call."""

    training: Training

    def ours(self) -> Mapping[str, Tensor]:
        """The losses, before the step."""
        step = self.training.step
        kind = self.training.kind(step, recorded=False)
        losses = self.training.losses(self.training.learner.inputs(step), kind)
        self.training.update(losses, kind)
        self.training.step += 1
        return {name: part.detach() for name, part in losses.parts.items()}
