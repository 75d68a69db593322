"""What `anm-nb sweep` runs, what it leaves alone, and what it says; the notebooks are not really run here."""

import errno
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from anm_nb import files
from anm_nb.cli import app
from anm_nb.sweep import process, workers
from anm_nb.sweep.outcomes import Outcome


def anm_nb(trivial, *arguments: str):
    return trivial.invoke(*arguments)


def test_a_restart_runs_nothing_that_is_finished(trivial, fake):
    trivial.write(grid={"n": [1, 2]})
    assert anm_nb(trivial).exit_code == 0
    table = (trivial.out / "table.parquet").read_bytes()
    again = anm_nb(trivial)
    assert (again.exit_code, fake) == (0, [1, 2])
    assert "2 cases: 2 done before" in again.stdout
    assert (trivial.out / "table.parquet").read_bytes() == table
    assert trivial.outcomes()["n=2"]["runs"] == ["run2"]


@pytest.mark.parametrize("change", ["parameters", "notebook", "sources", "result"])
def test_a_finished_case_runs_again_when_what_it_depends_on_changed(trivial, fake, monkeypatch, change):
    trivial.write(grid={"n": [1, 2]})
    anm_nb(trivial)
    if change == "parameters":
        trivial.write(base={"x": 0.25}, grid={"n": [1, 2]})
    elif change == "notebook":
        trivial.notebook.write_text(trivial.notebook.read_text().replace("is small", "is smaller"))
    elif change == "sources":
        monkeypatch.setattr("anm_nb.sweep.cases.code_digest", lambda notebook: "other")
    else:
        (trivial.out / "n=2.ipynb").unlink()
    assert anm_nb(trivial).exit_code == 0
    assert fake == ([1, 2, 2] if change == "result" else [1, 2, 1, 2])


def test_what_failed_is_kept_and_not_run_again_unasked(trivial, fake):
    trivial.write(grid={"n": [13, 2]})
    first = anm_nb(trivial)
    assert (first.exit_code, first.stderr) == (1, "anm-nb: 1 of 2 cases failed: n=13\n")
    assert "ValueError: 13" in first.stdout
    assert (trivial.out / "n=13.ipynb").exists()
    second = anm_nb(trivial)
    assert (second.exit_code, fake) == (1, [13, 2])
    assert "2 cases: 1 done before, 1 failed before" in second.stdout
    assert "--retry-failed" in second.stdout
    assert anm_nb(trivial, "--retry-failed").exit_code == 1
    assert fake == [13, 2, 13]


def test_a_dry_run_names_the_cases_and_writes_nothing(trivial, fake):
    trivial.write(grid={"n": [1, 2]}, cases=[{"n": 1}])
    dry = anm_nb(trivial, "--dry-run")
    assert (dry.exit_code, fake, trivial.out.exists()) == (0, [], False)
    assert dry.stdout.splitlines()[:3] == ["to run n=1", "to run n=2", f"2 cases: 2 to run; results in {trivial.out}"]
    assert "1 more in the file are the same as one of its cases" in dry.stdout


@pytest.mark.parametrize(
    ("conditions", "chosen"),
    [
        (["n=2"], {(2, 1e-3), (2, 0.5)}),
        (["x=1e-3"], {(1, 1e-3), (2, 1e-3)}),
        (["n=2", "x=0.5"], {(2, 0.5)}),
        (["n=2", "n=1", "x=0.5", "notebook=square"], {(1, 0.5), (2, 0.5)}),
    ],
)
def test_only_chooses_by_value_and_keeps_what_the_others_left(trivial, fake, conditions, chosen):
    trivial.write(grid={"n": [1, 2], "x": [0.001, 0.5]})
    only = [argument for condition in conditions for argument in ("--only", condition)]
    assert anm_nb(trivial, *only).exit_code == 0
    table = pd.read_parquet(trivial.out / "table.parquet")
    assert set(zip(table["n"], table["x"], strict=True)) == chosen
    assert anm_nb(trivial).exit_code == 0
    assert len(fake) == 4
    assert len(pd.read_parquet(trivial.out / "table.parquet")) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "m=1"], "unknown parameter in --only 'm'"),
        (["--only", "n=7"], "--only n=7: fits none of the 2 cases"),
        (["--only", "n"], "--only n: write NAME=VALUE"),
        (["--scheduler", "tcp://localhost:1"], "--scheduler needs --backend dask"),
        (["--resource", "GPU=1"], "--resource needs --backend dask"),
        (["--resource", "GPU", "--backend", "dask"], "--resource GPU: write NAME=NUMBER"),
        (["--backend", "dask", "--scheduler", "x", "--jobs", "2"], "--jobs is for cases on this machine"),
        (["--profile", "quik"], "unknown profile 'quik'"),
        (["--budget", "0"], "--budget 0: seconds, more than 0"),
    ],
)
def test_refusals_come_before_anything_runs(trivial, fake, arguments, said):
    trivial.write(grid={"n": [1, 2]})
    refused = anm_nb(trivial, *arguments)
    assert (refused.exit_code, fake) == (2, [])
    assert said in refused.stderr
    assert not trivial.out.exists()


def test_after_the_budget_no_case_starts_what_ran_is_kept_and_the_same_command_goes_on(trivial, monkeypatch):
    ran = []

    def run_case(case, *options):
        ran.append(case.name)
        return Outcome(case.name, "failed" if "13" in case.name else "done", 1.0, 64.0, digest=case.digest)

    clock = SimpleNamespace(time=lambda: 1e12 if len(ran) == 2 else 0.0, monotonic=time.monotonic, sleep=time.sleep)
    monkeypatch.setattr(process, "run_case", run_case)
    monkeypatch.setattr(process, "time", clock)
    trivial.write(grid={"n": [1, 13, 2, 3]})
    first = anm_nb(trivial, "--jobs", "1", "--budget", "3600")
    assert (first.exit_code, ran) == (75, ["n=1", "n=13"])
    assert first.stderr == "anm-nb: time is up: 1 done, 1 failed, 2 not finished; the same command goes on from there\n"
    assert pd.read_parquet(trivial.out / "table.parquet")["n"].tolist() == [1, 13]
    ran.append("more time")
    second = anm_nb(trivial, "--jobs", "1", "--budget", "3600")
    assert (second.exit_code, ran[3:]) == (1, ["n=2", "n=3"])
    assert sorted(trivial.outcomes()) == ["n=1", "n=13", "n=2", "n=3"]


def test_two_sweeps_into_one_folder_are_one_too_many(trivial, fake):
    trivial.write(grid={"n": [1]})
    trivial.out.mkdir()
    with FileLock(trivial.out / ".sweep.lock"):
        refused = anm_nb(trivial)
    assert (refused.exit_code, fake) == (2, [])
    assert "another process is running cases into it" in refused.stderr
    assert anm_nb(trivial).exit_code == 0


def test_the_table_has_each_verdict_beside_what_differs(trivial, fake):
    trivial.write(grid={"n": [2, 13]}, cases=[{"n": 3, "x": 2.0}])
    anm_nb(trivial)
    table = pd.read_parquet(trivial.out / "table.parquet")
    assert table["case"].tolist() == ["n=2,x=0.5", "n=13,x=0.5", "n=3,x=2"]
    assert table["n"].tolist() == [2, 13, 3]
    assert table["x"].tolist() == [0.5, 0.5, 2.0]
    assert table["status"].tolist() == ["done", "failed", "done"]
    assert table["verdict"].fillna("").tolist() == ["refuted", "", "refuted"]
    assert table["estimate"].fillna(-1).tolist() == [2, -1, 3]
    assert table["high"].isna().all()
    assert "pause" not in table


def test_columns_of_lists_and_mixed_values_are_json_and_names_do_not_clash(trivial, fake):
    from trivial_sweep import write_notebook

    write_notebook(trivial.notebook, "n = 1\nseeds = [0]\nsize = None", "pass")
    trivial.write(grid={"seeds": [[0], [1, 2]], "size": [None, 3, "big"]})
    anm_nb(trivial)
    table = pd.read_parquet(trivial.out / "table.parquet")
    assert table["parameter_seeds"].map(json.loads).tolist() == [[0]] * 3 + [[1, 2]] * 3
    assert table["size"].fillna("–").tolist() == ["–", "3", '"big"'] * 2


@pytest.mark.parametrize("seed", range(4))
def test_a_full_disk_is_told_and_loses_nothing(trivial, fake, monkeypatch, seed):
    """Writes fail with ENOSPC, half done, at random; restarted until it is through, all is as without the failures."""
    trivial.write(grid={"n": [1, 2, 3, 4]})
    anm_nb(trivial)
    table = (trivial.out / "table.parquet").read_bytes()
    expected, fake[:] = trivial.outcomes(), []
    trivial.out = trivial.folder / "full"
    chance, fsync = random.Random(seed), files.os.fsync

    def sometimes_full(descriptor):
        if chance.random() < 0.25:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", sometimes_full)
    for _ in range(60):
        recorded = trivial.outcomes()
        already = len(fake)
        result = anm_nb(trivial)
        assert not {recorded[f"n={n}"]["name"] for n in fake[already:] if f"n={n}" in recorded}
        assert recorded.keys() <= trivial.outcomes().keys()
        assert trivial.half_written() == []
        if result.exit_code == 0:
            break
        assert result.exit_code == 1
        assert "No space left on device" in result.stderr
        assert "the same command goes on from there" in result.stderr
    assert trivial.outcomes() == expected
    assert (trivial.out / "table.parquet").read_bytes() == table


def test_scores_of_every_seed_stand_beside_the_verdicts(trivial, fake, monkeypatch):
    from stored_training import energy

    from anm_nb.store import get_or_train

    monkeypatch.setenv("ANM_NB_OUTPUTS", str(trivial.folder / "outputs"))
    run = get_or_train(energy("stock"))
    run_cases = workers.run_cases

    def served(*given):
        for outcome in run_cases(*given):
            yield replace(outcome, runs=(run.key,))

    monkeypatch.setattr(workers, "run_cases", served)
    trivial.write(grid={"n": [2, 13]})
    anm_nb(trivial)
    scores = pd.read_csv(trivial.out / "table.csv")
    assert scores["case"].tolist() == ["n=2", "n=2", "n=13", "n=13"]
    assert scores["n"].tolist() == [2, 2, 13, 13]
    assert scores["verdicts"].fillna("").tolist() == ["1 refuted", "1 refuted", "", ""]
    assert scores["seed"].tolist() == [0, 1, 0, 1]
    assert set(scores["method"]) == {"stock"}
    last = run.metrics.groupby("seed").last()
    names = [name for name in last if last[name].notna().all() and last[name].dtype == "float64"]
    assert len(names) > 5
    for name in names:
        assert scores[name].tolist() == pytest.approx([*last[name]] * 2)


def test_a_case_whose_runs_are_gone_keeps_its_row(trivial, fake, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(trivial.folder / "outputs"))
    trivial.write(grid={"n": [1, 2]})
    anm_nb(trivial)
    scores = pd.read_csv(trivial.out / "table.csv")
    assert scores[["case", "run", "verdicts"]].values.tolist() == [
        ["n=1", "run1", "1 refuted"],
        ["n=2", "run2", "1 refuted"],
    ]


# where results go


@pytest.mark.parametrize("how", ["itself", "by a link", "by a way around", "relative"])
def test_the_notebooks_own_folder_takes_no_results(trivial, fake, monkeypatch, how):
    trivial.write()
    monkeypatch.chdir(trivial.folder.parent)
    (trivial.folder / "link").symlink_to(trivial.folder)
    ways = {"by a link": trivial.folder / "link", "by a way around": trivial.folder / "link" / ".." / "link"}
    trivial.out = ways.get(how, trivial.folder if how == "itself" else Path(trivial.folder.name))
    before = trivial.notebook.read_bytes()
    refused = anm_nb(trivial)
    assert (refused.exit_code, fake) == (2, [])
    assert "holds the notebooks themselves; choose another folder" in refused.stderr
    assert trivial.notebook.read_bytes() == before


def test_the_run_store_takes_no_results(trivial, fake, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(trivial.folder / "outputs"))
    trivial.write()
    trivial.out = trivial.folder / "outputs" / "runs" / "mine"
    refused = anm_nb(trivial)
    assert (refused.exit_code, fake) == (2, [])
    assert "is the run store's" in refused.stderr


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "runs", "reference", "quick"])
def test_a_sweep_s_name_leads_to_a_folder_of_its_own(trivial, fake, monkeypatch, name):
    """`...yaml` is the name `..`, whose results would lie beside outputs/."""
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(trivial.folder / "outputs"))
    path = trivial.folder / f"{name}.yaml"
    trivial.write().rename(path)
    refused = CliRunner().invoke(app, ["sweep", str(path)])
    assert (refused.exit_code, fake) == (2, [])
    assert str(path) in refused.stderr
    assert "rename the file" in refused.stderr
    assert not (trivial.folder / "outputs").exists()
    assert CliRunner().invoke(app, ["sweep", str(path), "--out", str(trivial.out)]).exit_code == 0
