"""The probes of our own trainer: shares are those of the losses, and nothing waits for a device."""

import pytest
import torch
from host_waits import HostWait, RefuseHostWaits

from anm_nb.energy.probes import energy_columns, grad_share, grad_shares, noising_columns
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.training.seeds import RowDraws


def pair():
    source = torch.Generator().manual_seed(0)
    y, y_neg = (torch.randn(32, 4, generator=source) for _ in range(2))
    return y, y_neg, SharedNoise.draw(NoiseSchedule.cosine(10), y, RowDraws([source], "cpu")), source


def stacked(seeds):
    """A network of as many members, its parameters stacked, and both losses of every member on rows of its own."""
    source = torch.Generator().manual_seed(seeds)
    first, second = (torch.randn(seeds, *shape, generator=source).requires_grad_() for shape in ((4, 6), (6,)))
    x = torch.randn(seeds, 9, 4, generator=source)
    hidden = torch.tanh(torch.einsum("sbi,sij->sbj", x, first))
    out = torch.einsum("sbj,sj->sb", hidden, second)
    return (first, second), out.square().mean(1), torch.nn.functional.softplus(out - hidden.sum(2)).mean(1)


@pytest.mark.parametrize("seeds", [1, 3])
def test_shares_of_stacked_seeds_are_those_of_each_seed_alone(seeds):
    stacks, con, mse = stacked(seeds)
    unused = torch.ones(seeds, 2, requires_grad=True)
    shares = grad_shares(con, mse, [*stacks, unused])
    assert shares.shape == (seeds,)
    for seed in range(seeds):
        norms = [
            torch.cat([g[seed].flatten() for g in torch.autograd.grad(loss[seed], stacks, retain_graph=True)]).norm()
            for loss in (con, mse)
        ]
        assert float(shares[seed]) == pytest.approx(float(norms[0] / sum(norms)), rel=1e-5)
    if seeds == 1:
        assert float(shares) == pytest.approx(grad_share(con[0], mse[0], stacks), rel=1e-6)
    assert all(each.grad is None for each in (*stacks, unused))
    assert grad_shares(torch.ones(seeds), mse, stacks).tolist() == [0] * seeds


def test_columns_and_shares_never_wait_for_a_device():
    y, y_neg, noise, _ = pair()
    stacks, con, mse = stacked(2)
    signal, sigma = noise.schedule.signal(noise.k), noise.schedule.sigma(noise.k)
    with RefuseHostWaits():
        energy_columns(y[:, 0], y_neg)
        noising_columns(noise.noised(y), noise.noised(y_neg), y, y_neg, signal, sigma)
        noising_columns(y, y_neg, y, y_neg, 0.8, 0.6)
        grad_shares(con, mse, stacks)
        with pytest.raises(HostWait):
            y.sum().item()
