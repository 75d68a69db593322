"""The GPU campaign at tiny sizes: its output files, no repeated work, and failures that stop nothing else."""

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from runpy import run_path

import pandas as pd
import pytest
import yaml
from safetensors.torch import load

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_campaign.py"
TINY = {"size": 3, "width": 8, "batch": 8, "steps": 4, "records": 3, "dev_examples": 4, "test_examples": 4}
LIST = [
    {"name": "unknown", "family": "energy", "base": {"tusk": "inverse"}},
    {"name": "one", "family": "energy", "base": TINY | {"task": "inverse", "seeds": [0, 1]}, "cases": [{"lr": 1e-3}]},
    {"name": "weights", "family": "energy", "base": TINY | {"task": "addition", "negatives": "stock", "seeds": [3]},
     "grid": {"contrastive_weight": [0.5, 0.1]}},
]  # fmt: skip


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    """A function that runs the command with a list of runs and returns its output."""
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump(LIST))

    def run(*options: str, budget: int = 300) -> str:
        command = [sys.executable, str(SCRIPT), "--budget", str(budget), "--out", str(tmp_path / "out"), *options]
        if "--list" not in options:
            command += ["--list", str(path)]
        options = {"env": os.environ | {"PYTHONPATH": ""}, "cwd": tmp_path, "capture_output": True, "text": True}
        answer = subprocess.run(command, check=False, **options)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    return run


@pytest.fixture
def parts(monkeypatch):
    """The campaign's modules, imported as the script imports them."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import campaign_log
    import campaign_runs
    import campaign_steps

    return campaign_log, campaign_runs, campaign_steps


def test_runs_are_trained_tabulated_and_exported_once(campaign, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    output = campaign("--parts", "runs,export", "--commit", "abc")
    assert "FAILED to plan 'unknown'" in output
    assert "did you mean 'task'" in output
    assert "weights contrastive_weight=0.5; weights contrastive_weight=0.1" in output  # one stack
    left = {path.name for path in out.iterdir() if path.is_file()}
    assert left == {"curves.parquet", "log.txt", "runs.csv", "runs_1.zip"}
    runs = pd.read_csv(out / "runs.csv")
    trained = [["inverse", "none", 0, 4], ["inverse", "none", 1, 4], *[["addition", "stock", 3, 4]] * 2]
    assert runs[["task", "method", "seed", "steps"]].values.tolist() == trained
    scores = ["same/mse/model", "harder/mse/model", "same/mse/zero", "seconds"]
    assert runs[[*scores, "card", "torch", "finished"]].notna().all(axis=None)
    curves = pd.read_parquet(out / "curves.parquet")
    assert set(curves["key"]) == set(runs["key"])
    assert curves["finished"].all()
    with zipfile.ZipFile(out / "runs_1.zip") as archive:
        key = runs["key"].iloc[0]
        weights = load(archive.read(f"{key}/checkpoint.safetensors"))
        provenance = json.loads(archive.read(f"{key}/provenance.json"))
    assert {name.split(".")[0] for name in weights} == {"seed0", "seed1"}
    assert {str(each.dtype) for each in weights.values()} == {"torch.float16"}
    assert provenance["export"] == {"weights": "float16", "left_out": []}

    # As on another machine with only the files above; here without the supervising process.
    (out / "work").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(out / "work"))
    options = ["--out", out, "--work", out / "work", "--list", tmp_path / "list.yaml", "--commit", "abc"]
    options += ["--parts", "runs,export", "--no-weights", "--budget", 300, "--until", time.time() + 300]
    monkeypatch.setattr(sys, "argv", ["gpu_campaign.py", *map(str, options)])
    monkeypatch.syspath_prepend(SCRIPT.parent)
    assert run_path(str(SCRIPT))["main"]() == 0
    output = capsys.readouterr().out
    assert output.count("finished before: ") == 2
    assert "trains" not in output
    assert pd.read_csv(out / "runs.csv").equals(runs)
    with zipfile.ZipFile(out / "runs_1.zip") as archive:
        assert load(archive.read(f"{key}/checkpoint.safetensors")) == {}


def test_a_run_out_of_time_continues_in_the_next_campaign(parts, tmp_path, monkeypatch):
    log, runs, _ = parts
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump(LIST[1:2]))
    noted = log.Log(tmp_path / "log.txt")
    (stack,) = runs.plan(path, False, noted)
    monkeypatch.setattr(runs, "LEAST_S", -1.0)
    assert runs.train(stack, 0.0, lambda name: True, noted) == "trained"
    assert "continues next time: run again to continue from step 0 of 4" in noted.path.read_text()
    assert runs.train(stack, 600.0, lambda name: True, noted) == "trained"
    assert "same/mse/model" in noted.path.read_text()
    assert runs.train(stack, 600.0, lambda name: True, noted) == "kept"


def test_the_list_follows_the_design(parts, tmp_path):
    log, runs, _ = parts
    noted = log.Log(tmp_path / "log.txt")
    stacks = runs.plan(ROOT / "params" / "sweeps" / "gpu.yaml", False, noted)
    assert not noted.path.exists(), noted.path.read_text()
    first = [name for stack in stacks for name in stack.configs][:4]
    assert first == [f"continuous task=inverse negatives={each}" for each in ("none", "stock", "anm", "anm_orthogonal")]
    grid = [stack for stack in stacks if "hinted sorting" in stack.name]
    assert [len(stack.configs) for stack in grid] == [5, 1, 1, 1, 1, 1, 1]
    assert {len(config.seeds) for stack in grid for config in stack.configs.values()} == {10}
    assert stacks[-1].name.startswith("as published")


@pytest.mark.slow
def test_the_whole_campaign_within_a_minute(campaign, tmp_path):
    output = campaign("--list", str(ROOT / "params" / "sweeps" / "gpu.yaml"), budget=60)
    assert "tests: status" in output
    assert "campaign ended" in output
    steps = pd.read_csv(tmp_path / "out" / "steps.csv")
    assert steps["ms"].notna().all()
    assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) >= 2
    assert len([path for path in (tmp_path / "out").iterdir() if path.is_file()]) <= 8
