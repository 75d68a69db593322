"""Claims as rows: what is supported, refuted, equivalent, undecided, and what was not trained long enough."""

import numpy as np
import pandas as pd
import pytest

from anm_nb.analysis.claims import Claim, judge
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


def verdict(claim: Claim, table: pd.DataFrame, **options: float) -> str:
    return judge([claim], table, **options).table["verdict"].item()


def test_a_clear_difference_decides_and_its_opposite_refutes():
    table = frame(anm=0.2, stock=0.4)
    assert verdict(Claim("a", "mse", "anm", "stock"), table) == "supported"
    assert verdict(Claim("a", "mse", "stock", "anm"), table) == "refuted"
    assert verdict(Claim("a", "mse", "anm", 0.3), table) == "supported"


def test_equal_methods_are_undecided_without_a_margin_and_equivalent_with_one():
    table = frame(anm=0.3, stock=0.3)
    assert verdict(Claim("a", "mse", "anm", "stock"), table) == "undecided"
    assert verdict(Claim("a", "mse", "anm", "stock", margin=0.1), table) == "equivalent"
    assert verdict(Claim("a", "mse", "anm", "stock", margin=1e-4), table) == "undecided"


def test_methods_no_better_than_the_trivial_score_are_not_judged():
    table = frame(anm=0.2, stock=0.4)
    assert verdict(Claim("a", "mse", "anm", "stock"), table, trivial=0.1) == "not trained long enough"
    assert verdict(Claim("a", "mse", "anm", "stock"), table, trivial=0.3) == "supported"


def test_few_seeds_and_methods_that_are_not_there_decide_nothing():
    table = frame(anm=0.2, stock=0.4)
    assert verdict(Claim("a", "mse", "anm", "stock"), table[table["seed"] < 2]) == "undecided"
    assert verdict(Claim("a", "mse", "anm", "random"), table) == "not measured"
    assert verdict(Claim("a", "p_hard", "anm", "stock"), table) == "not measured"


def test_primary_claims_are_corrected_together():
    table = frame(a=0.300, b=0.3045, c=0.3, d=0.3)
    alone = [Claim("x", "mse", "a", "b", primary=True)]
    together = alone + [Claim(str(n), "mse", "c", "d", primary=True) for n in range(200)]
    first = judge(alone, table).table.iloc[0]
    among = judge(together, table).table.iloc[0]
    assert among["p_holm"] >= first["p_holm"]
    assert (first["p"], first["estimate"]) == (among["p"], among["estimate"])


def test_reductions_read_the_curve():
    table = frame(anm=0.2, stock=0.4)
    at_start = judge([Claim("a", "mse", "anm", "stock", reduction=0)], table).table.iloc[0]
    early = judge([Claim("a", "mse", "anm", "stock", reduction="early area")], table).table.iloc[0]
    assert at_start["estimate"] == 0
    assert early["estimate"] == pytest.approx((0.2 - 0.4) / 2, abs=0.02)
    with pytest.raises(ParameterError, match="did you mean 'final'"):
        judge([Claim("a", "mse", "anm", "stock", reduction="finale")], table)


def test_a_table_without_steps_has_one_value_a_seed():
    rows = pd.DataFrame(
        {"method": ["x"] * 4 + ["y"] * 4, "seed": [0, 1, 2, 3] * 2, "slope": [1, 2, 3, 4, 3, 4, 5, 6.5]}
    )
    assert verdict(Claim("a", "slope", "x", "y"), rows) == "supported"


def test_verdicts_show_themselves_and_are_collected_as_rows():
    shown = judge(
        [Claim("mining helps", "mse", "anm", "stock", section="J", expects="less")], frame(anm=0.2, stock=0.4)
    )
    bundle = shown._repr_mimebundle_()
    assert "supported" in bundle["text/plain"]
    assert "mining helps" in bundle["text/html"]
    (row,) = next(value for kind, value in bundle.items() if "json" in kind)["verdicts"]
    assert (row["verdict"], row["section"], row["seeds"]) == ("supported", "J", SEEDS)
