"""What would change a conclusion: what the seeds could have found, how many would be needed, and what was never run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from anm_nb.analysis.anm_verdict import NAME as VERDICT
from anm_nb.analysis.answers import PERCENT
from anm_nb.analysis.experiment import Comparison, Experiment, metric_text
from anm_nb.analysis.overview import ALPHA, detectable_text, differences, p_text, records, signed
from anm_nb.analysis.resampling import RESAMPLES, paired_bootstrap
from anm_nb.analysis.stats import POWER, RESOLUTION, detection_power, finite_pairs, paired_difference
from anm_nb.analysis.tables import rounded
from anm_nb.analysis.verdicts import LEAST_SEEDS
from anm_nb.config import ParameterError
from anm_nb.files import project_root
from anm_nb.run import flat
from anm_nb.yaml_file import read_yaml

MOST_SEEDS = 10_000
VERDICT_NOTEBOOK = "16_anm_verdict"
TRAINING_TENS = ("0", "1", "2")  # first digits of notebooks with runs of their own; others look at these
# What makes an experiment a large one.
SIZES = (
    "size",
    "width",
    "batch",
    "steps",
    "epochs",
    "max_inner_iters",
    "train_samples",
    "training_examples",
    "test_examples",
    "test_samples",
    "seeds",
)


def seeds_needed(effect: float, power: float = POWER) -> float:
    """The fewest pairs with which a paired t-test finds a mean difference of `effect` standard deviations.

    At least 2; infinite where 10,000 would not do.
    """
    if math.isnan(effect) or detection_power(abs(effect), MOST_SEEDS) < power:
        return math.inf
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detection_power(abs(effect), middle) >= power else (middle, high)
    return high


def overturning(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """`overview.differences` with what would change each: columns effect, power, needed and change beside.

    `effect` is the observed difference in standard deviations of the paired differences, `power` the chance that as
    many seeds find a true difference of that size, `needed` the seeds that would find it with 80 % power (by
    `seeds_needed`), `change` what would have to be observed for another verdict.
    """
    table = differences(comparisons)
    spreads = [_spread(each) for each in comparisons]
    table["effect"] = [
        math.inf * difference if spread == 0 and difference else difference / (spread or 1.0)
        for difference, spread in zip(table["difference"], spreads, strict=True)
    ]
    table["power"] = [
        detection_power(abs(row.effect), row.seeds) if row.seeds > 1 and np.isfinite(row.effect) else math.nan
        for row in records(table)
    ]
    table["needed"] = [2 if np.isinf(effect) else seeds_needed(effect) for effect in table["effect"]]
    return table.assign(change=[_change(row) for row in records(table)])


def _spread(each: Comparison) -> float:
    paired = each.first - each.second
    paired = paired[np.isfinite(paired)]
    if len(paired) < 2:
        return math.nan
    return float(paired.std(ddof=1)) if np.ptp(paired) > 0 else 0.0


def _change(row: Any) -> str:
    """What would have to be observed for another verdict, in the comparison's unit."""
    if row.decided == "no headroom":
        return f"a task that leaves more to gain than {rounded(row.room, 2)}"
    if row.decided == "undecided":
        if row.seeds < LEAST_SEEDS:
            return f"{LEAST_SEEDS} seeds or more: fewer never decide"
        same = "no number of seeds: there is no difference"
        return f"{_count(row.needed)} seeds, were this the truth" if row.difference else same
    replication = f"{row.seeds} new seeds of the other sign ({detectable_text(row.detectable)} would show)"
    if row.metric != PERCENT or row.difference <= 0:
        return replication
    return f"an error {rounded(100 - 100 / (1 + row.difference / 100), 2)} % lower, to tie; {replication}"


def _count(needed: float) -> str:
    return f"{needed:.0f}" if np.isfinite(needed) else f"more than {MOST_SEEDS:,}"


def shown_overturning(table: pd.DataFrame) -> pd.DataFrame:
    """`overturning` as text."""
    if table.empty:
        return pd.DataFrame()
    text = table[["experiment"]].copy()
    text["compared"] = _compared(table)
    text["difference"] = [f"{signed(row.difference)} [{signed(row.low)}, {signed(row.high)}]" for row in records(table)]
    text["seeds"] = table["seeds"]
    text["could have found"] = table["detectable"].map(detectable_text)
    known = (table["difference"] != 0) & (table["seeds"] > 1)
    text["seeds needed"] = table["needed"].map(_count).where(known, "–")
    text["verdict"], text["what would change it"] = table["decided"], table["change"]
    return text.set_index(["experiment", "compared"])


def robustness(comparisons: Sequence[Comparison], generator: np.random.Generator) -> pd.DataFrame:
    """The same differences by other statistics, one row each; p-values are not corrected.

    Columns: experiment, compared, difference, t interval, BCa interval, p of the t, Wilcoxon's and the sign-flip test,
    and whether the three at 0.05 and the BCa interval decide alike. With fewer than 6 seeds the latter two tests never
    find anything, and with fewer than 10 the BCa interval is too narrow (`resampling.paired_bootstrap`).
    """
    rows = []
    for each, plain in zip(comparisons, records(differences(comparisons)), strict=True):
        tests = paired_tests(each.first, each.second, generator=generator)
        boot = paired_bootstrap(each.first, each.second, generator=generator)
        decisions = {*(p < ALPHA for p in (tests.t, tests.wilcoxon, tests.sign_flip)), boot.low * boot.high > 0}
        rows.append(
            {
                "experiment": each.experiment,
                "difference": signed(boot.estimate),
                "t interval": f"[{signed(plain.low)}, {signed(plain.high)}]",
                "BCa interval": f"[{signed(boot.low)}, {signed(boot.high)}]",
                "p, t": p_text(tests.t),
                "p, Wilcoxon": p_text(tests.wilcoxon),
                "p, sign flips": p_text(tests.sign_flip),
                "decide alike": "yes" if len(decisions) == 1 else "no",
            }
        )
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    table.insert(1, "compared", _compared(differences(comparisons)))
    return table.set_index(["experiment", "compared"])


def _compared(table: pd.DataFrame) -> list[str]:
    """What is compared; in which metric, and by what part it differs, where that is not said by the names."""
    several = table.groupby(["experiment", "method", "against"])["metric"].transform("nunique") > 1
    return [
        f"{row.method} − {row.against}{f' ({metric_text(row.metric)})' if more else ''}"
        for row, more in zip(records(table), several, strict=True)
    ]


def not_run(kept: Iterable[Experiment]) -> pd.DataFrame:
    """What the paper profiles ask for and no kept result has: a row for each profile in `params/paper` that trains.

    Columns: notebook, runs kept, every size of which all of them have less (the most that is kept, of what is asked),
    and the devices that they were trained on.
    """
    by_notebook: dict[str, list[Experiment]] = {}
    for each in kept:
        for notebook in _notebooks_of(each.name.partition(",")[0]):
            by_notebook.setdefault(notebook, []).append(each)
    rows = []
    for path in sorted((project_root() / "params" / "paper").glob("*.yaml")):
        if not path.stem.startswith(TRAINING_TENS):
            continue
        asked, own = read_yaml(path), by_notebook.get(path.stem, [])
        runs = [provenance for each in own for provenance in each.provenance.values()]
        most = {size: max(_kept_sizes(own, size), default=math.inf) for size in SIZES if size in asked}
        less = [
            f"{size} {most[size]:g} of {_amount(asked[size]):g}" for size in most if most[size] < _amount(asked[size])
        ] + [f"some only until dev score {score:g}" for score in sorted({*_kept_sizes(own, "stop_at_score")})]
        row = {"notebook": path.stem, "runs kept": len(runs), "at most, of what is published": ", ".join(less) or "–"}
        rows.append(row | {"trained on": ", ".join(sorted({str(run["device"]) for run in runs})) or "–"})
    columns = ["notebook", "runs kept", "at most, of what is published", "trained on"]
    return pd.DataFrame(rows, columns=columns).set_index("notebook")


def _notebooks_of(name: str) -> list[str]:
    """The notebooks whose runs a kept result has: one's own, or those of all that a sweep unites."""
    sweep = project_root() / "params" / "sweeps" / f"{name}.yaml"
    if not sweep.exists():
        return [VERDICT_NOTEBOOK if name == VERDICT else name]
    return [read_yaml(sweep.with_name(united))["notebook"] for united in read_yaml(sweep)["union"]]


def _amount(value: Any) -> float:
    """A size as it is; of seeds how many."""
    return len(value) if isinstance(value, list) else value


def _kept_sizes(experiments: Iterable[Experiment], size: str) -> list[float]:
    every = [flat(settings) for each in experiments for settings in each.settings.values()]
    leaves = [{name.rpartition(".")[2]: value for name, value in settings.items()} for settings in every]
    return [_amount(own[size]) for own in leaves if own.get(size) is not None]


@dataclass(frozen=True)
class PairedTests:
    """Two-sided p-values, by three tests, of paired differences being centred on zero.

    `t` is exact for normal differences; `wilcoxon` (signed ranks) and `sign_flip` (permutation of the mean) suppose
    only that differences are symmetric about zero if nothing is there. With n pairs these two are at least 2^(1−n), so
    fewer than 6 pairs never bring them below 0.05. All are NaN with fewer than two pairs.
    """

    t: float
    wilcoxon: float
    sign_flip: float
    pairs: int


def paired_tests(
    first: ArrayLike, second: ArrayLike, *, generator: np.random.Generator, resamples: int = RESAMPLES
) -> PairedTests:
    """Student's t, Wilcoxon's signed ranks and the sign-flip test of first − second, pair by pair (one pair a seed).

    Pairs with a NaN are left out. Differences of zero are ranked but have no sign (Pratt 1959). Sign flips are all
    tried where there are at most `resamples`, else as many are drawn. Wilcoxon's p-value is exact up to 50 pairs, or up
    to 13 where differences are zero or of equal size, else normal with a correction for ties. Raises `ParameterError`
    for arrays that cannot be paired or no resamples.
    """
    if resamples < 1:
        raise ParameterError(f"resamples = {resamples}: at least 1 is needed")
    one, other = finite_pairs(first, second)
    n = len(one)
    if n < 2:
        return PairedTests(float("nan"), float("nan"), float("nan"), n)
    # 0.9 − 0.8 and 0.3 − 0.2 are equal but for rounding; as whole numbers they, and their sums in any order, are equal.
    unit = RESOLUTION * (np.abs([one, other]).max() or 1.0)
    whole = np.round((one - other) / unit)
    if not whole.any():
        return PairedTests(1.0, 1.0, 1.0, n)
    flipped = stats.permutation_test(
        (whole,), np.sum, permutation_type="samples", n_resamples=resamples, rng=generator, vectorized=True
    )
    return PairedTests(
        paired_difference(one, other).p_value,
        float(stats.wilcoxon(whole, zero_method="pratt").pvalue),
        float(flipped.pvalue),
        n,
    )
