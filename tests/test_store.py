"""A run is trained once, never served stale, never half there, and says where it comes from."""

import builtins
import importlib
import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import torch

from anm_nb.energy.train import EnergyConfig, EnergyLearner
from anm_nb.provenance import PACKAGES
from anm_nb.store import RunConfig, finished_runs, get_or_train, run_key
from anm_nb.training.run import Trained


class Toy(RunConfig):
    """Trains by multiplication, in two halves, of which the first survives an interruption."""

    value: int = 1
    note: str | None = None

    def device_kind(self):
        return os.environ.get("TOY_DEVICE", "cpu")

    def train(self, workdir):
        half = workdir / "half"
        if not half.exists():
            with (workdir.parents[2] / "trained").open("a") as log:
                log.write(f"{self.value} ")
            half.write_text(str(2 * self.value))
        if "TOY_INTERRUPT" in os.environ:
            raise getattr(builtins, os.environ["TOY_INTERRUPT"])
        result = 2 * float(half.read_text())
        metrics = pd.DataFrame({"seed": [0, 0], "step": [0, 1], "result": [0.1, result]})
        return Trained(metrics, {"curve": torch.tensor([[0.1, result]])}, {"seed0.model.w": torch.tensor(result)})


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """A store of the test's own."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(folder))
    return folder


def trained(outputs: Path) -> list[int]:
    """What `Toy` trained, in order."""
    log = outputs / "trained"
    return [int(each) for each in log.read_text().split()] if log.exists() else []


def energy_config(negatives="stock", **options):
    small = {"size": 2, "width": 8, "levels": 4, "dev_examples": 4, "seeds": [0], "inner_steps": 1}
    small |= {"steps": 4, "batch": 8, "records": 3, "checkpoint_every": 2}
    return EnergyConfig(**small | options, negatives=negatives)


# once


def test_a_config_is_trained_once_and_read_from_then_on(outputs):
    run = get_or_train(Toy(value=3))
    again = get_or_train(Toy(value=3))
    assert trained(outputs) == [3]
    assert run.path == again.path == outputs / "runs" / run.key
    assert again.metrics["result"].tolist() == [0.1, 12.0]
    assert get_or_train(Toy(value=4)).metrics["result"].tolist() == [0.1, 16.0]
    assert trained(outputs) == [3, 4]
    assert [stored.key for stored in finished_runs()] == [run.key, run_key(Toy(value=4))]


def test_an_empty_store_has_no_runs():
    assert finished_runs() == []


SLOW = """
import pathlib, sys, time
import pandas as pd
from anm_nb.provenance import PACKAGES
from anm_nb.store import RunConfig, get_or_train
from anm_nb.training.run import Trained

HERE = pathlib.Path(__file__).parent

class Slow(RunConfig):
    def device_kind(self):
        return "cpu"
    def train(self, workdir):
        with open(HERE / "log", "a") as log:
            log.write("trained ")
        time.sleep(0.7)
        return Trained(pd.DataFrame({"seed": [0], "step": [0], "result": [1.5]}), {}, {})

def ask(me, other):
    (HERE / me).touch()
    while not (HERE / other).exists():
        time.sleep(0.01)
    return get_or_train(Slow()).metrics["result"].tolist()
"""


def test_two_processes_asking_for_the_same_run_train_it_once(tmp_path, monkeypatch):
    (tmp_path / "slow_training.py").write_text(SLOW)
    program = "import slow_training; print(slow_training.ask('there', 'here'))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=env) as other:
        monkeypatch.syspath_prepend(tmp_path)
        assert importlib.import_module("slow_training").ask("here", "there") == [1.5]
        assert other.communicate(timeout=60)[0].strip() == "[1.5]"
    assert (tmp_path / "log").read_text() == "trained "


# never half there


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_training_is_no_run_and_is_resumed(interrupt, outputs, monkeypatch):
    monkeypatch.setenv("TOY_INTERRUPT", interrupt.__name__)
    with pytest.raises(interrupt):
        get_or_train(Toy(value=5))
    assert finished_runs() == []
    monkeypatch.delenv("TOY_INTERRUPT")
    assert get_or_train(Toy(value=5)).metrics["result"].tolist() == [0.1, 20.0]
    assert trained(outputs) == [5]  # the first half was not done twice


@pytest.mark.parametrize(
    "write",
    ["pandas.DataFrame.to_parquet", "safetensors.torch.save", "anm_nb.store.describe_environment", "os.replace"],
)
def test_a_run_that_could_not_be_written_is_no_run(write, outputs, monkeypatch):
    def full(*arguments, **options):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(write, full)
        with pytest.raises(OSError, match="no space left"):
            get_or_train(Toy(value=6))
    assert finished_runs() == []
    assert list((outputs / "runs").glob("[!.]*")) == []
    assert get_or_train(Toy(value=6)).metrics["result"].iloc[-1] == 24
    assert len(finished_runs()) == 1


def test_an_interrupted_energy_training_resumes_to_the_run_it_would_have_been(outputs, tmp_path, monkeypatch):
    config = energy_config("anm")
    computing = EnergyLearner.inputs

    def dying(self, step):
        if step == 3:
            raise KeyboardInterrupt
        return computing(self, step)

    def counting(self, step):
        computed.append(step)
        return computing(self, step)

    computed: list[int] = []
    monkeypatch.setattr(EnergyLearner, "inputs", dying)
    with pytest.raises(KeyboardInterrupt):
        get_or_train(config)
    assert finished_runs() == []
    monkeypatch.setattr(EnergyLearner, "inputs", counting)
    resumed = get_or_train(config)
    assert computed == [2, 3, 4]  # from the checkpoint before step 2
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "elsewhere"))
    whole = get_or_train(config)
    assert (resumed.key, len(computed)) == (whole.key, 8)
    pd.testing.assert_frame_equal(resumed.metrics, whole.metrics, check_exact=True)
    for stored, expected in ((resumed.trace, whole.trace), (resumed.weights, whole.weights)):
        assert stored.keys() == expected.keys()
        assert all(torch.equal(stored[name], expected[name]) for name in expected)


# never stale


def test_every_value_and_the_device_and_the_class_are_in_the_key(monkeypatch):
    class Other(Toy):
        pass

    keys = [run_key(config) for config in (Toy(), Toy(value=2), Toy(note="x"), Toy(note=""), Other())]
    monkeypatch.setenv("TOY_DEVICE", "cuda")
    keys.append(run_key(Toy()))
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)


def test_the_key_is_the_same_however_a_config_was_written():
    keys = {
        run_key(energy_config(negatives, **options))
        for negatives in ("anm", {"name": "anm"}, {"name": "anm", "orthogonal_to_noise": False})
        for options in ({}, {"seeds": (0,)}, {"contrastive_weight": None})
    }
    assert len(keys) == 1
    assert run_key(energy_config({"name": "anm", "orthogonal_to_noise": True})) not in keys


def test_a_raised_version_and_a_changed_class_of_your_own_train_anew(outputs, monkeypatch):
    keys = [run_key(energy_config())]
    monkeypatch.setattr(EnergyConfig, "version", EnergyConfig.version + 1)
    keys.append(run_key(energy_config()))
    assert len(set(keys)) == 2
    before = get_or_train(Toy(value=7))
    monkeypatch.setattr(Toy, "train", lambda self, workdir: train_otherwise(self, workdir))
    assert get_or_train(Toy(value=7)).key != before.key
    assert len(finished_runs()) == 2


TOY_TRAIN = Toy.train


def train_otherwise(toy, workdir):
    return TOY_TRAIN(toy, workdir)


# what a run says


def test_a_run_reads_back_as_it_was(tmp_path):
    config = energy_config({"name": "anm", "miner": {"steps": 2}}, seeds=[4, 2], contrastive_weight=0.1)
    started = time.monotonic()
    run = get_or_train(config)
    elapsed = time.monotonic() - started
    (stored,) = finished_runs()
    assert stored.path == run.path
    assert stored.config == config
    assert type(stored.config) is EnergyConfig
    assert run_key(stored.config) == stored.key
    assert stored.settings == config.model_dump(mode="json")
    assert stored.settings["negatives"]["miner"]["steps"] == 2

    (tmp_path / "again").mkdir()
    trained = config.train(tmp_path / "again")
    pd.testing.assert_frame_equal(stored.metrics, trained.metrics, check_exact=True)
    for kept, expected in ((stored.trace, trained.trace), (stored.weights, trained.weights)):
        assert kept.keys() == expected.keys()
        assert all(torch.equal(kept[name], expected[name]) for name in expected)
    learner = config.learner(4, "cpu")
    prefix = "seed4.averaged."
    learner.model.members[0].load_state_dict(
        {name.removeprefix(prefix): t for name, t in stored.weights.items() if name.startswith(prefix)}
    )

    provenance = stored.provenance
    assert provenance["versions"]["torch"] == version("torch")
    assert set(PACKAGES) < set(provenance["versions"])
    assert 0 < provenance["wall_seconds"] <= elapsed
    assert 50 < provenance["peak_memory_mib"] < 100_000
    assert provenance["device"].startswith("cpu ")
    assert {"commit", "dirty", "cpu_count", "platform", "finished"} < set(provenance)


def test_the_stored_config_is_plain_json(outputs):
    run = get_or_train(energy_config("none"))
    stored = json.loads((run.path / "config.json").read_text())
    assert stored["class"] == "anm_nb.energy.train:EnergyConfig"
    assert stored["config"]["negatives"] == "none"
    assert not list((outputs / "runs" / ".partial").glob("*/*"))  # nothing is left behind
