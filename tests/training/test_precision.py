"""The effect of tf32, simulated in forward and backward passes: matrix products round their factors to 10 bits."""

import pytest
import torch
from families import energy, ranking
from torch.utils._python_dispatch import TorchDispatchMode

from anm_nb.training.loop import Training

aten = torch.ops.aten
FACTORS = {aten.mm: (0, 1), aten.bmm: (0, 1), aten.addmm: (1, 2), aten.baddbmm: (1, 2), aten.linear: (0, 1)}


def rounded(tensor):
    """Round float32 numbers to the nearest with 10 bits of mantissa."""
    return ((tensor.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class Tf32(TorchDispatchMode):
    """Inside, every matrix product rounds its factors and accumulates in float32, as tensor cores do."""

    products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if factors := FACTORS.get(function.overloadpacket):
            self.products += 1
            args = [rounded(each) if place in factors else each for place, each in enumerate(args)]
        return function(*args, **(kwargs or {}))


def relative(found, expected):
    """‖found − expected‖ / ‖expected‖."""
    return float((found - expected).norm() / expected.norm())


def first_step(config):
    """The first step's clipped gradient, the change of the weights, and the gradient norms before clipping."""
    training = Training(config.learner(0))
    before = [each.detach().clone() for each in training.model.tensors()]
    training.take(training.learner.inputs(0), training.kind(0))
    found = torch.cat([each.grad.flatten() for group in training.learner.groups for each in group.stacked])
    moved = torch.cat([(now - then).flatten() for now, then in zip(training.model.tensors(), before, strict=True)])
    return found, moved.detach(), torch.cat([each.norms for each in training.learner.groups])


SIZES = {"size": 8, "width": 64, "batch": 64}


@pytest.mark.parametrize(
    ("config", "least"),
    [
        (energy(negatives="none", **SIZES), 5),
        (energy(negatives="stock", **SIZES), 10),
        (energy(negatives="anm_orthogonal", **SIZES), 20),
        (ranking(width=64, size=12, warmup_epochs=0), 20),
    ],
    ids=["none", "stock", "anm_orthogonal", "ranking"],
)
def test_tf32_gradients_match_float32_within_four_thousandths(config, least):
    monitored = Tf32()
    gradient, moved, norms = first_step(config)
    with monitored:
        rough_gradient, rough_moved, rough_norms = first_step(config)
    assert monitored.products >= least
    assert not torch.equal(gradient, rough_gradient)
    assert relative(rough_gradient, gradient) < 4e-3
    assert relative(rough_norms, norms) < 2e-3
    assert relative(rough_moved, moved) < 0.1  # Adam's first step follows signs, even of tiny gradients
