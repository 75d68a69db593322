"""The package's side of every workload that is a training step."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from anm_nb.training.loop import SeedTraining


class TrainingStep:
    """Steps of a training, one a call."""

    training: SeedTraining

    def ours(self) -> Mapping[str, Tensor]:
        """The losses, before the step."""
        losses = self.training.losses()
        self.training.update(losses)
        self.training.step += 1
        return {name: part.detach() for name, part in losses.parts.items()}
