"""A verdict decides only what its interval decides, says what it could have found, and is stored as valid JSON."""

import json
import math
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter

from anm_nb.analysis import VERDICT_MIME
from anm_nb.analysis.stats import detectable_effect, mean_interval, paired_difference
from anm_nb.analysis.tables import rounded
from anm_nb.analysis.verdicts import judge, judge_band, show, verdict_table

NAMES = ("anm", "stock")


def compare(lower, higher, **options):
    return judge("`anm` is lower", lower=lower, higher=higher, names=NAMES, **options)


@pytest.mark.parametrize(
    ("lower", "higher", "state"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.2, 1.9], "supported"),
        ([2.0, 2.2, 1.9], [1.0, 1.1, 0.9], "refuted"),
        ([1.0, 2.0, 3.0], [1.5, 1.0, 3.5], "undecided"),
        ([1.0, 1.0, 1.0], [1.5, 1.5, 1.5], "supported"),  # all pairs agree exactly
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "undecided"),
        ([1.0, 10.0, 100.0], [1.1, 10.1, 100.1], "supported"),  # seeds differ far more than methods do
        ([1.0, 1.1, 0.9, math.nan], [2.0, 2.2, 1.9, 0.0], "supported"),
    ],
)
def test_the_paired_interval_decides(lower, higher, state):
    verdict = compare(lower, higher)
    assert verdict.state == state
    difference = paired_difference(lower, higher)
    assert (verdict.estimate, *verdict.interval) == (difference.estimate, difference.low, difference.high)


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=3, max_size=8).map(
        lambda rows: np.round(rows, 2).T
    )
)
def test_decided_means_that_zero_lies_outside_the_interval_on_the_side_of_the_state(scores):
    verdict = compare(*scores)
    low, high = verdict.interval
    assert (verdict.state == "supported") == (high < 0)
    assert (verdict.state == "refuted") == (low > 0)
    opposite = {"supported": "refuted", "refuted": "supported", "undecided": "undecided"}
    assert compare(*scores[::-1]).state == opposite[verdict.state]


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_fewer_than_three_seeds_never_decide(seeds):
    lower, higher = np.zeros(seeds), np.full(seeds, 100.0) + 0.001 * np.arange(seeds)
    missing = np.full(5, math.nan)  # seeds that are there in name only
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a verdict is not preceded by numpy's complaints
        for verdict in (
            compare(lower, higher),
            compare(np.append(lower, missing), np.append(higher, np.ones(5))),
            judge_band("in", lower, low=-1, high=1),
            judge_band("out", higher, low=-1, high=1),
        ):
            assert verdict.state == "undecided"
            assert verdict.seeds == seeds
            assert f"{seeds} seed(s) decide nothing; at least 3 are needed" in str(verdict)


def test_an_undecided_verdict_says_what_it_could_have_found():
    lower, higher = np.array([1.0, 2.0, 3.0]), np.array([1.5, 1.0, 3.5])
    verdict = compare(lower, higher)
    detectable = detectable_effect(3) * np.std(lower - higher, ddof=1)
    assert verdict.detectable == pytest.approx(detectable)
    assert f"a true difference of {rounded(detectable, 2)} would have been found with 80 % power" in str(verdict)
    assert compare([1.0, 1.1, 0.9], [2.0, 2.2, 1.9]).power is None
    straddling = judge_band("x", [0.68, 0.72, 0.70], low=0.3, high=0.7)
    assert "the interval reaches across the border of the band" in str(straddling)
    assert math.isnan(straddling.detectable)  # power against zero says nothing about a band


def test_what_was_measured_is_told_of_the_pairs_that_were_compared():
    """A seed that one side lacks is left out of both means, so that they differ by the difference told."""
    verdict = compare([1.0, 2.0, 3.0, math.nan], [2.0, 3.1, 3.9, 1000.0], unit="MSE", expected="yes (section J)")
    text = str(verdict)
    assert "anm: 2.00, stock: 3.00 MSE; first − second = -1.00 [" in text
    assert "3 seeds" in text
    assert "the document expects: yes (section J)" in text
    assert text.startswith("SUPPORTED: `anm` is lower")


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ([0.5, 0.51, 0.49], "supported"),
        ([0.9, 0.91, 0.89], "refuted"),
        ([0.1, 0.11, 0.09], "refuted"),
        ([0.68, 0.72, 0.70], "undecided"),  # straddles the upper edge
        ([0.28, 0.32, 0.30], "undecided"),  # … and the lower
        ([0.0, 0.5, 1.0], "undecided"),  # contains the band
        ([0.3, 0.3, 0.3], "supported"),  # the edge belongs to it
        ([0.9, 0.91], "undecided"),
        ([0.5, 0.51, 0.49, math.nan], "supported"),
    ],
)
def test_a_band_is_judged_by_the_interval_of_the_mean(values, state):
    verdict = judge_band("healthy", values, low=0.3, high=0.7, unit="of pairs", expected="between 0.3 and 0.7")
    assert verdict.state == state
    mean, low, high = mean_interval(values)
    assert verdict.estimate == pytest.approx(mean)
    assert verdict.interval == (low, high)
    assert f"mean {rounded(mean)} [{rounded(low)}, {rounded(high)}] of pairs" in verdict.measured


# as a notebook stores it


def bundle(verdict):
    """What a Jupyter kernel would send for the verdict."""
    data, _ = DisplayFormatter().format(verdict)
    return data


CASES = {
    "supported": compare([1.0, 1.1, 0.9], [2.0, 2.2, 1.9], expected="yes"),
    "undecided": compare([1.0, 2.0, 3.0], [1.5, 1.0, 3.5]),
    "one seed": compare([1.0], [2.0]),
    "no seeds": judge_band("x", [math.nan], low=0, high=1),
    "float32": compare(np.float32([1, 2, 3]), np.float32([4, 5, 7])),
}


@pytest.mark.parametrize("verdict", CASES.values(), ids=CASES.keys())
def test_the_stored_verdict_is_strict_json_and_says_what_the_text_says(verdict):
    data = bundle(verdict)
    stored = json.loads(json.dumps(data[VERDICT_MIME], allow_nan=False))
    assert data["text/plain"].startswith(f"{stored['state'].upper()}: {stored['claim']}")
    assert stored["measured"] in data["text/plain"]
    assert stored["seeds"] == verdict.seeds
    assert (stored["power"] or "") in data["text/plain"]
    assert (stored["power"] is not None) == (stored["state"] == "undecided")
    if stored["estimate"] is not None:
        assert rounded(stored["estimate"]) in data["text/plain"]
    if stored["interval"] is not None:
        low, high = stored["interval"]
        assert f"[{rounded(low)}, {rounded(high)}]" in data["text/plain"]
    else:
        assert stored["state"] == "undecided"


class Seen(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_html_shows_the_text_and_nothing_of_it_as_markup():
    nasty = "<script>alert(1)</script> & <img src=x>"
    verdict = judge(nasty, lower=[1, 2, 3], higher=[1.5, 1, 3.5], names=(nasty, "b"), unit="<u>", expected="<i>x</i>")
    seen = Seen(bundle(verdict)["text/html"])
    assert seen.tags == {"p", "b", "br", "small"}
    for part in (nasty, "<u>", "<i>x</i>", "UNDECIDED", verdict.measured, "80 % power"):
        assert part in seen.text


def test_show_displays_each_verdict(capsys):
    show(CASES.values())
    printed = capsys.readouterr().out
    for verdict in CASES.values():
        assert str(verdict) in printed


def test_a_table_of_verdicts_has_a_row_a_claim():
    table = verdict_table(CASES[name] for name in ("supported", "undecided"))
    assert table["verdict"].tolist() == ["supported", "undecided"]
    assert table["measured"].tolist() == [CASES["supported"].measured, CASES["undecided"].measured]
    assert table["the document expects"].tolist() == ["yes", "–"]
    assert table.index.tolist() == ["`anm` is lower"] * 2
