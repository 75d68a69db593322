"""The probes of our own trainer: the noise is shared, negatives are noised once, and shares are those of the losses."""

import pytest
import torch

from anm_nb.energy.probes import count_of, grad_share, noisings, shared_noise_residual
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise


def pair():
    source = torch.Generator().manual_seed(0)
    y, y_neg = (torch.randn(32, 4, generator=source) for _ in range(2))
    return y, y_neg, SharedNoise.draw(NoiseSchedule.cosine(10), y, RowDraws([source], "cpu")), source


@pytest.mark.parametrize("again", [False, True])
def test_only_a_second_noising_leaves_a_residual(again):
    y, y_neg, noise, source = pair()
    other = SharedNoise.draw(noise.schedule, y, RowDraws([source], "cpu")) if again else noise
    residual = shared_noise_residual(noise.noised(y), other.noised(y_neg), y, y_neg, noise.schedule, noise.k)
    assert (residual > 1e-5) == again


def test_noisings_are_collected_while_the_context_is_open_and_counted():
    y, y_neg, noise, _ = pair()
    with noisings() as seen:
        for target in (y, y_neg, y_neg):
            noise.noised(target)
    noise.noised(y)
    assert [count_of(target, seen) for target in (y, y_neg, y[:3])] == [1, 2, 0]


def test_the_share_of_known_gradients():
    """∇(3w₀) = 3 and ∇(4w₁) = 4 on weights of their own; a constant loss has none."""
    weights = torch.nn.Parameter(torch.ones(2))
    con, mse = 3 * weights[0], 4 * weights[1]
    assert grad_share(con, mse, [weights]) == pytest.approx(3 / 7)
    assert grad_share(torch.tensor(2.0), mse, [weights]) == 0
    assert weights.grad is None
    (con + mse).backward()  # both graphs are still there
