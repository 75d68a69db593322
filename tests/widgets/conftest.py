"""A store with small runs of both families, trained once for all tests of the explorers."""

from dataclasses import dataclass

import pytest

from anm_nb.exploration import ExploreMargins, ExploreRouting
from anm_nb.store import Run

SMALL = {"size": 2, "width": 8, "batch": 8, "steps": 6, "records": 3, "dev_examples": 12, "seeds": [0, 1]}
BOARD = {"width": 8, "batch": 8, "steps": 4, "records": 3, "dev_examples": 4, "task_options": {"pool": 30}}


@dataclass(frozen=True)
class Stored:
    energies: dict[str, Run]
    board: Run
    rankings: dict[str, Run]


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Trained once; whoever uses it points to it by the environment."""
    outputs = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(outputs))
        margins = ExploreMargins(**SMALL, strategies=["none", "anm"], board=BOARD)
        routing = ExploreRouting(epochs=2, train_samples=32, dev_samples=8, test_samples=8, width=8, seeds=[0, 1])
        energies, board = margins.get_or_train(), margins.get_or_train_board()
        return outputs, Stored(energies, board, routing.get_or_train())


@pytest.fixture
def stored(store, monkeypatch):
    outputs, runs = store
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(outputs))
    return runs
