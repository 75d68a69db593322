"""A run is trained once, is never stale or incomplete, and records its provenance."""

import builtins
import os
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import torch

from anm_nb.energy.train import EnergyConfig
from anm_nb.store import RunConfig, get_or_train, run_key, scan
from anm_nb.training.run import Trained


class Toy(RunConfig):
    """Trains by multiplication in two halves; the first half survives an interruption."""

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
    """A separate store for each test."""
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def trained(outputs: Path) -> list[int]:
    """The values that `Toy` trained, in order."""
    return [int(each) for each in (outputs / "trained").read_text().split()]


def energy_config(negatives="stock", **options):
    small = {"size": 2, "width": 8, "levels": 4, "dev_examples": 4, "seeds": [0], "inner_steps": 1}
    small |= {"steps": 4, "batch": 8, "records": 3, "checkpoint_every": 2}
    return EnergyConfig(**small | options, negatives=negatives)


def test_a_config_is_trained_once_and_read_from_then_on(outputs, tmp_path, monkeypatch):
    assert scan()[0] == []
    monkeypatch.setenv("ANM_NB_RUNS_USED", str(tmp_path / "used"))
    run, again = get_or_train(Toy(value=3)), get_or_train(Toy(value=3))
    assert trained(outputs) == [3]
    assert run.path == again.path == outputs / "runs" / run.key
    assert again.metrics["result"].tolist() == [0.1, 12.0]
    assert get_or_train(Toy(value=4)).metrics["result"].tolist() == [0.1, 16.0]
    assert [stored.key for stored in scan()[0]] == [run.key, run_key(Toy(value=4))]
    assert (tmp_path / "used").read_text() == f"{run.key}\n" * 2 + f"{run_key(Toy(value=4))}\n"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_training_leaves_no_run_and_is_resumed(interrupt, outputs, monkeypatch):
    monkeypatch.setenv("TOY_INTERRUPT", interrupt.__name__)
    with pytest.raises(interrupt):
        get_or_train(Toy(value=5))
    assert scan()[0] == []
    monkeypatch.delenv("TOY_INTERRUPT")
    assert get_or_train(Toy(value=5)).metrics["result"].tolist() == [0.1, 20.0]
    assert trained(outputs) == [5]  # the first half was not done twice


def test_values_version_device_and_class_are_in_the_key(monkeypatch):
    class Other(Toy):
        pass

    keys = [run_key(config) for config in (Toy(), Toy(value=2), Toy(note="x"), Toy(note=""), Other())]
    monkeypatch.setenv("TOY_DEVICE", "cuda")
    keys.append(run_key(Toy()))
    monkeypatch.setattr(Toy, "version", 2)
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


def test_a_run_reads_back_as_it_was(outputs, tmp_path):
    config = energy_config({"name": "anm", "miner": {"steps": 2}}, seeds=[4, 2], contrastive_weight=0.1)
    key = get_or_train(config).key
    (stored,) = scan()[0]
    assert (stored.key, run_key(stored.config), stored.config) == (key, key, config)
    assert not list((outputs / "runs" / ".partial").glob("*/*"))  # nothing is left behind

    (tmp_path / "again").mkdir()
    again = config.train(tmp_path / "again")
    pd.testing.assert_frame_equal(stored.metrics, again.metrics, check_exact=True)
    for kept, expected in ((stored.trace, again.trace), (stored.weights, again.weights)):
        assert kept.keys() == expected.keys()
        assert all(torch.equal(kept[name], expected[name]) for name in expected)

    assert stored.provenance["versions"]["torch"] == version("torch")
    assert {"commit", "dirty", "platform", "finished", "device", "wall_seconds"} < set(stored.provenance)
