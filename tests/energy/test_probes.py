"""The recorder's columns match their definitions in any trainer, and recording does not change the training."""

import numpy as np
import pytest
import torch
from drop_in import DROP_IN, run_drop_in
from hypothesis import given, settings
from hypothesis import strategies as st

from anm_nb.config import ParameterError
from anm_nb.energy.probes import Recorder


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def only_row(recorder):
    recorder.next_step()
    frame = recorder.frame()
    assert len(frame) == 1
    return frame.iloc[0]


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3)])
def test_energy_columns_match_numpy(shape):
    e_pos, e_neg = rand(7), rand(*shape, seed=1)
    recorder = Recorder()
    recorder.energies(e_pos.unsqueeze(1), e_neg)
    row = only_row(recorder)
    margin = (e_neg.double().reshape(7, -1).numpy() - e_pos.double().numpy()[:, None]).ravel()
    assert row["p_hard"] == pytest.approx((margin < 0).mean())
    assert row["margin_mean"] == pytest.approx(margin.mean(), rel=1e-5)
    for share in (25, 50, 75):
        assert row[f"margin_q{share}"] == pytest.approx(np.percentile(margin, share), rel=1e-4)
    assert row["loss_con"] == pytest.approx(np.logaddexp(0, -margin).mean(), rel=1e-5)
    assert row["e_neg"] - row["e_pos"] == pytest.approx(margin.mean(), rel=1e-4)
    assert row["non_finite_energies"] == 0


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), image=st.booleans(), per_entry=st.booleans())
def test_optimal_margins_are_those_of_the_optimal_energy(seed, image, per_entry):
    """m* equals the margin of E*(ỹ) = ‖ỹ − √ᾱy⁺‖²/(2σ), evaluated at both points in double precision."""
    shape = (6, 2, 3) if image else (6, 5)
    y, y_neg, eps = (rand(*shape, seed=seed + i) for i in range(3))
    alpha = torch.rand(6, generator=torch.Generator().manual_seed(seed)) * 0.98 + 0.01
    broad = alpha.reshape(-1, *[1] * (len(shape) - 1))
    noised, noised_neg = (broad.sqrt() * t + (1 - broad).sqrt() * eps for t in (y, y_neg))
    given_alpha = broad if per_entry else alpha
    recorder = Recorder()
    recorder.noising(noised, noised_neg, y, y_neg, given_alpha.sqrt(), (1 - given_alpha).sqrt())
    row = only_row(recorder)
    a = broad.double()
    optimal = [
        (((t.double() - a.sqrt() * y) ** 2) / (2 * (1 - a).sqrt())).flatten(1).sum(1) for t in (noised, noised_neg)
    ]
    margin = optimal[1] - optimal[0]
    assert row["optimal_margin_mean"] == pytest.approx(float(margin.mean()), rel=1e-3, abs=1e-4)
    if margin.abs().min() > 1e-3:
        assert row["illegitimate_fraction"] == pytest.approx(float((margin < 0).double().mean()))
    assert row["wrongness"] == pytest.approx(float((y_neg - y).flatten(1).norm(dim=1).mean()), rel=1e-5)
    lengths = [t.flatten(1).norm(dim=1).mean() for t in (y_neg, y)]
    assert row["negative_scale"] == pytest.approx(float(lengths[0] / lengths[1]), rel=1e-5)
    assert row["shared_noise_residual"] <= row["shared_noise_rounding"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_only_shared_noise_stays_within_rounding(dtype):
    """Section I.1 at every precision: the residual of shared noise is within rounding, that of other noise is not."""
    y, y_neg, eps, other = (rand(64, 8, seed=i).to(dtype) * 3 for i in range(4))
    alpha = torch.linspace(0.05, 0.95, 64, dtype=dtype)
    signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
    for noise, shared in ((eps, True), (other, False), (1.2 * eps, False)):
        recorder = Recorder()
        noised, noised_neg = (signal[:, None] * t + sigma[:, None] * n for t, n in ((y, eps), (y_neg, noise)))
        recorder.noising(noised, noised_neg, y, y_neg, signal, sigma)
        row = only_row(recorder)
        assert (row["shared_noise_residual"] <= row["shared_noise_rounding"]) == shared


def test_frames_have_a_row_per_recorded_step_and_only_the_called_columns():
    recorder = Recorder(every=2, gradients_every=4)
    assert recorder.frame().empty
    weight = torch.nn.Parameter(torch.ones(()))
    for step in range(6):
        recorder.losses(weight * step, weight * 0.5, [weight])
        if step == 3:
            recorder.score("accuracy", 0.25)
        recorder.next_step()
    recorder.score("accuracy", torch.tensor(0.75))
    frame = recorder.frame()
    assert frame["step"].tolist() == [0, 2, 3, 4, 6]
    assert frame["loss_mse"].dropna().tolist() == [0, 2, 4]
    assert frame["grad_norm_mse"].dropna().tolist() == [0, 4]
    assert frame["accuracy"].dropna().tolist() == [0.25, 0.75]
    assert set(frame) == {
        "step", "loss_mse", "loss_con_weighted", "grad_norm_mse", "grad_norm_con", "grad_share_contrast", "accuracy",
    }  # fmt: skip


def test_training_is_bit_identical_with_and_without_the_recorder():
    plain = "\n".join(line for line in DROP_IN.splitlines() if "recorder." not in line)
    without, recorded = run_drop_in(plain, steps=12), run_drop_in(steps=12)
    assert len(recorded["recorder"].frame()) == 12
    pairs = zip(without["net"].parameters(), recorded["net"].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Recorder(every=0), "every = 0"),
        (lambda: Recorder(gradients_every=-1), "gradients_every = -1"),
        (lambda: Recorder().score("step", 1.0), "score 'step'"),
        (lambda: Recorder().energies(torch.ones(3), torch.ones(2)), "e_pos has shape (3,) and e_neg (2,)"),
        (lambda: Recorder().noising(*[torch.ones(4, 3)] * 3, torch.ones(4, 2), 0.8, 0.6), "need the same"),
        (lambda: Recorder().noising(*[torch.ones(4, 3)] * 4, torch.ones(3, 1), 0.6), "signal has shape (3, 1)"),
        (lambda: Recorder().noising(*[torch.ones(4, 3)] * 4, 0.8, torch.ones(5)), "sigma has shape (5,)"),
    ],
)
def test_unusable_calls_are_refused_by_name(call, message):
    with pytest.raises(ParameterError) as refusal:
        call()
    assert message in str(refusal.value)
