"""Each failure signature is found in metrics that show it, healthy metrics have none, and changes can be applied."""

import numpy as np
import pandas as pd
import pytest

from anm_nb.analysis.doctor import SIGNATURES, examine, unexamined
from anm_nb.config import ParameterError
from anm_nb.energy.train import EnergyConfig


def names(findings):
    return [finding.signature for finding in findings]


def test_healthy_runs_have_no_findings(tmp_path):
    small = {"size": 3, "width": 24, "levels": 6, "dev_examples": 8, "inner_steps": 1, "seeds": (0,), "batch": 24}
    loop = {"steps": 30, "lr": 5e-3, "records": 10, "ema_decay": 0.9}
    config = EnergyConfig(**small, **loop, negatives="anm_orthogonal")
    assert examine(config.train(tmp_path).metrics, config.model_dump(mode="json")) == []


# synthetic frames


def healthy(seeds=3, rows=20):
    """Metrics without any signature, with every column that signatures read."""
    frame = pd.DataFrame([(seed, step) for seed in range(seeds) for step in range(rows)], columns=["seed", "step"])
    step, wave = frame["step"], 0.02 * np.sin(frame["step"] + frame["seed"])
    waving = {"loss_con": 0.6, "margin_mean": 0.3, "margin_q25": 0.1, "grad_share_contrast": 0.4}
    waving |= {"illegitimate_fraction": 0.1, "mined_drop": 0.2, "wrongness": 1.0, "negative_scale": 1.3}
    still = {"shared_noise_residual": 1e-7, "shared_noise_rounding": 2e-6, "ema_gradient": 0.0, "armijo_slack": 1e-5}
    still |= {"miner_accepted": 3.0, "miner_backtracks": 0.5, "miner_limit_hits": 0.01}
    still |= {"miner_non_finite": 0.0, "non_finite_energies": 0.0}
    return frame.assign(
        **{name: value + wave for name, value in waving.items()},
        **still,
        loss_mse=0.2 + 0.8 * np.exp(-step) + wave,
        e_pos=20 * (1 - np.exp(-step / 2)) + wave,
        e_neg=20.3 * (1 - np.exp(-step / 2)) + wave,
        loss_con_weighted=0.5 * (0.6 + wave),
    )


NOT_MINED = {"miner_accepted": 0.0, "miner_backtracks": 0.0, "mined_drop": 0.0}
ILL = {
    "mostly illegitimate negatives": {"illegitimate_fraction": 0.9},
    "negative noised a second time, or with other noise": {"shared_noise_residual": 0.8},
    "gradient in the EMA weights": {"ema_gradient": 0.1},
    "negatives equal to the truth": {"wrongness": 3e-7},
    "contrastive loss switched off": {"loss_con_weighted": 0.0},
    "pairs ranked the wrong way round": {"loss_con": 2.0},
    "mined toward higher energy": {"mined_drop": -0.1},
    "unstable miner": {"miner_backtracks": 4.0},
    "gradient collapse": {"loss_mse": 0.97, "grad_share_contrast": 0.95},
    "contrastive loss dominates": {"grad_share_contrast": 0.997},
    "miner off the data scale": {"negative_scale": 5.0},
    "too-easy negatives": {"margin_mean": 60.0, "e_neg": 80.0},
    "contrastive loss saturated": {"loss_con": 1e-3},
    "flat margins and tiny gradient share": {"grad_share_contrast": 0.01},
    "energies rise uniformly": {
        "loss_mse": 0.2,
        "e_pos": np.tile(20 + np.arange(20) ** 2.0, 3),
        "e_neg": np.tile(21 + np.arange(20) ** 2.0, 3),
    },
}


def test_a_healthy_frame_has_no_findings_whatever_columns_it_lacks():
    frame = healthy()
    assert examine(frame) == []
    assert examine(frame[frame["seed"] == 1].drop(columns=["seed", "step"])) == []
    for column in frame.columns[2::4]:
        assert examine(frame.drop(columns=column)) == []
    for little in (pd.DataFrame(), frame[["seed", "step"]], frame.head(1)):
        assert examine(little) == []


@pytest.mark.parametrize("signature", ILL)
def test_each_signature_is_found_alone(signature):
    (finding,) = examine(healthy().assign(**ILL[signature]))
    assert finding.signature == signature
    assert finding.confidence == "high"
    assert "3 of 3 seeds" in finding.evidence
    for column in ILL[signature]:
        assert column in finding.evidence


@pytest.mark.parametrize(
    ("signature", "columns"),
    [
        ("unstable miner", {"miner_limit_hits": 0.6}),
        ("unstable miner", {"armijo_slack": -1.0}),
        ("unstable miner", {"miner_non_finite": [0.0] * 59 + [0.1]}),
        ("unstable miner", {"non_finite_energies": [0.1] + [0.0] * 59}),
        ("contrastive loss saturated", {"margin_q25": 6.0}),
        ("contrastive loss switched off", {"contrastive_weight": 0.0}),
        ("contrastive loss switched off", {"grad_share_contrast": 0.0}),
        ("contrastive loss switched off", {"loss_con_weighted": 0.0, "grad_share_contrast": 0.0, "loss_con": 1.8}),
        ("negatives equal to the truth", {"wrongness": 0.0, "grad_share_contrast": 0.0, "margin_mean": 0.0}),
        ("pairs ranked the wrong way round", {"loss_con": 0.8} | NOT_MINED),
    ],
)
def test_each_further_sign_reveals_its_signature(signature, columns):
    assert names(examine(healthy().assign(**columns))) == [signature]


@pytest.mark.parametrize(
    "columns",
    [
        {"grad_share_contrast": 0.01, "margin_mean": np.tile(np.linspace(0, 3, 20), 3)},  # tiny share, growing margins
        {"loss_mse": 0.97},  # nothing learnt, but the contrastive loss is not the cause
        {"loss_con": 0.9, "loss_con_weighted": 0.45, "p_hard": 0.8},  # mined negatives keep the loss above ln 2
        {"loss_con": 5.0, "loss_con_weighted": 2.5, "p_hard": 0.1},  # a few pairs cost a lot
        {"margin_mean": 12.0, "e_neg": 32.0},  # large margins, yet smaller than the energy itself
        {"e_pos": np.tile(20 + np.arange(20) ** 2.0, 3)},  # one energy rises alone
    ],
)
def test_a_part_of_a_signature_is_no_finding(columns):
    assert examine(healthy().assign(**columns)) == []


# which signatures could be examined


def test_missing_columns_are_reported_and_the_others_suffice():
    """A signature is found with only its own columns present; without one of them, that column is reported missing."""
    assert [signature.name for signature in SIGNATURES] == list(ILL)
    assert unexamined(healthy()) == {}
    assert set(unexamined(pd.DataFrame({"seed": [0], "step": [0]}))) == set(ILL)
    for signature in SIGNATURES:
        needs = [
            {name.removesuffix("_rise").removesuffix("_growth") for name in sign.columns} for sign in signature.signs
        ]
        needed = min((each for each in needs if set(ILL[signature.name]) & each), key=len)
        alone = healthy().assign(**ILL[signature.name])[["seed", "step", *sorted(needed)]]
        assert signature.name not in unexamined(alone)
        assert signature.name in names(examine(alone))
        assert all(column in unexamined(alone.drop(columns=column))[signature.name] for column in needed)


def test_early_steps_are_not_judged_except_for_bugs():
    early = healthy()["step"] <= 3
    frame = healthy().assign(illegitimate_fraction=np.where(early, 1.0, 0.1), ema_gradient=np.where(early, 1.0, 0.0))
    assert names(examine(frame)) == ["gradient in the EMA weights"]


# proposed changes


def test_changes_are_computed_from_present_values_or_given_as_factors():
    given = EnergyConfig(negatives="anm", contrastive_weight=0.2).model_dump(mode="json")
    frame = healthy().assign(grad_share_contrast=0.02, miner_backtracks=9.0, margin_mean=60.0, e_neg=80.0)
    easy = {f"negatives.miner.{n}": v for n, v in {"steps": 2, "eps": 0.5, "start": 0.25, "delta": 0.05}.items()}
    changes = {finding.signature: finding.change for finding in examine(frame, given)}
    assert changes["too-easy negatives"] == easy
    # r/(1 − r) is 0.02/0.98 at a weight of 0.2 and grows with it; 0.3/0.7 takes 21 times that weight
    assert changes["flat margins and tiny gradient share"] == {"contrastive_weight": pytest.approx(4.2)}
    assert "contrastive_weight = present × 21" in str(examine(frame, given | {"contrastive_weight": None})[-1])
    assert "negatives.miner.eps = present × 0.5" in str(examine(frame)[0])
    assert all(finding.change == {} for finding in examine(frame, {"steps": 80}))


def test_metrics_of_several_runs_are_refused():
    frame = pd.concat([healthy().assign(method=method) for method in ("anm", "stock")])
    with pytest.raises(ParameterError, match="seed 0 has step 0 more than once"):
        examine(frame)
