"""A store with small runs of both families, trained once for all tests of the explorers."""

from dataclasses import dataclass

import pytest

from anm_nb import store as runs
from anm_nb.energy.negatives import get_negatives
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.train import RankingConfig
from anm_nb.store import Run

SMALL = {"task": "inverse", "size": 2, "width": 8, "batch": 8, "steps": 6, "records": 3, "dev_examples": 12,
         "ema_decay": 0.9, "seeds": [0, 1], "keep_weights": True}  # fmt: skip
BOARD = SMALL | {"task": "sudoku", "size": 4, "steps": 4, "network": "mlp", "dev_examples": 4, "inner_steps": 1,
                 "task_options": {"pool": 30}}  # fmt: skip
RANKING = {"size": 10, "width": 8, "max_inner_iters": 3, "hrm_period": 2, "warmup_epochs": 1, "epochs": 2,
           "train_samples": 32, "dev_samples": 8, "test_samples": 8, "encoder_lr": 5e-3, "controller_lr": 2e-3,
           "seeds": [0, 1]}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    energies: dict[str, Run]
    board: Run
    ranking: Run


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Folder and runs, trained once; tests that use them set ANM_NB_OUTPUTS to the folder."""
    outputs = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(outputs))
        negatives = {name: get_negatives(name) for name in ("stock", "anm")}
        configs = {"none": EnergyConfig(**SMALL), "anm": EnergyConfig(**SMALL, negatives=negatives["anm"])}
        energies = {name: runs.get_or_train(config) for name, config in configs.items()}
        board = runs.get_or_train(EnergyConfig(**BOARD, negatives=negatives["stock"]))
        return outputs, Stored(energies, board, runs.get_or_train(RankingConfig(**RANKING)))


@pytest.fixture
def stored(store, monkeypatch, tmp_path):
    """The trained runs alone, without those that come with the project."""
    outputs, trained = store
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(outputs))
    monkeypatch.setattr("anm_nb.widgets.explorer.kept_root", lambda: tmp_path / "nothing kept")
    return trained
