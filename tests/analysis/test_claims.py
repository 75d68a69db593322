"""Verdicts on claims: each kind, the reductions of training curves, ratios, power, and curves of unequal length."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from anm_nb.analysis.claims import Claim, judge
from anm_nb.analysis.stats import detectable_effect
from anm_nb.cases import verdicts_in
from anm_nb.config import ParameterError

SEEDS = 6


def frame(**means: float) -> pd.DataFrame:
    """Metrics of methods whose error falls from 1 to about the given mean, with a spread of 0.01 over seeds."""
    spread = np.random.default_rng(0).normal(0, 0.01, (len(means), SEEDS))
    rows = [
        {"method": method, "seed": seed, "step": step, "mse": (1.0 if step == 0 else mean + spread[place, seed])}
        for place, (method, mean) in enumerate(means.items())
        for seed in range(SEEDS)
        for step in (0, 10, 100)
    ]
    return pd.DataFrame(rows)


def verdict(claim: Claim, table: pd.DataFrame, **options: Any) -> str:
    return judge([claim], table, **options).table["verdict"].item()


def test_each_verdict():
    clear, equal = frame(anm=0.2, stock=0.4), frame(anm=0.3, stock=0.3)
    assert verdict(Claim("a", "mse", "anm", "stock"), clear) == "supported"
    assert verdict(Claim("a", "mse", "stock", "anm"), clear) == "refuted"
    assert verdict(Claim("a", "mse", "anm", 0.3), clear) == "supported"
    assert verdict(Claim("a", "mse", "anm", "stock"), equal) == "undecided"
    assert verdict(Claim("a", "mse", "anm", "stock", margin=0.1), equal) == "equivalent"
    assert verdict(Claim("a", "mse", "anm", "stock", margin=1e-4), equal) == "undecided"
    assert verdict(Claim("a", "mse", "anm", "stock"), clear, trivial=0.1) == "not trained long enough"
    assert verdict(Claim("a", "mse", "anm", "stock"), clear, trivial=0.3) == "supported"
    assert verdict(Claim("a", "mse", "anm", "stock"), clear[clear["seed"] < 2]) == "undecided"
    assert verdict(Claim("a", "mse", "anm", "random"), clear) == "not measured"
    assert verdict(Claim("a", "p_hard", "anm", "stock"), clear) == "not measured"


def test_reductions_read_the_curve():
    table = frame(anm=0.2, stock=0.4)
    last = table[table["step"] == 100].drop(columns="step")  # one value per seed needs no step
    assert verdict(Claim("a", "mse", "anm", "stock"), last) == "supported"
    at_start = judge([Claim("a", "mse", "anm", "stock", reduction=0)], table).table.iloc[0]
    early = judge([Claim("a", "mse", "anm", "stock", reduction="early area")], table).table.iloc[0]
    assert at_start["estimate"] == 0
    assert early["estimate"] == pytest.approx((0.2 - 0.4) / 2, abs=0.02)
    with pytest.raises(ParameterError, match="did you mean 'final'"):
        judge([Claim("a", "mse", "anm", "stock", reduction="finale")], table)


def test_verdicts_are_displayed_and_collected_from_notebook_outputs():
    claim = Claim("mining helps", "mse", "anm", "stock", section="J", expects="less")
    bundle = judge([claim], frame(anm=0.2, stock=0.4))._repr_mimebundle_()
    assert "supported" in bundle["text/plain"]
    assert "mining helps" in bundle["text/html"]
    outputs = [{"data": json.loads(json.dumps(bundle))}]
    (row,) = verdicts_in({"cells": [{"outputs": outputs}, {"cell_type": "markdown"}]})
    assert (row["verdict"], row["section"], row["seeds"]) == ("supported", "J", SEEDS)


def curves(**errors: list[float]) -> pd.DataFrame:
    """Errors of each method at steps 0, 10, 20 … 100, with a small random shift for each of six seeds."""
    spread = np.random.default_rng(1).normal(0, 0.003, (len(errors), SEEDS))
    return pd.DataFrame(
        {"method": method, "seed": seed, "step": 10 * place, "mse": error + spread[row, seed]}
        for row, (method, values) in enumerate(errors.items())
        for seed in range(SEEDS)
        for place, error in enumerate(values)
    )


FALLING = [1 - 0.1 * place for place in range(11)]
SLOW = [1 - 0.05 * place for place in range(11)]


def test_steps_to_a_threshold_count_the_seeds_that_never_reach_it():
    row = judge([Claim("a", "mse", "fast", "slow", reduction="steps to 0.72")], curves(fast=FALLING, slow=SLOW))
    assert row.table["verdict"].item() == "supported"
    assert row.table["estimate"].item() == 30 - 60
    row = judge([Claim("a", "mse", "fast", "slow", reduction="steps to 0.25")], curves(fast=FALLING, slow=SLOW))
    measured = row.table["measured"].item()
    assert "fast 80.0 (0 of 6 seeds not before the end) against slow 100 (6 of 6 seeds not before the end);" in measured
    assert row.table["estimate"].item() == 80 - 100
    with pytest.raises(ParameterError, match=r"'steps to much'; known: .*steps to THRESHOLD"):
        judge([Claim("a", "mse", "fast", "slow", reduction="steps to much")], curves(fast=FALLING, slow=SLOW))


def test_the_area_from_trivial_starts_where_the_first_method_beats_the_trivial_score():
    table = curves(fast=FALLING, slow=SLOW)
    claim = Claim("a", "mse", "fast", "slow", reduction="area from trivial")
    row = judge([claim], table, trivial=0.55).table.iloc[0]  # fast passes it at step 50
    assert row["estimate"] == pytest.approx(np.mean(FALLING[5:8]) - np.mean(SLOW[5:8]), abs=0.01)
    assert judge([claim], table, trivial=-1.0).table["verdict"].item() == "not trained long enough"
    with pytest.raises(ParameterError, match="judge needs trivial or references"):
        judge([claim], table)


def test_a_ratio_and_its_margin_are_in_per_cent():
    table = frame(anm=0.40, stock=0.41)
    row = judge([Claim("a", "mse", "anm", "stock", ratio=True, margin=10)], table).table.iloc[0]
    plain = judge([Claim("a", "mse", "anm", "stock")], table).table.iloc[0]
    assert (row["verdict"], row["unit"], row["p"]) == ("equivalent", "%", plain["p"])
    assert row["estimate"] == pytest.approx(100 * plain["estimate"] / 0.41, rel=0.05)
    assert row["low"] < row["estimate"] < row["high"]


def test_the_detectable_difference_is_given_at_the_corrected_level():
    table = frame(a=0.3, b=0.3, c=0.3)
    family = [Claim(str(n), "mse", "a", "b", primary=True) for n in range(5)]
    row = judge([*family, Claim("x", "mse", "a", "b", primary=False)], table).table
    assert row["verdict"].eq("undecided").all()
    spread = row["detectable"].iloc[-1] / detectable_effect(SEEDS)
    assert row["detectable"].iloc[0] == pytest.approx(spread * detectable_effect(SEEDS, alpha=0.05 / 5))
    assert "would have been found with 80 % power, corrected for 5 claims" in row["measured"].iloc[0]
    assert row["measured"].iloc[-1].endswith("with 80 % power")
    assert (row["detectable_low"] < row["detectable"]).all()


def test_runs_of_different_length_are_compared_at_their_last_steps():
    row = judge([Claim("a", "mse", "long", "short")], curves(short=FALLING[:6], long=FALLING)).table.iloc[0]
    assert row["estimate"] == pytest.approx(0.0 - 0.5, abs=0.01)
    table = curves(fast=FALLING, slow=SLOW)
    stopped = table[(table["seed"] > 1) | (table["step"] <= 70)]
    row = judge([Claim("a", "mse", "fast", "slow")], stopped).table.iloc[0]
    assert row["seeds"] == SEEDS
