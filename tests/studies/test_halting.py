"""Halting: every problem stops as soon as its ranking has settled, and what that saves is what is counted."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from anm_nb.config import ParameterError
from anm_nb.ranking.networks import SCORE_DECIMALS, ModelConfig, RankingModel, Refinement
from anm_nb.studies.halting import halting_table, ranking_of, refine_until_stable
from anm_nb.studies.ranking_cost import forward_flops
from anm_nb.tasks import get_task
from anm_nb.tasks.base import Batch
from anm_nb.training.seeds import generator, initialise

SETTLED = torch.tensor([1, 2, 5, 9, 100])  # iterations after which each problem's ranking is what it stays


class Scripted(RankingModel):
    """Reverses a ranking in every iteration up to that which the problem names as its value, and then no more."""

    def __init__(self):
        super().__init__(ModelConfig(width=1, n_heads=1, max_inner_iters=12, routing="uniform"))
        with torch.no_grad():
            self.decoder[0].weight.fill_(1)
            self.decoder[0].bias.zero_()

    def begin(self, x):
        return Refinement(x[..., :1], torch.zeros_like(x[..., :1]), torch.ones_like(x[..., :1]), None)

    def advance(self, now, iteration):
        swaps = now.encoded.clamp(max=iteration + 1)
        order = torch.arange(now.z.shape[1], dtype=now.z.dtype).unsqueeze(-1)
        # scores go on moving when their order does not
        return now._replace(z=order * (1 - 2 * (swaps % 2)) * (iteration + 1))


def scripted_problems():
    return SETTLED.float().reshape(-1, 1, 1).expand(-1, 4, 2)


def model(**options):
    small = {"width": 8, "n_heads": 2, "max_inner_iters": 10, "hrm_period": 2, "controller_width": 6}
    module = RankingModel(ModelConfig(**small | options))
    initialise(module, generator(0, "weights"))
    with torch.no_grad():
        for layer in (module.block.out, module.block.qkv, module.block.feedforward[2]):
            layer.weight.mul_(3)  # so that rankings take their time to settle
    return module


def problems(n=30):
    return get_task("partial_sort", size=7, mask_rate=0.3).sample(n, generator=generator(0, "problems"))


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_problem_stops_once_its_ranking_has_settled_and_answers_as_it_would_at_the_end(patience):
    halted = refine_until_stable(Scripted(), scripted_problems(), patience=patience)
    assert halted.iterations.tolist() == [min(12, settled + patience) for settled in SETTLED.tolist()]
    last = Scripted()(scripted_problems()).scores[:, -1]
    assert torch.equal(ranking_of(halted.scores), ranking_of(last))


@pytest.mark.parametrize("options", [{}, {"routing": "sequence"}, {"routing": "uniform"}, {"routing": "random"}])
@pytest.mark.parametrize("patience", [1, 3])
def test_problems_stop_where_their_own_rankings_say_so(options, patience):
    module, x = model(**options), problems().x
    halted = refine_until_stable(module, x, patience=patience, iterations=15)
    scores = module(x, 15).scores.detach().round(decimals=SCORE_DECIMALS)
    for problem, (own, used) in enumerate(zip(scores, halted.iterations.tolist(), strict=True)):
        signs = (own.unsqueeze(-1) - own.unsqueeze(-2)).sign()
        stable = [t for t in range(patience, 15) if (signs[t - patience : t] == signs[t]).all()]
        assert used == (stable[0] + 1 if stable else 15)
        torch.testing.assert_close(halted.scores[problem], own[used - 1], atol=2 * 10**-SCORE_DECIMALS, rtol=0)
    assert len(set(halted.iterations.tolist())) > 1


def test_saved_operations_are_those_not_made():
    module, x = model(), problems().x
    with FlopCounterMode(display=False) as made:
        halted = refine_until_stable(module, x, patience=2)
    assert made.get_total_flops() == sum(forward_flops(module, x[:1], used) for used in halted.iterations.tolist())
    assert made.get_total_flops() < forward_flops(module, x)


def test_the_table_compares_halting_with_all_iterations():
    ranks = torch.arange(4).flip(0).expand(5, 4)
    batch = Batch(scripted_problems(), ranks)
    table = halting_table(Scripted(), batch, (1, 3))
    assert math.isnan(float(table["patience"].astype(float)[0]))
    assert table["patience"].tolist()[1:] == [1, 3]
    assert table["iterations"].tolist() == pytest.approx([12, (2 + 3 + 6 + 10 + 12) / 5, (4 + 5 + 8 + 12 + 12) / 5])
    assert (table["same"] == 1).all()
    signs = [1 - 2 * (min(settled, 12) % 2) for settled in SETTLED.tolist()]
    assert table["tau_all"].tolist() == pytest.approx([sum(signs) / 5] * 3)
    module, batch = model(), problems()
    table = halting_table(module, batch, (2,), iterations=8).iloc[1]
    used = refine_until_stable(module, batch.x, patience=2, iterations=8).iterations.tolist()
    mean = sum(forward_flops(module, batch.x[:1], each) for each in used) / len(used)
    assert table["flops"] == pytest.approx(mean)
    assert table["saved"] == pytest.approx(1 - mean / forward_flops(module, batch.x[:1], 8))


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=6), st.lists(st.integers(-2, 2), min_size=1, max_size=6))
def test_rankings_are_equal_where_every_pair_is_ordered_alike(first, second):
    length = min(len(first), len(second))
    scores = torch.tensor([first[:length], second[:length]], dtype=torch.float64)
    one, other = (scores.unsqueeze(-1) - scores.unsqueeze(-2)).sign()
    rankings = ranking_of(scores)
    assert torch.equal(rankings[0], rankings[1]) == torch.equal(one, other)


def test_no_patience_is_refused():
    with pytest.raises(ParameterError, match="patience = 0: allowed: at least 1"):
        refine_until_stable(model(), problems().x, patience=0)
