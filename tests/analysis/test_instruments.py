"""Every line of the checklist is measured by something that exists, and what does not exist is said to be missing."""

import pytest

from anm_nb.analysis.doctor import unexamined
from anm_nb.analysis.instruments import INSTRUMENTS, Instrument, missing, table
from anm_nb.energy.train import EnergyConfig

TINY = {
    "levels": 3, "width": 4, "dev_examples": 2, "seeds": (0,), "inner_steps": 1,
    "steps": 2, "batch": 4, "records": 3,
}  # fmt: skip
RUNS = {negatives: {"size": 2, "negatives": negatives} for negatives in ("none", "stock", "random", "anm", "mixed")}
RUNS["sudoku"] = {"task": "sudoku", "size": 9, "task_options": {"pool": 20}, "negatives": "stock"}


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    """What real runs record, by strategy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))  # for the pool of puzzles
        return {
            name: EnergyConfig(**TINY, **run).train(tmp_path_factory.mktemp(name)).metrics for name, run in RUNS.items()
        }


@pytest.fixture(scope="module")
def columns(metrics):
    return set().union(*metrics.values())


def test_every_instrument_exists(columns):
    assert missing(INSTRUMENTS, columns) == []


def test_every_section_has_its_instruments():
    sections = dict.fromkeys(instrument.section for instrument in INSTRUMENTS)
    assert list(sections) == [*"ABCDEFGHIJK", "legitimacy"]
    assert len(set(INSTRUMENTS)) == len(INSTRUMENTS)
    snippets = [instrument.what[:9] for instrument in INSTRUMENTS if instrument.section == "I"]
    assert snippets[:4] == [f"snippet {number}" for number in (1, 2, 3, 4)]


def test_all_that_the_miner_logs_is_an_instrument(metrics):
    """Mined runs record more than others; none of it is left unexplained."""
    listed = {instrument.where for instrument in INSTRUMENTS if instrument.kind == "column"}
    assert set(metrics["anm"]) - set(metrics["random"]) <= listed


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("column", "gm_nrom"),
        ("finding", "unstable mine"),
        ("check", "anm_nb.energy.landscape.barier"),
        ("check", "anm_nb.energy.landscap.barrier"),
        ("check", "anm_nb.energy.landscape.SCAN_GRID"),
        ("check", "anm_nb.energy.constraints.MaskedSimplex.logg"),
        ("check", "tests/energy/test_miner.py::test_nothing"),
        ("check", "tests/energy/test_nothing.py::test_nothing"),
        ("figure", "10_anm_vs_nothing"),
        ("figure", "anm_nb.analysis.figures"),
        ("figure", "e_pos"),
    ],
)
def test_what_does_not_exist_is_missing(kind, where, columns):
    instrument = Instrument("A", "planted", kind, where)
    assert missing([*INSTRUMENTS, instrument], columns) == [instrument]


def test_a_column_that_no_run_records_is_missing(columns):
    gone = {"gm_norm", "illegitimate_fraction"}
    assert {instrument.where for instrument in missing(INSTRUMENTS, columns - gone)} == gone


def test_a_notebook_without_a_figure_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr("anm_nb.analysis.instruments.project_root", lambda: tmp_path)
    (tmp_path / "notebooks").mkdir()
    output = '{"data": {"%s": ""}}'
    for name, kind in (("10_text", "text/plain"), ("11_figure", "image/png")):
        cells = '{"cells": [{"source": ""}, {"outputs": [%s]}]}' % (output % kind)
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text(cells)
    shown = [Instrument("A", "", "figure", name) for name in ("10_text", "11_figure")]
    assert missing(shown, []) == shown[:1]


def test_the_table_says_all_of_it_in_order():
    shown = table().reset_index()
    assert [Instrument(*row) for row in shown.itertuples(index=False)] == list(INSTRUMENTS)
    assert table(INSTRUMENTS[:2]).shape == (2, 2)


def test_the_doctor_can_judge_the_miner_of_our_own_runs(metrics):
    """What a run records is named as the doctor reads it."""
    assert not set(unexamined(metrics["anm"])) & {
        "mostly illegitimate negatives", "unstable miner", "gradient collapse", "miner off the data scale",
        "too-easy negatives", "contrastive loss saturated", "flat margins and tiny gradient share",
        "energies rise uniformly",
    }  # fmt: skip
