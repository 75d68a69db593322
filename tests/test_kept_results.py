"""`anm-nb reference`: a result kept in parts is the one kept at once; parts that do not fit are refused."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from anm_nb.analysis.reference import DISPLAYS, load_reference
from anm_nb.config import ParameterError
from anm_nb.kept_results import keep

NAME = "10_anm_vs_corruption"
PARTS = ("none", "stock", "anm")
TINY = """
size: 2
width: 8
batch: 8
steps: 6
records: 3
dev_examples: 8
seeds: [1, 2]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of a page of results and one profile, with a store and kept results of its own."""
    monkeypatch.setattr("anm_nb.files.project_root", lambda: tmp_path)
    monkeypatch.setattr("anm_nb.analysis.reference.reference_root", lambda: tmp_path / "reference")
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    (tmp_path / "params" / "tiny").mkdir(parents=True)
    (tmp_path / "params" / "tiny" / f"{NAME}.yaml").write_text(TINY)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "results.md").write_text(f"# A page\n<!-- begin: {NAME} -->\n<!-- end: {NAME} -->\n")
    return tmp_path


def test_a_result_kept_in_parts_is_the_one_kept_at_once_and_trains_nothing_twice(project, monkeypatch):
    path = keep(NAME, "tiny", PARTS)
    whole, page = load_reference(NAME), (project / "docs" / "results.md").read_text()
    metrics, provenance = whole.metrics, json.loads((path / "provenance.json").read_text())

    keep(NAME, "tiny", PARTS[1:2])
    assert list(load_reference(NAME).provenance) == ["stock"]  # without --add in place of what was kept
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(project / "another machine"))
    keep(NAME, "tiny", (PARTS[2], PARTS[0]), add=True)
    pd.testing.assert_frame_equal(load_reference(NAME).metrics, metrics)
    added = json.loads((path / "provenance.json").read_text())
    assert [(one, run["key"], run["config"]) for one, run in added.items()] == [
        (one, run["key"], run["config"]) for one, run in provenance.items()
    ]
    assert added["stock"] == provenance["stock"]
    assert (project / "docs" / "results.md").read_text() == page
    trained = {folder.name for folder in (project / "another machine" / "runs").glob("[!.]*")}
    assert trained == {provenance[one]["key"] for one in ("none", "anm")}


def test_what_is_kept_stays_until_another_is_whole(project, monkeypatch):
    path = keep(NAME, "tiny", PARTS[:1])
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    page = (project / "docs" / "results.md").read_text()
    half = path.with_name(f".{NAME}.partial")
    with monkeypatch.context() as cut_off:
        cut_off.setattr("shutil.rmtree", lambda *given, **options: None)  # a process that is killed tidies nothing up
        cut_off.setitem(DISPLAYS, NAME, replace(DISPLAYS[NAME], figure=cut_short))
        with pytest.raises(KeyboardInterrupt):
            keep(NAME, "tiny", PARTS[1:2], add=True)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert (project / "docs" / "results.md").read_text() == page
    assert (half / "metrics.parquet").exists()
    with pytest.raises(ParameterError, match=f"known: {NAME}$"):
        load_reference("nothing")
    keep(NAME, "tiny", PARTS[1:2], add=True)
    assert list(load_reference(NAME).provenance) == list(PARTS[:2])
    assert not half.exists()


def cut_short(kept):
    raise KeyboardInterrupt


def test_runs_of_other_configs_or_sources_are_not_added_to(project):
    keep(NAME, "tiny", PARTS[:1])
    values = project / "params" / "tiny" / f"{NAME}.yaml"
    values.write_text(TINY.replace("seeds: [1, 2]", "seeds: [1, 2, 3]"))
    with pytest.raises(ParameterError, match=r"--add: 'none' is kept of run [0-9a-f]{16}, and with"):
        keep(NAME, "tiny", PARTS[1:2], add=True)
    assert list(load_reference(NAME).provenance) == ["none"]


def test_where_nothing_is_kept_there_is_only_what_is_added(project):
    keep(NAME, "tiny", PARTS[:2], add=True)
    assert list(load_reference(NAME).provenance) == list(PARTS[:2])
