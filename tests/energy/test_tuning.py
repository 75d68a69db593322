"""Notebook 16's tuning study: grids grow at their edges, dev scores decide, and interrupted studies continue."""

import pandas as pd
import pytest
from notebook_cells import names_of

from anm_nb.training import OutOfTime, time_limit
from anm_nb.training.loop import Training

CELLS = ("settings", "kl", "options", "runs", "stack", "train", "stacks", "choose")
TINY = {
    "size": 2, "width": 4, "batch": 4, "steps": 2, "dev_examples": 2, "test_examples": 2, "records": 3,
    "methods": ["none", "anm"], "candidate": "anm", "lrs": [0.01, 0.02], "n_options": 1, "growth": 0,
    "tuning_seeds": [5], "seeds": [1], "levels": 2, "inner_steps": 1,
}  # fmt: skip


def study(*more, **values):
    return names_of("16_anm_verdict", *CELLS, *more, **TINY | values)


def table(*rows):
    """Final records of 10-step runs from (method, lr, dev errors by seed); None for a diverged seed."""
    names = ["method", "option", "lr", "weight", "seed", "stage", "steps", "step", "dev"]
    found = [
        (method, "", lr, 0.0, seed, "s", 10, 3 if dev is None else 10, dev)
        for method, lr, devs in rows
        for seed, dev in enumerate(devs)
    ]
    return pd.DataFrame(found, columns=names).assign(test_same=0.5, test_harder=0.5)


def test_a_setting_with_a_diverged_seed_is_never_chosen_and_edges_are_flagged():
    cells = study()
    runs = table(("none", 0.1, [0.3, 0.3]), ("none", 0.2, [0.2, 0.3]), ("none", 0.4, [0.0, None]))
    found = cells["choices"](runs)
    assert cells["settings_of"](found) == [("none", "", 0.2, 0.0)]
    assert found[["dev", "settings_tried", "on_an_edge"]].values.tolist() == [[0.25, 3, False]]
    runs = table(("none", 0.1, [0.1, 0.3]), ("none", 0.2, [0.3, 0.3]))
    assert cells["choices"](runs)["on_an_edge"].tolist() == [True]


def test_a_grid_grows_beyond_the_edge_with_the_best_setting():
    cells = study()
    beyond, setting = cells["beyond"], cells["Setting"]
    tried = [setting("stock", "", lr, 0.5) for lr in (0.1, 0.2)]
    assert beyond(tried, tried[1], ["lr"]) == [("stock", "", 0.4, 0.5)]
    assert beyond(tried, tried[0]) == [
        ("stock", "", 0.05, 0.5),
        ("stock", "", 0.1, 0.25),
        ("stock", "", 0.1, 1.0),
    ]
    most = [setting("none", "", lr, 0.0) for lr in (1.0, 0.5)]
    assert beyond(most, most[0]) == []


def test_an_interrupted_study_continues_and_confirms_at_equal_multiply_adds(tmp_path, monkeypatch, quick_disk):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    with time_limit(0), pytest.raises(OutOfTime):
        study("tune")
    cells = study("tune", "confirmation", "confirm")
    counted = cells["choices"](cells["tuning"]).set_index("method")["settings_tried"]
    assert counted.to_dict() == {"none": 2 + 3, "anm": 2 + 3}
    assert list(cells["tuning"]["stage"].unique()) == ["learning rate", "options"]
    confirmed = cells["confirmed"]
    assert set(confirmed["method"]) == {"none", "anm", "none, more steps", "none, larger batch"}
    ends = confirmed.groupby("method")[["steps", "multiply_adds"]].max()
    one_step = ends.loc["none, more steps", "multiply_adds"] / ends.loc["none, more steps", "steps"]
    assert ends.loc["none, more steps", "multiply_adds"] == pytest.approx(
        ends.loc["anm", "multiply_adds"], abs=one_step
    )
    assert confirmed.groupby(["method", "seed"])[["test_same", "test_harder"]].last().notna().all(axis=None)
    assert (confirmed["step_ms"] > 0).all()

    monkeypatch.delattr(Training, "run")  # finished runs are not trained again
    pd.testing.assert_frame_equal(study("tune", "confirmation", "confirm")["confirmed"], confirmed)
