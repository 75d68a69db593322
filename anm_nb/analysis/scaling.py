"""Measured cost beside its closed form: exponents, memory lines and verdicts over `anm_nb.studies.scaling`'s tables.

A cost that is a sum of powers has no one exponent. What is compared is the local one over the sizes measured: the slope
of the least-squares line of log cost against log size, for the closed form, the counts and the times alike.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from anm_nb.analysis.stats import mean_interval
from anm_nb.analysis.tables import rounded
from anm_nb.analysis.verdicts import Verdict, judge_band

FLAT = 0.02  # the share of an iteration's memory at full gradients below which a line counts as flat
STRAIGHT = 0.01  # the largest relative distance of a straight line from its points


def exponent(sizes: ArrayLike, values: ArrayLike) -> float:
    """The local exponent of positive values over positive sizes, at least two of them different."""
    return float(stats.linregress(np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float))).slope)


def time_exponent(times: pd.DataFrame) -> tuple[float, float, float]:
    """The local exponent of seconds over size, columns round, size and seconds: mean over rounds, 95 % t-interval.

    Sizes are timed in turn, so a round's exponent is one of comparable times, and rounds vary as the machine does. The
    interval is about this noise, not about how well a power law fits.
    """
    rounds = times.pivot(index="round", columns="size", values="seconds")
    return mean_interval([exponent(rounds.columns, row) for row in rounds.to_numpy()])


def exponents(operations: pd.DataFrame, times: pd.DataFrame, rate: float) -> pd.DataFrame:
    """Local exponents of every series, and its share of a rate (operations a second) at its smallest and largest size.

    A row for each model and dimension; columns smallest, largest, closed_form, counted, time, low, high (95 %),
    share_smallest and share_largest, of the median time.
    """
    rows = {}
    for (model, dimension), counts in operations.groupby(["model", "dimension"], sort=False):
        own = times[(times["model"] == model) & (times["dimension"] == dimension)]
        by_size = counts.groupby("size")[["closed_form", "counted"]].mean()
        share = by_size["counted"] / own.groupby("size")["seconds"].median() / rate
        time, low, high = time_exponent(own)
        rows[model, dimension] = {
            "smallest": by_size.index[0],
            "largest": by_size.index[-1],
            "closed_form": exponent(by_size.index, by_size["closed_form"]),
            "counted": exponent(by_size.index, by_size["counted"]),
            "time": time,
            "low": low,
            "high": high,
            "share_smallest": share.iloc[0],
            "share_largest": share.iloc[-1],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "dimension"])


def exponent_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `exponents` as text to read."""
    intervals = [f"{row.time:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in table.itertuples()]
    shares = [f"{row.share_smallest:.0%} → {row.share_largest:.0%}" for row in table.itertuples()]
    return pd.DataFrame(
        {
            "sizes": [f"{row.smallest:.0f} … {row.largest:.0f}" for row in table.itertuples()],
            "closed form": [f"{value:.3f}" for value in table["closed_form"]],
            "counted": [f"{value:.3f}" for value in table["counted"]],
            "time [95 %]": intervals,
            "share of the machine's rate": shares,
        },
        index=table.index,
    )


def count_text(operations: pd.DataFrame) -> pd.DataFrame:
    """Counted operations of every series as text: smallest and largest size, exponents, deviation from theory."""
    rows = {}
    for key, counts in operations.groupby(["model", "dimension"], sort=False):
        by_size = counts.groupby("size")[["closed_form", "counted"]].mean()
        ends = by_size["counted"].iloc[[0, -1]] / 1e9
        rows[key] = {
            "sizes": f"{by_size.index[0]} … {by_size.index[-1]}",
            "GFLOP, counted": " … ".join(rounded(end) for end in ends),
            "exponent, counted": f"{exponent(by_size.index, by_size['counted']):.3f}",
            "exponent, closed form": f"{exponent(by_size.index, by_size['closed_form']):.3f}",
            "largest deviation": f"{_deviation(counts):.3%}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "dimension"])


def stacking_ratios(times: pd.DataFrame) -> pd.DataFrame:
    """Time stacked over time in turn, round by round, for each model and number of seeds: geometric mean and
    95 % interval.

    Columns model, size, ratio, low and high.
    """
    wide = times.pivot(index=["model", "size", "round"], columns="way", values="seconds")
    ratio = wide["stacked"] / wide["in turn"]
    rows = [(*key, *np.exp(mean_interval(np.log(own)))) for key, own in ratio.groupby(["model", "size"])]
    return pd.DataFrame(rows, columns=["model", "size", "ratio", "low", "high"])


def memory_lines(memory: pd.DataFrame) -> pd.DataFrame:
    """The least-squares line of bytes over iterations, a row for each gradient and seed.

    Columns per_iteration and at_zero in bytes, and deviation, the largest distance from the line as a share of a point.
    """
    rows = {}
    for key, own in memory.groupby(["gradient", "seed"]):
        line = stats.linregress(own["iterations"], own["bytes"])
        off = np.abs(line.intercept + line.slope * own["iterations"] - own["bytes"]) / own["bytes"]
        rows[key] = {"per_iteration": line.slope, "at_zero": line.intercept, "deviation": off.max()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["gradient", "seed"])


def memory_text(memory: pd.DataFrame) -> pd.DataFrame:
    """Bytes kept by the number of iterations, and what one more iteration adds, as text in MB; means over seeds."""
    kept = memory.groupby(["gradient", "iterations"])["bytes"].mean().unstack("iterations") / 1e6
    table = kept.map(rounded)
    table["each further iteration"] = [
        rounded(value / 1e6) for value in memory_lines(memory)["per_iteration"].groupby("gradient").mean()
    ]
    return table.rename_axis(columns="MB kept, iterations")


def scaling_verdicts(operations: pd.DataFrame, memory: pd.DataFrame) -> list[Verdict]:
    """What is exact, judged; times have intervals and no verdict."""
    lines = memory_lines(memory)
    per_iteration = lines["per_iteration"].unstack("gradient")
    deviations = [_deviation(own) for _, own in operations.groupby("seed")]
    return [
        judge_band(
            "counted operations are those of the closed form, at every size",
            deviations,
            low=0,
            high=0,
            unit="largest relative deviation",
        ),
        judge_band(
            "with full gradients memory grows along a straight line in the iterations",
            lines["deviation"]["full"],
            low=0,
            high=STRAIGHT,
            unit="largest relative distance from the line",
        ),
        judge_band(
            f"with the last iteration's gradient memory is flat: another one adds less than {FLAT:.0%} of what it "
            "does with full gradients",
            per_iteration["last"] / per_iteration["full"],
            low=0,
            high=FLAT,
            unit="of an iteration at full gradients",
        ),
    ]


def _deviation(counts: pd.DataFrame) -> float:
    return float((counts["counted"] / counts["closed_form"] - 1).abs().max())
