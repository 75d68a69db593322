"""The ranking model: what iterates, what routes, what gets a gradient, and that no position leaks."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anm_nb.config import ParameterError
from anm_nb.ranking.losses import ranknet_loss
from anm_nb.ranking.networks import SCORE_DECIMALS, AttentionBlock, ModelConfig, PointerDecoder, RankingModel
from anm_nb.training.seeds import generator, initialise

SMALL = {"width": 8, "n_heads": 2, "max_inner_iters": 4, "hrm_period": 2, "controller_width": 6}
BASELINE = SMALL | {"routing": "uniform", "max_inner_iters": 1}


def model(decoder="score", features=2, size=5, **options):
    module = RankingModel(ModelConfig(**(SMALL | options)), features=features, decoder=decoder, size=size)
    initialise(module, generator(0, "weights"))
    return module.double()


def inputs(batch=3, items=5, seed=0):
    values = torch.rand(batch, items, 1, dtype=torch.float64, generator=generator(seed, "x")) * 2 - 1
    hidden = torch.tensor([0.0, 1, 0, 0, 1], dtype=torch.float64)[:items].expand(batch, items).unsqueeze(-1)
    return torch.cat([values * (1 - hidden), hidden], dim=-1)


class Untied(nn.Module):
    """A block with parameters of its own for every call: shows which iteration a gradient reaches."""

    def __init__(self, block, calls):
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(block) for _ in range(calls))
        self.call = 0

    def forward(self, *arguments):
        self.call += 1
        return self.copies[self.call - 1](*arguments)

    def gradients(self):
        """Largest gradient of each call's copy; 0 where none arrived."""
        return [
            max((float(p.grad.abs().max()) for p in block.parameters() if p.grad is not None), default=0.0)
            for block in self.copies
        ]


def test_uniform_routing_is_torchs_transformer_layer():
    block = AttentionBlock(8, 2).double()
    reference = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
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


def test_alpha_scales_each_tokens_head_outputs():
    block = AttentionBlock(8, 2).double()
    initialise(block, generator(0, "weights"))
    z = torch.randn(1, 5, 8, dtype=torch.float64, generator=generator(0, "z"))
    first_head = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(1, 5, 2)
    silenced = copy.deepcopy(block)
    with torch.no_grad():
        silenced.out.weight[:, 4:] = 0  # nothing of the second head gets through …
        silenced.out.weight[:, :4] *= 2  # … and the first one counts heads·α = 2
    torch.testing.assert_close(block(z, first_head), silenced(z))


@pytest.mark.parametrize("routing", ["token", "sequence"])
def test_alpha_changes_the_output(routing):
    routed = model(routing=routing)
    uniform = copy.deepcopy(routed)
    uniform.controller = None
    with torch.no_grad():
        by_controller, alike = routed(inputs()), uniform(inputs())
    assert (alike.alphas == 0.5).all()
    assert ((by_controller.scores - alike.scores).abs().amax((0, 2)) > 1e-4).all()


def test_the_baseline_is_the_same_model_without_iteration():
    iterated = model(routing="uniform")
    once = RankingModel(ModelConfig(**BASELINE)).double()
    once.load_state_dict(iterated.state_dict())
    torch.testing.assert_close(once(inputs()).scores[:, 0], iterated(inputs()).scores[:, 0])
    routed = {name for name, _ in model().named_parameters()}
    assert {name for name, _ in once.named_parameters()} == {n for n in routed if not n.startswith("controller.")}
    assert once.controller_parameters() == []


@settings(max_examples=30)
@given(st.permutations(range(5)), st.sampled_from(["token", "sequence", "uniform"]))
def test_reordering_the_items_reorders_the_scores(order, routing):
    module, x = model(routing=routing), inputs()
    with torch.no_grad():
        torch.testing.assert_close(module(x[:, order]).scores, module(x).scores[..., list(order)])


def test_hidden_values_do_not_enter():
    module, x = model(), inputs()
    changed = x.clone()
    changed[..., 0] += 10 * x[..., 1]
    assert torch.equal(module(x).scores, module(changed).scores)
    assert not torch.equal(module(x).scores, module(x + torch.tensor([0.1, 0.0])).scores)


@pytest.mark.parametrize("gradient", ["full", "last"])
@pytest.mark.parametrize("part", ["block", "controller"])
def test_the_gradient_reaches_every_iteration_or_the_last_only(gradient, part):
    module = model(gradient=gradient)
    untied = Untied(getattr(module, part), 4)
    if part == "controller":
        untied.start = module.controller.start
    setattr(module, part, untied)
    scores = module(inputs()).scores
    ranks = torch.arange(5).expand(3, 1, 5)
    (ranknet_loss(scores, ranks) if gradient == "full" else ranknet_loss(scores[:, -1], ranks[:, 0])).backward()
    reached = [gradient > 1e-9 for gradient in untied.gradients()]
    assert reached == ([True] * 4 if gradient == "full" else [False, False, False, True])


def test_with_full_gradient_a_loss_on_one_iteration_reaches_exactly_those_up_to_it():
    for supervised in range(4):
        module = model()
        module.block = untied = Untied(module.block, 4)
        ranknet_loss(module(inputs()).scores[:, supervised], torch.arange(5).expand(3, 5)).backward()
        assert [gradient > 1e-9 for gradient in untied.gradients()] == [t <= supervised for t in range(4)]


def test_entropies_are_differentiable_means_of_the_routing_entropy():
    module = model()
    output = module(inputs())
    expected = -(output.alphas * output.alphas.log()).sum(-1).mean((0, 2))
    torch.testing.assert_close(output.entropies, expected)
    output.entropies.mean().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in module.controller.logits.parameters() if p.dim() > 1)


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_teacher_forcing_decodes_every_rank_at_once(seed):
    decoder = PointerDecoder(8, 5).double()
    initialise(decoder, generator(0, "weights"))
    z = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=generator(seed, "z"))
    ranks = torch.randn(2, 1, 5, generator=generator(seed, "ranks")).argsort(-1)
    logits, affinities = decoder.logits(z, ranks), decoder.affinities(z)
    for row in range(2):
        order, taken = ranks[row, 0].argsort().tolist(), set()
        for rank, item in enumerate(order):  # the published walk over ranks
            for candidate in range(5):
                expected = affinities[row, :, rank, candidate]
                if candidate in taken:
                    expected = torch.full_like(expected, -torch.inf)
                torch.testing.assert_close(logits[row, :, rank, candidate], expected)
            taken.add(item)


@given(st.integers(0, 10**6))
def test_greedy_decoding_takes_the_best_free_item_at_each_rank(seed):
    decoder = PointerDecoder(8, 5).double()
    initialise(decoder, generator(0, "weights"))
    z = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=generator(seed, "z"))
    scores, affinities = decoder(z), decoder.affinities(z).float().round(decimals=SCORE_DECIMALS)
    for row in range(2):
        for iteration in range(3):
            free = set(range(5))
            for rank in range(5):
                best = max(sorted(free), key=lambda item: float(affinities[row, iteration, rank, item].detach()))
                assert float(scores[row, iteration, best]) == 4 - rank
                free.remove(best)


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (model, (3, 5, 1), r"x has shape \(3, 5, 1\); this model takes \[batch, items, 2\]"),
        (lambda: model("pointer"), (3, 6, 2), r"x has shape \(3, 6, 2\); this model takes \[batch, 5, 2\]"),
    ],
)
def test_inputs_of_another_shape_are_refused_by_name(make, shape, message):
    with pytest.raises(ParameterError, match=message):
        make()(torch.zeros(shape, dtype=torch.float64))


def test_what_it_cannot_build_is_refused_by_name():
    for options, message in (({"routing": "tokens"}, "did you mean 'token'"), ({"hrm_period": 0}, "hrm_period = 0")):
        with pytest.raises(ParameterError, match=message):
            ModelConfig(**(SMALL | options))
    with pytest.raises(ParameterError, match="features = 0: allowed: 1"):
        RankingModel(ModelConfig(**SMALL), features=0)
    with pytest.raises(ParameterError, match="a pointer decoder needs the number of items"):
        RankingModel(ModelConfig(**SMALL), decoder="pointer")
