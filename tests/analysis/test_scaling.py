"""Exponents, memory lines and verdicts over tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from anm_nb.analysis import cost_figures
from anm_nb.analysis.scaling import (
    count_text,
    exponent,
    exponent_text,
    exponents,
    memory_lines,
    memory_text,
    scaling_verdicts,
    stacking_ratios,
    time_exponent,
)
from anm_nb.config import ParameterError

SIZES = np.array([8, 16, 32, 64, 128])


def timings(power: float, noise: float, rounds: int = 12, seed: int = 0) -> pd.DataFrame:
    """c·size^power with log-normal noise and a drift that hits all sizes of a round alike."""
    source = np.random.default_rng(seed)
    drift = np.exp(source.normal(0, 0.5, (rounds, 1)))
    seconds = 3e-4 * SIZES**power * drift * np.exp(noise * source.normal(size=(rounds, len(SIZES))))
    wide = pd.DataFrame(seconds, columns=SIZES).rename_axis(index="round").reset_index()
    return wide.melt("round", var_name="size", value_name="seconds").astype({"size": int})


def operations(counted_of=lambda closed: closed) -> pd.DataFrame:
    rows = [("ranking", "items", n, seed, counted_of(7 * n**2), 7 * n**2) for n in SIZES for seed in (0, 1, 2)]
    return pd.DataFrame(rows, columns=["model", "dimension", "size", "seed", "counted", "closed_form"])


def memory(last_slope: float = 1.0, bend: float = 0.0) -> pd.DataFrame:
    rows = [
        (gradient, t, seed, 500 + slope * t + (bend * t**2 if gradient == "full" else 0))
        for gradient, slope in (("full", 100.0), ("last", last_slope))
        for t in (2, 4, 8, 16)
        for seed in (0, 1, 2)
    ]
    return pd.DataFrame(rows, columns=["gradient", "iterations", "seed", "bytes"])


def test_the_exponent_of_a_power_law_is_its_power():
    assert exponent(SIZES, 3 * SIZES**1.7) == pytest.approx(1.7)


def test_a_sum_of_powers_has_an_exponent_between_them():
    assert 1 < exponent(SIZES, 100 * SIZES + SIZES**2) < 2


def test_time_exponents_cover_the_true_power_as_often_as_they_say():
    covered = []
    for seed in range(300):
        middle, low, high = time_exponent(timings(1.3, noise=0.2, seed=seed))
        assert low < middle < high
        covered.append(low <= 1.3 <= high)
    assert 0.91 <= np.mean(covered) <= 0.985


def test_a_machine_s_drift_between_rounds_does_not_matter():
    assert time_exponent(timings(0.8, noise=1e-3)) == pytest.approx((0.8, 0.8, 0.8), abs=2e-3)


def test_the_table_holds_exponents_and_shares_of_the_rate():
    times = timings(1.5, noise=0.01).assign(model="ranking", dimension="items")
    table = exponents(operations(), times, rate=1e9)
    (row,) = table.itertuples()
    assert row.Index == ("ranking", "items")
    assert (row.smallest, row.largest) == (8, 128)
    assert row.closed_form == pytest.approx(2)
    assert row.counted == pytest.approx(2)
    assert row.low < 1.5 < row.high
    median = times[times["size"] == 128]["seconds"].median()
    assert row.share_largest == pytest.approx(7 * 128**2 / median / 1e9)
    assert list(exponent_text(table)["sizes"]) == ["8 … 128"]
    assert list(count_text(operations())["largest deviation"]) == ["0.000%"]


def test_a_count_that_departs_is_shown_and_refuted():
    wrong = operations(lambda closed: closed * 1.02)
    assert list(count_text(wrong)["largest deviation"]) == ["2.000%"]
    assert scaling_verdicts(wrong, memory())[0].state == "refuted"


def test_memory_lines_are_lines():
    lines = memory_lines(memory())
    assert lines.loc[("full", 0)].tolist() == pytest.approx([100, 500, 0])
    assert lines.loc[("last", 2)].tolist() == pytest.approx([1, 500, 0])
    assert memory_lines(memory(bend=5))["deviation"]["full"].min() > 0.05


def test_the_memory_s_text_is_in_megabytes():
    table = memory_text(memory().assign(bytes=lambda rows: 1e6 * rows["bytes"]))
    assert table.loc["full", 4] == "900"
    assert table["each further iteration"].to_dict() == {"full": "100", "last": "1.00"}


@pytest.mark.parametrize(
    ("changes", "states"),
    [
        ({}, ["supported", "supported", "supported"]),
        ({"last_slope": 30.0}, ["supported", "supported", "refuted"]),
        ({"bend": 5.0}, ["supported", "refuted", "supported"]),
    ],
)
def test_verdicts_follow_the_tables(changes, states):
    assert [verdict.state for verdict in scaling_verdicts(operations(), memory(**changes))] == states


def seed_timings() -> pd.DataFrame:
    tables = [
        timings(power, 0.05, seed=seed).assign(way=way, model=model)
        for model in ("ranking", "energy")
        for seed, (way, power) in enumerate({"in turn": 1.0, "stacked": 0.8}.items())
    ]
    return pd.concat(tables, ignore_index=True)


def test_ratios_are_paired_by_round():
    table = stacking_ratios(seed_timings().assign(seconds=lambda t: t["seconds"].where(t["way"] == "in turn", 1.0)))
    own = seed_timings().query("way == 'in turn' and model == 'energy' and size == 8")
    assert table.set_index(["model", "size"]).loc[("energy", 8), "ratio"] == pytest.approx(
        np.exp(-np.log(own["seconds"]).mean())
    )


def test_figures_show_what_the_tables_hold():
    times = timings(1.5, 0.01).assign(model="ranking", dimension="items")
    left, right = cost_figures.cost_against(operations(), times, "items").axes
    line, dots = left.lines
    assert line.get_ydata() == pytest.approx(7e-9 * SIZES**2)
    assert dots.get_ydata() == pytest.approx(7e-9 * SIZES**2)
    median = 1e3 * times.groupby("size")["seconds"].median()
    assert right.lines[0].get_ydata() == pytest.approx(median)
    assert "size^2.00" in left.get_legend().get_texts()[0].get_text()
    (axes,) = cost_figures.memory_against_iterations(memory()).axes
    assert axes.lines[1].get_ydata() == pytest.approx(np.array([700, 900, 1300, 2100]) / 1e6)
    table = exponents(operations(), times, 1e9)
    (axes,) = cost_figures.exponent_summary(table).axes
    assert axes.lines[1].get_xdata() == pytest.approx([table["time"].iloc[0]])
    assert len(cost_figures.seed_costs(seed_timings()).axes) == 2


def test_a_dimension_that_was_not_measured_is_named():
    times = timings(1.5, 0.01).assign(model="ranking", dimension="items")
    with pytest.raises(ParameterError, match=r"dimension = 'depth'.*items"):
        cost_figures.cost_against(operations(), times, "depth")
    with pytest.raises(ParameterError, match="table without bytes"):
        cost_figures.memory_against_iterations(memory().drop(columns="bytes"))
