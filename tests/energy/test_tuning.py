"""The tuning study: grids that grow at their edges, choices on dev, runs that go on, and stacks of learning rates."""

import pandas as pd
import pytest

from anm_nb.config import ParameterError
from anm_nb.energy.train import EnergyConfig
from anm_nb.energy.tuning import (
    METHODS,
    Setting,
    Tuning,
    beyond,
    choices,
    confirm,
    confirmation,
    multiply_adds,
    settings_of,
    tune,
)

TINY = {"size": 2, "width": 8, "batch": 8, "steps": 4, "dev_examples": 4, "test_examples": 4, "records": 3}


def table(*rows):
    """Final records of 10 steps: (method, lr, dev errors of the seeds), None for a seed that diverged."""
    names = ["method", "option", "lr", "weight", "seed", "stage", "steps", "step", "dev"]
    found = [
        (method, "", lr, 0.0, seed, "s", 10, 3 if dev is None else 10, dev)
        for method, lr, devs in rows
        for seed, dev in enumerate(devs)
    ]
    return pd.DataFrame(found, columns=names).assign(test_same=0.5, test_harder=0.5)


def test_a_setting_with_a_diverged_seed_is_never_chosen_and_an_edge_is_said():
    runs = table(("none", 0.1, [0.3, 0.3]), ("none", 0.2, [0.2, 0.3]), ("none", 0.4, [0.0, None]))
    assert settings_of(choices(runs)) == [Setting("none", "", 0.2, 0.0)]
    assert choices(runs)[["dev", "settings_tried", "on_an_edge"]].values.tolist() == [[0.25, 3, False]]
    runs = table(("none", 0.1, [0.1, 0.3]), ("none", 0.2, [0.3, 0.3]))
    assert choices(runs)["on_an_edge"].tolist() == [True]


def test_a_grid_grows_beyond_the_edge_that_the_best_lies_on():
    tried = [Setting("stock", "", lr, 0.5) for lr in (0.1, 0.2)]
    assert beyond(tried, tried[1], ["lr"]) == [Setting("stock", "", 0.4, 0.5)]
    assert beyond(tried, tried[0]) == [
        Setting("stock", "", 0.05, 0.5),
        Setting("stock", "", 0.1, 0.25),
        Setting("stock", "", 0.1, 1.0),
    ]
    assert beyond([Setting("none", "", 1.0, 0.0), Setting("none", "", 0.5, 0.0)], Setting("none", "", 1.0, 0.0)) == []


def test_a_study_goes_on_where_it_was_left_and_confirms_at_equal_multiply_adds(tmp_path, monkeypatch):
    for method in ("none", "anm"):
        monkeypatch.setitem(METHODS, method, {})
    study = Tuning(**TINY, methods=["none", "anm"], lrs=[0.01, 0.02], tuning_seeds=[5], seeds=[1, 2], growth=0)
    said = []
    runs = tune(study, tmp_path, said.append)
    assert said
    assert choices(runs).set_index("method")["settings_tried"].to_dict() == {"none": 2, "anm": 2 + 3 * 3}
    trained = len(said)
    pd.testing.assert_frame_equal(tune(study, tmp_path, said.append), runs)
    assert len(said) == trained
    confirmed = confirm(study, confirmation(study, settings_of(choices(runs))), tmp_path, said.append)
    assert set(confirmed["method"]) == {"none", "anm", "none, more steps", "none, larger batch"}
    ends = confirmed.groupby("method")[["steps", "multiply_adds"]].max()
    one_step = ends.loc["none, more steps", "multiply_adds"] / ends.loc["none, more steps", "steps"]
    assert ends.loc["none, more steps", "multiply_adds"] == pytest.approx(
        ends.loc["anm", "multiply_adds"], abs=one_step
    )
    assert confirmed.groupby(["method", "seed"])["test_same"].last().notna().all()
    assert (confirmed["step_ms"] > 0).all()


def test_multiply_adds_are_those_of_the_matrix_products():
    config = EnergyConfig(task="addition", size=2, width=8, batch=16, head="scalar")
    once, twice, thrice = (multiply_adds(config.model_copy(update={"batch": 16 * n})) for n in (1, 2, 3))
    assert thrice - twice == twice - once  # beyond the embedding of the levels, the same for each example
    hidden = 16 * (8 * 8 + 2 * 8 * 8)  # two inputs of 4 entries, width 8: run, differentiated by y, and both again
    assert 4 * hidden < twice - once < 9 * hidden


def test_options_are_of_the_config_or_of_the_strategy():
    study = Tuning(**TINY)

    def config(method, option):
        return study.config(Setting(method, option, 0.01, 0.0), (1, 2))

    assert config("none", "scalar head").head == "scalar"
    assert config("anm", "soft label").soft_label
    assert config("anm_orthogonal", "5 inner steps").negatives.miner.steps == 5
    near = config("random_orthogonal", "radius ‖y‖/4").negatives
    assert (near.name, near.eps, near.orthogonal_to_noise) == ("random", 0.25, True)
    assert config("random_orthogonal", "").negatives.eps == type(near)().eps


def test_what_cannot_be_a_study_is_refused_before_any_work():
    with pytest.raises(ParameterError, match=r"share \[100\]: they must be disjoint"):
        Tuning(seeds=(100, 200, 201))
    with pytest.raises(ParameterError, match=r"methods: unknown method 'stok' \(did you mean 'stock'\?\)"):
        Tuning(methods=("stok",))
    with pytest.raises(ParameterError, match="is scored by board_accuracy"):
        Tuning(task="sudoku", size=4)
