"""Seeds and configs in one stack pass through the same states as each alone."""

import numpy as np
import pandas as pd
import pytest
import torch
from families import CASES, config_of, energy, ranking

from anm_nb.training.run import train_together

SEEDS = (3, 0)
# They differ from another case only in a row-wise formula, or in a network that a third case covers.
BESIDE = ("stock as released", "random, orthogonal", "anm, linf", "anm_simplex", "anm_simplex on boards")


@pytest.fixture(autouse=True)
def double(monkeypatch):
    """Use double precision, where rounding is far smaller than the effect of a mistake.

    In float32, Adam takes full-length steps even along gradients that consist of rounding errors only.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trained(configs, folder):
    """Train all configs in one stack; return each one's result."""
    folders = [folder / str(index) for index in range(len(configs))]
    for each in folders:
        each.mkdir(parents=True)
    return train_together(configs, folders)


def assert_close(together, alone, rtol=1e-6, atol=1e-8):
    """Compare one config's seeds, trained in a stack and alone, up to rounding."""
    signs = ["p_hard", "dev_p_hard"]  # count signs of rounding errors where a negative is the truth
    rows = pd.concat([each.metrics for each in alone], ignore_index=True).drop(columns=signs, errors="ignore")
    pd.testing.assert_frame_equal(together.metrics.drop(columns=signs, errors="ignore"), rows, rtol=rtol, atol=atol)
    for place, each in enumerate(alone):
        for name, tensor in each.trace.items():
            torch.testing.assert_close(
                together.trace[name][place], tensor[0], rtol=rtol, atol=atol, equal_nan=True, msg=name
            )
        for name, tensor in each.weights.items():
            torch.testing.assert_close(together.weights[name], tensor, rtol=rtol, atol=atol, msg=name)


@pytest.mark.parametrize("name", [name for name in CASES if name.removeprefix("energy: ") not in BESIDE])
def test_a_stack_trains_like_each_seed_alone(name, tmp_path):
    few = {"steps": 4} if name.startswith("energy") else {"epochs": 2}
    (together,) = trained([config_of(name, SEEDS, **few)], tmp_path / "together")
    alone = [trained([config_of(name, (seed,), **few)], tmp_path / str(seed))[0] for seed in SEEDS]
    assert_close(together, alone)
    ends = together.metrics.groupby("seed", sort=False).last()
    assert ends.index.tolist() == list(SEEDS)
    loss = "loss_rank" if "loss_rank" in ends else "loss_mse"
    assert ends[loss].nunique() == len(SEEDS)  # the trainings differ


ONE_STACK = {
    "contrastive weights": [
        energy((0, 1), negatives="stock", contrastive_weight=0.5, steps=4),
        energy((1,), negatives="stock", contrastive_weight=0.0, steps=4),
    ],
    "learning rates": [
        energy((0, 1), negatives="stock", lr=1e-3, contrastive_weight=0.5, steps=4),
        energy((1,), negatives="stock", lr=2e-2, contrastive_weight=0.1, steps=4),
    ],
    "temperature": [ranking(), ranking((1,), temperature=5.0, temperature_min=0.1, temperature_decay=0.3)],
    "entropy weight": [ranking(), ranking(entropy_weight=0.3, entropy_every=1, entropy_decay=0.9)],
}


@pytest.mark.parametrize("name", ONE_STACK)
def test_configs_that_differ_in_scheduled_numbers_train_like_each_alone(name, tmp_path):
    configs = ONE_STACK[name]
    together, ends = trained(configs, tmp_path / "together"), []
    for index, (config, trained_config) in enumerate(zip(configs, together, strict=True)):
        single = [config.model_copy(update={"seeds": (seed,)}) for seed in config.seeds]
        alone = [trained([each], tmp_path / f"{index}-{each.seeds[0]}")[0] for each in single]
        assert_close(trained_config, alone)
        ends.append(sum(float(each.sum()) for name, each in trained_config.weights.items() if ".model." in name))
    assert len(set(ends)) == len(ends)


@pytest.mark.parametrize(("make", "options"), [(energy, {"negatives": "anm", "steps": 2}), (ranking, {"epochs": 1})])
def test_bfloat16_follows_float32_in_its_first_steps(make, options, tmp_path, monkeypatch):
    monkeypatch.undo()
    torch.set_default_dtype(torch.float32)
    plain, rough = (
        trained([make(precision=precision, **options)], tmp_path / precision)[0]
        for precision in ("float32", "bfloat16")
    )
    losses = [name for name in plain.metrics if name.startswith(("loss_", "grad_norm"))]
    first = plain.metrics["step"] <= plain.metrics["step"].unique()[1]
    pd.testing.assert_frame_equal(
        rough.metrics.loc[first, losses], plain.metrics.loc[first, losses], rtol=0.15, atol=1e-2
    )
    assert not np.array_equal(rough.metrics[losses[0]], plain.metrics[losses[0]])  # bfloat16 was really used
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in rough.weights.values())
