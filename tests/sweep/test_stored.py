"""What a sweep makes of results that were changed after it wrote them, and of folders that are not its to fill."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from anm_nb.cli import app


def anm_nb(trivial, *arguments: str):
    return trivial.invoke(*arguments)


# what is stored is not believed unseen


def swap(trivial):
    one, two = (trivial.out / f"n={n}.ipynb" for n in (1, 2))
    texts = one.read_bytes(), two.read_bytes()
    one.write_bytes(texts[1]), two.write_bytes(texts[0])


def edit(path, old: str, new: str):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("change", "again", "named"),
    [
        (lambda t: edit(t.out / "n=2.ipynb", '"refuted"', '"supported"'), [2], ["n=2.ipynb is not the notebook"]),
        (swap, [1, 2], ["n=1.ipynb is not the notebook", "n=2.ipynb is not the notebook"]),
        (lambda t: (t.out / "n=1.ipynb").write_text('{"cells": ['), [1], ["n=1.ipynb is not the notebook"]),
        (lambda t: (t.out / "n=1.ipynb").unlink(), [1], ["n=1.ipynb is not the notebook"]),
        (lambda t: edit(t.out / "outcomes.json", '"done"', '"bone"'), [1], ["outcomes.json: what it says of n=1 is"]),
        (lambda t: edit(t.out / "outcomes.json", '"failed"', '"done"'), [13], ["outcomes.json: what it says of n=13"]),
        (lambda t: edit(t.out / "outcomes.json", '"n=1"', '"n=2"'), [1], ["outcomes.json: what it says of n=2 is"]),
        (lambda t: edit(t.out / "outcomes.json", '"run1"', '"run7"'), [1], ["outcomes.json: what it says of n=1 is"]),
        (lambda t: edit(t.out / "outcomes.json", "2.0", "3.0"), [1], ["outcomes.json: what it says of n=1 is"]),
        (lambda t: (t.out / "outcomes.json").write_text("[{"), [1, 13, 2], ["outcomes.json cannot be read"]),
        (lambda t: (t.out / "outcomes.json").write_bytes(b"\xff"), [1, 13, 2], ["outcomes.json cannot be read"]),
        (lambda t: (t.out / "outcomes.json").write_text("[1, null]"), [1, 13, 2], ["outcomes.json: what it says of"]),
    ],
)
def test_what_is_not_as_it_was_written_is_named_and_runs_again(trivial, fake, change, again, named):
    trivial.write(grid={"n": [1, 13, 2]})
    anm_nb(trivial)
    table, expected = (trivial.out / "table.parquet").read_bytes(), trivial.outcomes()
    fake.clear()
    change(trivial)
    dry = anm_nb(trivial, "--dry-run")
    result = anm_nb(trivial)
    assert (result.exit_code, fake) == (1, again), result.output
    for said in named:
        assert f"{trivial.out}/{said}" in result.stderr
        assert said in dry.stderr
    assert (trivial.out / "table.parquet").read_bytes() == table
    assert trivial.outcomes() == expected
    assert "written" not in anm_nb(trivial).stderr


def test_outcomes_that_are_a_folder_are_named(trivial, fake):
    trivial.write(grid={"n": [1]})
    (trivial.out / "outcomes.json").mkdir(parents=True)
    refused = anm_nb(trivial)
    assert refused.exit_code == 1
    assert f"{trivial.out / 'outcomes.json'} cannot be read" in refused.stderr
    assert "outcomes.json" in refused.stderr.splitlines()[-1]


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
    assert "give the file another name" in refused.stderr
    assert not (trivial.folder / "outputs").exists()
    assert CliRunner().invoke(app, ["sweep", str(path), "--out", str(trivial.out)]).exit_code == 0
