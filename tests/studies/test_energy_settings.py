"""The settings of the energy notebooks become runs that differ in nothing but what is compared."""

import pytest

from anm_nb.config import ParameterError
from anm_nb.store import run_key
from anm_nb.studies import energy_settings as experiments
from anm_nb.studies.energy_settings import AnmVsCorruption, Sanity

SMALL = {"size": 2, "width": 8, "batch": 8, "steps": 4, "records": 3, "dev_examples": 4, "seeds": [1, 0]}


def test_the_runs_compared_differ_in_their_negatives_alone():
    configs = AnmVsCorruption(**SMALL).configs()
    assert list(configs) == ["none", "stock", "random", "anm", "anm_orthogonal"]
    assert [config.method for config in configs.values()] == list(configs)
    others = [config.model_dump(exclude={"negatives"}) for config in configs.values()]
    assert all(other == others[0] for other in others)
    assert len({run_key(config) for config in configs.values()}) == len(configs)


# A value other than the default for every setting there is.
CHANGED = {
    "task": "addition", "size": 3, "strategies": ["stock"], "seeds": [7], "steps": 9, "batch": 5, "width": 6,
    "head": "scalar", "network": "mlp", "contrastive_weight": 0.25, "lr": 1e-4, "lr_final": 0.5, "ema_decay": 0.5,
    "ema_every": 3, "records": 4, "dev_examples": 11, "precision": "bfloat16", "device": "cpu", "threads": 2,
}  # fmt: skip


def test_every_setting_reaches_the_run():
    assert set(CHANGED) == set(AnmVsCorruption.model_fields)
    (config,) = AnmVsCorruption(**CHANGED).configs().values()
    reached = config.model_dump()
    expected = {name: value for name, value in CHANGED.items() if name != "strategies"} | {"seeds": (7,)}
    assert {name: reached[name] for name in expected} == expected
    assert config.method == "stock"


@pytest.mark.parametrize("name", sorted(set(CHANGED) - {"strategies", "device"}))
def test_every_setting_changes_the_run(name):
    """None is ignored: a changed value never reads the run of the default."""
    plain = AnmVsCorruption(strategies=["stock"], device="cpu")
    changed = AnmVsCorruption(strategies=["stock"], device="cpu", **{name: CHANGED[name]})
    assert run_key(plain.configs()["stock"]) != run_key(changed.configs()["stock"])


def test_runs_are_trained_once_and_named_by_their_strategy(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    settings = AnmVsCorruption(**SMALL, strategies=["anm", "none"])
    runs = settings.get_or_train()
    assert list(runs) == ["anm", "none"]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("[!.]*/*")}
    assert len(written) == 2 * 6
    again = settings.get_or_train()
    assert {name: run.key for name, run in again.items()} == {name: run.key for name, run in runs.items()}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("[!.]*/*")} == written
    assert runs["anm"].metrics["seed"].unique().tolist() == [1, 0]


def test_references_are_the_task_s_own_and_the_same_every_time():
    settings = AnmVsCorruption(size=4)
    references = settings.reference_scores(500)
    assert references.equals(settings.reference_scores(500))
    assert set(references["kind"]) == {"trivial", "classical", "ceiling"}
    by_name = references.set_index("name")["value"]
    assert by_name["truth"] == 0
    assert by_name["mean target"] < by_name["zero"]
    assert by_name["exact solution"] < 1e-8 < by_name["mean target"]


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        (AnmVsCorruption, {"strategies": ["anm", "anm"]}, "strategies = ['anm', 'anm']: each may appear once"),
        (AnmVsCorruption, {"strategies": []}, "strategies = []: needs at least 1 item"),
        (AnmVsCorruption, {"strategies": ["anm", "stok"]}, "(did you mean 'stock'?)"),
        (AnmVsCorruption, {"records": 2}, "records = 2"),
        (AnmVsCorruption, {"lr_final": 0.0}, "lr_final = 0.0"),
        (AnmVsCorruption, {"ema_decay": 1.0}, "ema_decay = 1.0"),
        (AnmVsCorruption, {"precision": "float16"}, "(did you mean 'bfloat16'?)"),
        (Sanity, {"task": "adition"}, "unknown task 'adition' (did you mean 'addition'?)"),
        (Sanity, {"batch": 1}, "batch = 1"),
        (Sanity, {"seeds": [3, 3]}, "seeds = [3, 3]: each may appear once"),
        (Sanity, {"steps": 3}, "unknown parameter 'steps'"),
    ],
)
def test_unusable_settings_are_refused_when_they_are_made(settings, given, message):
    with pytest.raises(ParameterError) as refusal:
        settings(**given)
    assert message in str(refusal.value)


def test_sanity_checks_what_is_trained_with():
    config = Sanity(size=3, width=16, batch=4, seeds=[2]).config()
    assert (config.size, config.width, config.batch, config.seeds) == (3, 16, 4, (2,))
    assert config.method == "anm"


def test_each_settings_class_belongs_to_one_notebook():
    names = [
        value.notebook for value in vars(experiments).values() if isinstance(value, type) and hasattr(value, "notebook")
    ]
    assert len(names) == len(set(names)) >= 2
