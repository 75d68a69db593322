"""The ranking model: iterations, routing, gradients, and equivariance to the order of items."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anm_nb.config import ParameterError
from anm_nb.ranking.losses import ranknet_loss
from anm_nb.ranking.networks import (
    SCORE_DECIMALS,
    AttentionBlock,
    Controller,
    GatedCell,
    PointerDecoder,
    RankingModel,
    routing_entropy,
)
from anm_nb.ranking.train import RankingConfig
from anm_nb.training.seeds import generator, initialise

SMALL = {"width": 8, "n_heads": 2, "max_inner_iters": 4, "controller_width": 6, "deep_supervision": False}
ROUTINGS = [{}, {"routing": "sequence"}, {"routing": "uniform"}, {"slow_state": False}, {"routing": "random"}]
every_routing = pytest.mark.parametrize("options", ROUTINGS, ids=str)


def model(pointed=None, features=2, seed=0, **options):
    module = RankingModel(RankingConfig(**(SMALL | options)), features=features, pointed=pointed)
    initialise(module, generator(seed, "weights"))
    return module.double()


def inputs(batch=3, items=5, features=2, seed=0):
    x = torch.rand(batch, items, features, dtype=torch.float64, generator=generator(seed, "x")) * 2 - 1
    x[..., 1] = torch.tensor([0.0, 1, 0, 0, 1], dtype=torch.float64)[:items]
    return x


# ---- the block ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pre", [False, True])
def test_uniform_routing_matches_torchs_transformer_layer(pre):
    block = AttentionBlock(8, 2, pre).double()
    options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": pre}
    reference = nn.TransformerEncoderLayer(8, 2, 16, **options)
    initialise(block, generator(0, "weights"))
    theirs = {
        "self_attn.in_proj_": block.qkv,
        "self_attn.out_proj.": block.out,
        "linear1.": block.feedforward[0],
        "linear2.": block.feedforward[2],
        "norm1.": block.after_attention,
        "norm2.": block.after_feedforward,
    }
    reference.load_state_dict(
        {f"{name}{kind}": getattr(layer, kind) for name, layer in theirs.items() for kind in ("weight", "bias")}
    )
    z = torch.randn(3, 5, 8, dtype=torch.float64, generator=generator(0, "z"))
    expected = reference.double()(z)
    torch.testing.assert_close(block(z), expected)
    torch.testing.assert_close(block(z, torch.full((3, 5, 2), 0.5, dtype=torch.float64)), expected)


# ---- routing -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("routing", ["token", "sequence"])
def test_alpha_changes_the_output_and_zero_logits_mean_no_routing(routing):
    routed, uniform = model(routing=routing), model(routing="uniform")
    weights = {name: weight for name, weight in routed.state_dict().items() if not name.startswith("controller.")}
    uniform.load_state_dict(weights)
    alike = uniform(inputs())
    assert (alike.alphas == 0.5).all()
    assert ((routed(inputs()).scores - alike.scores).abs().amax((0, 2)) > 1e-4).all()
    for parameter in routed.controller.logits.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(routed(inputs()).scores, alike.scores)


# ---- iterations --------------------------------------------------------------------------------------------------


@every_routing
@pytest.mark.parametrize("iterations", [1, 2, 7])
def test_other_numbers_of_iterations_start_like_the_default_number(options, iterations):
    module = model(**options)
    for found, default in zip(module(inputs(), iterations), module(inputs()), strict=True):
        both = min(iterations, 4)
        dim = 0 if found.ndim == 1 else 1
        assert found.shape[dim] == iterations
        torch.testing.assert_close(found.narrow(dim, 0, both), default.narrow(dim, 0, both))


def test_numbers_of_iterations_without_blocks_are_refused():
    with pytest.raises(ParameterError, match="iterations = 5: allowed: 1 to 4, as each iteration has its own block"):
        model(routing="uniform", tied=False)(inputs(), 5)
    with pytest.raises(ParameterError, match="iterations = 0: allowed: at least 1"):
        model()(inputs(), 0)


@pytest.mark.parametrize("gradient", ["full", "last"])
@pytest.mark.parametrize("part", ["block", "controller"])
def test_the_gradient_reaches_every_iteration_or_the_last_only(gradient, part):
    module, outputs = model(gradient=gradient), []

    def note(of, inputs, output):
        outputs.append(output if part == "block" else output[0])
        if outputs[-1].requires_grad:
            outputs[-1].retain_grad()

    getattr(module, part).register_forward_hook(note)
    ranknet_loss(module(inputs()).scores[:, -1], torch.arange(5).expand(3, 5)).backward()
    reached = [each.grad is not None and float(each.grad.abs().max()) > 1e-9 for each in outputs]
    assert reached == ([True] * 4 if gradient == "full" else [False, False, False, True])


# ---- inputs ------------------------------------------------------------------------------------------------------
@settings(max_examples=30)
@given(st.permutations(range(5)), st.sampled_from(ROUTINGS))
def test_reordering_the_items_reorders_the_scores(order, options):
    module, x = model(features=4, **options), inputs(features=4)
    with torch.no_grad():
        torch.testing.assert_close(module(x[:, order]).scores, module(x).scores[..., list(order)])


def test_hidden_values_have_no_effect():
    module, x = model(), inputs()
    changed = x.clone()
    changed[..., 0] += 10 * x[..., 1]
    assert torch.equal(module(x).scores, module(changed).scores)
    assert not torch.equal(module(x).scores, module(x + torch.tensor([0.1, 0.0])).scores)


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (model, (3, 5, 1), r"x has shape \(3, 5, 1\); this model takes \[batch, items, 2\]"),
        (lambda: model(pointed=5), (3, 6, 2), r"x has shape \(3, 6, 2\); this model takes \[batch, 5, 2\]"),
    ],
)
def test_wrong_input_shapes_are_refused_by_name(make, shape, message):
    with pytest.raises(ParameterError, match=message):
        make()(torch.zeros(shape, dtype=torch.float64))


# ---- the published decoder ---------------------------------------------------------------------------------------
@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_the_pointer_decoder_walks_the_ranks_as_published(seed):
    decoder = PointerDecoder(8, 5).double()
    initialise(decoder, generator(0, "weights"))
    z = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=generator(seed, "z"))
    ranks = torch.randn(2, 1, 5, generator=generator(seed, "ranks")).argsort(-1)
    with torch.no_grad():
        logits, affinities, scores = decoder.logits(z, ranks), decoder.affinities(z), decoder(z)
    rounded = affinities.float().round(decimals=SCORE_DECIMALS)
    for row in range(2):
        order = ranks[row, 0].argsort().tolist()
        for rank in range(5):  # under teacher forcing, the items of earlier ranks are taken
            expected = affinities[row, :, rank].clone()
            expected[:, order[:rank]] = -torch.inf
            torch.testing.assert_close(logits[row, :, rank], expected)
        for iteration in range(3):  # greedy decoding takes the best free item at each rank
            free = set(range(5))
            for rank in range(5):
                best = max(sorted(free), key=lambda item: float(rounded[row, iteration, rank, item]))
                assert float(scores[row, iteration, best]) == 4 - rank
                free.remove(best)


# ---- the controller ----------------------------------------------------------------------------------------------
def controller(**options):
    settings = {"width": 8, "n_heads": 4, "controller_width": 5, "max_inner_iters": 9} | options
    module = Controller(RankingConfig(**settings)).double()
    initialise(module, generator(0, "weights"))
    return module


def tokens(batch=3, items=7, width=8):
    return torch.randn(batch, items, width, dtype=torch.float64, generator=generator(0, "tokens"))


def test_the_written_out_cell_matches_torchs_gru_cell():
    cell, reference = GatedCell(4, 3).double(), nn.GRUCell(4, 3).double()
    initialise(cell, generator(0, "weights"))
    for name, layer in {"ih": cell.input, "hh": cell.recurrent}.items():
        for kind in ("weight", "bias"):
            getattr(reference, f"{kind}_{name}").data = getattr(layer, kind).data
    x, h = tokens(2, 9, 4)[0], tokens(2, 9, 3)[1]
    torch.testing.assert_close(cell(x, h), reference(x, h))


def test_the_slow_state_moves_once_a_period_and_the_fast_one_always():
    module, z = controller(hrm_period=3), tokens()
    state = module.start(z)
    for iteration in range(7):
        _, after = module(z, state, iteration)
        assert not torch.equal(after[0], state[0])
        assert torch.equal(after[1], state[1]) == ((iteration + 1) % 3 != 0)
        state = after


def test_weights_are_a_distribution_over_heads_and_temperature_flattens_it():
    module, z = controller(), tokens()
    entropies = []
    for temperature in (0.1, 1.0, 10.0):
        module.temperature.fill_(temperature)
        alpha, _ = module(z, module.start(z), 0)
        torch.testing.assert_close(alpha.sum(-1), torch.ones(3, 7, dtype=torch.float64))
        entropies.append(float(routing_entropy(alpha).mean().detach()))
    assert entropies == sorted(entropies)
    assert entropies[-1] == pytest.approx(math.log(4), abs=1e-3)


@pytest.mark.parametrize("per_sequence", [True, False])
def test_routing_sees_its_own_token_or_the_whole_sequence(per_sequence):
    module, z = controller(routing="sequence" if per_sequence else "token"), tokens()
    alpha, _ = module(z, module.start(z), 0)
    assert torch.equal(alpha, alpha[:, :1].expand_as(alpha)) == per_sequence
    z[:, -1] += 1
    changed, _ = module(z, module.start(z), 0)
    assert torch.equal(changed[:, :-1], alpha[:, :-1]) != per_sequence
    assert not torch.equal(changed[:, -1], alpha[:, -1])
