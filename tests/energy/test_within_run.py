"""Notebook 11's hypothetical updates match the closed form for a linear energy."""

import torch
from first_step import begun, losses_at
from notebook_cells import names_of
from torch import nn

from anm_nb.energy.negatives import Random, Stock
from anm_nb.training.stack import ParameterGroup, Stack

NOTEBOOK = names_of("11_anm_within_run", "settings", "mixed", "configs", "losses", "negatives", "compare", "learner")
Mixed, WithinRunConfig, compare_updates = (NOTEBOOK[each] for each in ("Mixed", "WithinRunConfig", "compare_updates"))
NEAR, FAR = Random(eps=0.3), Stock()


def config(first=NEAR, second=FAR, cls=WithinRunConfig, **options):
    small = {"size": 2, "width": 8, "levels": 4, "dev_examples": 8, "seeds": [0], "inner_steps": 1}
    loop = {"steps": 4, "batch": 16, "record_every": 2, "lr": 1e-2}
    return cls(**small | loop | options, negatives=Mixed(first=first, second=second))


class Linear(nn.Module):
    """E = w·ỹ, whose score is w for every ỹ."""

    def __init__(self, dim):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-0.4, 0.5, dim))

    def forward(self, x, y, k):
        return y.as_subclass(torch.Tensor) @ self.w


def test_effects_of_sgd_updates_of_a_linear_energy_match_the_closed_form():
    """With d = ỹ⁻ − ỹ⁺, m = w·d, and a step of size η moves w by −η((2/D)(w − mean ε) − λ mean σ(−m) d)."""
    rate, weight = 0.2, 3.0
    learner = config(Random(eps=2.0), FAR, task="addition", contrastive_weight=weight, lr_final=1.0).learner(1)
    model = Linear(4)
    learner.model = Stack([model])
    learner.groups = [ParameterGroup("energy", learner.model, [model.w], torch.optim.SGD, rate, clip_norm=1e9)]
    training = begun(learner.config, 1, learner)
    losses = losses_at(training)
    effects = {column: values[0].double() for column, values in compare_updates(learner, training, losses).items()}

    contrast = losses.detail
    noise, y_pos = contrast.problem.noise, contrast.problem.y_pos
    signal, w = noise.schedule.signal(noise.k), model.w.detach().double()
    negatives = NOTEBOOK["negatives_of_updates"](learner, 0, contrast) | {"none": y_pos}
    shift = {update: (signal * (y_neg - y_pos)).double() for update, y_neg in negatives.items()}
    own = shift["mixed"]
    first = contrast.mined.log["mined"].bool()
    dev, dev_problem = learner.dev_negatives - learner.dev.y, learner.dev_problem
    dev = (dev_problem.noise.schedule.signal(dev_problem.noise.k) * dev).double()
    for place, d in enumerate(shift.values()):
        denoising = 2 / 4 * (w - noise.eps.double().mean(0))
        gradient = denoising - weight * (torch.sigmoid(-(d @ w)).unsqueeze(1) * d).mean(0)
        moved = -rate * gradient
        expected = {
            "margin": own @ w,
            "delta_margin": own @ moved,
            "delta_loss_con": torch.log1p(torch.exp(-(own @ (w + moved)))) - torch.log1p(torch.exp(-(own @ w))),
            "update_norm": moved.norm().expand(16),
            "delta_loss_mse": (
                (w + moved - noise.eps).square().mean() - (w - noise.eps).square().mean()
            ).expand(16),
            "delta_dev_margin": (dev @ moved).mean().expand(16),
        }  # fmt: skip
        for column, values in expected.items():
            by_kind = torch.stack([values[chosen].mean() for chosen in (first, ~first)])
            torch.testing.assert_close(effects[column][place], by_kind, rtol=1e-3, atol=1e-5, msg=f"{column} {place}")
    for one, other in ((0, 1), (1, 2), (2, 3)):  # updates differ by far more than the tolerance
        assert float((effects["delta_margin"][one] - effects["delta_margin"][other]).abs().min()) > 1e-3
