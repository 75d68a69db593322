"""Which cases `anm-nb sweep` runs and skips, and its messages; the notebooks are not really executed here."""

import errno
import json
import random
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock

from anm_nb import files
from anm_nb.cases import Case, Outcome
from anm_nb.sweep import write_table


def test_a_restart_runs_nothing_that_is_finished(trivial, instant):
    trivial.write(grid={"n": [1, 2]})
    assert trivial.invoke().exit_code == 0
    table = (trivial.out / "table.parquet").read_bytes()
    notebook = json.loads(trivial.notebook.read_text())
    notebook["cells"][1] |= {
        "outputs": [{"output_type": "stream", "name": "stdout", "text": "!"}],
        "execution_count": 3,
    }
    trivial.notebook.write_text(json.dumps(notebook))  # as if it was opened and run in between
    again = trivial.invoke()
    assert (again.exit_code, instant) == (0, [1, 2])
    assert f"2 cases: 2 done; results in {trivial.out}" in again.stdout
    assert (trivial.out / "table.parquet").read_bytes() == table
    assert trivial.outcomes()["n=2"]["runs"] == ["run2"]


@pytest.mark.parametrize("change", ["parameters", "notebook", "sources", "result"])
def test_a_finished_case_runs_again_after_a_change_it_depends_on(trivial, instant, monkeypatch, change):
    trivial.write(grid={"n": [1, 2]})
    trivial.invoke()
    if change == "parameters":
        trivial.write(base={"x": 0.25}, grid={"n": [1, 2]})
    elif change == "notebook":
        trivial.notebook.write_text(trivial.notebook.read_text().replace("is small", "is smaller"))
    elif change == "sources":
        monkeypatch.setattr("anm_nb.files.sha256_of", lambda file: "other")
    else:
        (trivial.out / "n=2.ipynb").unlink()
    assert trivial.invoke().exit_code == 0
    assert instant == ([1, 2, 2] if change == "result" else [1, 2, 1, 2])


def swap(trivial):
    one, two = (trivial.out / f"n={n}.ipynb" for n in (1, 2))
    texts = one.read_bytes(), two.read_bytes()
    one.write_bytes(texts[1]), two.write_bytes(texts[0])


def edit(path: Path, old: str, new: str):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("change", "again", "named"),
    [
        (lambda t: edit(t.out / "n=2.ipynb", '"refuted"', '"supported"'), [2], ["n=2"]),
        (lambda t: (t.out / "n=1.ipynb").write_text('{"cells": ['), [1], ["n=1"]),
        (swap, [1, 2], []),
    ],
)
def test_a_changed_result_is_named_and_runs_again(trivial, instant, change, again, named):
    trivial.write(grid={"n": [1, 13, 2]})
    trivial.invoke()
    table, expected = (trivial.out / "table.parquet").read_bytes(), trivial.outcomes()
    instant.clear()
    change(trivial)
    dry = trivial.invoke("--dry-run")
    result = trivial.invoke()
    assert (result.exit_code, instant) == (1, again), result.output
    for name in named:
        said = f"anm-nb: {trivial.out / name}.ipynb was changed since it was written"
        assert said in result.stderr
        assert said in dry.stderr
    assert (trivial.out / "table.parquet").read_bytes() == table
    assert trivial.outcomes() == expected
    assert "written" not in trivial.invoke().stderr


def test_a_failed_case_is_kept_and_runs_again_only_on_request(trivial, instant):
    trivial.write(grid={"n": [13, 2]})
    first = trivial.invoke()
    assert (first.exit_code, first.stderr) == (1, "anm-nb: 1 of 2 cases failed: n=13\n")
    assert "ValueError: 13" in first.stdout
    assert "65 s  1 refuted" in first.stdout
    second = trivial.invoke()
    assert (second.exit_code, instant) == (1, [13, 2])
    assert "2 cases: 1 done, 1 failed; results in" in second.stdout
    assert trivial.invoke("--retry-failed").exit_code == 1
    assert instant == [13, 2, 13]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "-1"], "Invalid value for '--budget'"),
        (["--out", "{folder}"], "holds the notebooks themselves; choose another folder"),
    ],
)
def test_refusals_come_before_anything_runs(trivial, instant, arguments, said):
    trivial.write(grid={"n": [1, 2]})
    refused = trivial.invoke(*(each.format(folder=trivial.folder) for each in arguments))
    assert (refused.exit_code, instant) == (2, [])
    assert said in refused.stderr
    assert not trivial.out.exists()


def test_after_the_budget_no_case_starts_and_the_same_command_continues(trivial, instant, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1e12 if len(instant) == 2 else 0.0)
    trivial.write(grid={"n": [1, 13, 2, 3]})
    assert (trivial.invoke("--budget", "0").exit_code, instant) == (75, [])
    first = trivial.invoke("--budget", "3600")
    assert (first.exit_code, instant) == (75, [1, 13])
    counts = "1 done, 1 failed, 2 not finished"
    assert first.stderr == f"anm-nb: out of time: {counts}; run the same command again to continue\n"
    assert pd.read_parquet(trivial.out / "table.parquet")["n"].tolist() == [1, 13]
    instant.append(0)
    assert trivial.invoke("--budget", "3600").exit_code == 1
    assert instant[3:] == [2, 3]


def test_a_second_sweep_into_the_same_folder_is_refused(trivial, instant):
    trivial.write(grid={"n": [1]})
    trivial.out.mkdir()
    with FileLock(trivial.out / ".sweep.lock"):
        refused = trivial.invoke()
    assert (refused.exit_code, instant) == (2, [])
    assert "another process is running cases into" in refused.stderr
    assert trivial.invoke().exit_code == 0


def test_a_full_disk_is_reported_and_loses_nothing(trivial, instant, monkeypatch):
    """Writes fail with ENOSPC at random; after enough restarts, the results are those without failures."""
    trivial.write(grid={"n": [1, 2, 3, 4]})
    trivial.invoke()
    table = (trivial.out / "table.parquet").read_bytes()
    expected, instant[:] = trivial.outcomes(), []
    trivial.out = trivial.folder / "full"
    chance, fsync = random.Random(0), files.os.fsync

    def sometimes_full(descriptor):
        if chance.random() < 0.25:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", sometimes_full)
    for _ in range(60):
        recorded, already = trivial.outcomes(), len(instant)
        result = trivial.invoke()
        assert not [n for n in instant[already:] if f"n={n}" in recorded]
        assert recorded.keys() <= trivial.outcomes().keys()
        if result.exit_code == 0:
            break
        assert result.exit_code == 1
        assert "No space left on device" in result.stderr
        assert "run the same command again to continue" in result.stderr
    assert trivial.outcomes() == expected
    assert (trivial.out / "table.parquet").read_bytes() == table


# the table


def test_the_table_has_each_verdict_beside_the_parameters_that_differ(trivial, instant):
    trivial.write(grid={"n": [2, 13]}, cases=[{"n": 3, "x": 2.0}])
    trivial.invoke()
    table = pd.read_parquet(trivial.out / "table.parquet")
    assert table["case"].tolist() == ["n=2", "n=13", "n=3,x=2.0"]
    assert table["n"].tolist() == [2, 13, 3]
    assert table["x"].tolist() == [0.5, 0.5, 2.0]
    assert table["status"].tolist() == ["done", "failed", "done"]
    assert table["verdict"].fillna("").tolist() == ["refuted", "", "refuted"]
    assert table["estimate"].fillna(-1).tolist() == [2, -1, 3]
    assert table["high"].isna().all()
    assert table["runs"].tolist() == ["run2", "run13", "run3"]
    assert "pause" not in table


def test_a_parameter_with_the_name_of_another_column_is_renamed(tmp_path):
    given = {"low": 1, "runs": [2]}
    case = Case(Path("square.ipynb"), tmp_path / "a.ipynb", own=given, values=given)
    write_table([case], {"a": Outcome("a", 1.0, runs=["key"], verdicts=[{"verdict": "refuted", "low": 3}])}, tmp_path)
    (row,) = pd.read_parquet(tmp_path / "table.parquet").to_dict("records")
    shown = {"case": "a", "notebook": "square", "status": "done", "runs": "key", "verdict": "refuted", "low": 3}
    assert row == shown | {"low_parameter": 1, "runs_parameter": "[2]"}
