"""A run is trained once, never served stale, never half there, and says where it comes from."""

import ast
import contextlib
import importlib
import itertools
import json
import linecache
import os
import subprocess
import sys
import textwrap
import time
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pandas as pd
import pytest
import torch

import anm_nb
from anm_nb import runs
from anm_nb.config import ParameterError
from anm_nb.energy.sampler import SamplerConfig
from anm_nb.energy.train import EnergyConfig, EnergyLearner
from anm_nb.runs import RunConfig, finished_runs, get_or_train, run_key
from anm_nb.tasks import register_task
from anm_nb.tasks.matrices import Inverse
from anm_nb.training.loop import LoopConfig, Trained

TRAINED: list[int] = []  # what `Toy` trained, in order


class Toy(RunConfig):
    """Trains by multiplication, in two halves, of which the first survives an interruption."""

    sources: ClassVar[tuple[str, ...]] = ("anm_nb.config",)
    device: ClassVar[str] = "cpu"
    interrupt: ClassVar[BaseException | None] = None

    value: int = 1
    note: str | None = None

    def device_kind(self):
        return self.device

    def train(self, workdir):
        half = workdir / "half"
        if not half.exists():
            TRAINED.append(self.value)
            half.write_text(str(2 * self.value))
        if self.interrupt:
            raise self.interrupt
        result = 2 * float(half.read_text())
        metrics = pd.DataFrame({"seed": [0, 0], "step": [0, 1], "result": [0.1, result]})
        return Trained(metrics, {"curve": torch.tensor([[0.1, result]])}, {"seed0.model.w": torch.tensor(result)})


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """A store of the test's own."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(folder))
    TRAINED.clear()
    return folder


def energy_config(negatives="stock", **options):
    loop = LoopConfig(steps=4, batch=8, records=3, checkpoint_every=2, seeds_at_once="loop")
    small = {"size": 2, "width": 8, "levels": 4, "dev_examples": 4, "seeds": [0], "loop": loop}
    return EnergyConfig(**small | {"sampler": SamplerConfig(inner_steps=1)} | options, negatives=negatives)


# once


def test_a_config_is_trained_once_and_read_from_then_on(outputs):
    run = get_or_train(Toy(value=3))
    again = get_or_train(Toy(value=3))
    assert TRAINED == [3]
    assert run.path == again.path == outputs / "runs" / run.key
    assert again.metrics["result"].tolist() == [0.1, 12.0]
    assert get_or_train(Toy(value=4)).metrics["result"].tolist() == [0.1, 16.0]
    assert TRAINED == [3, 4]
    assert [stored.key for stored in finished_runs()] == [run.key, run_key(Toy(value=4))]


def test_an_empty_store_has_no_runs():
    assert finished_runs() == []


SLOW = """
import pathlib, sys, time
import pandas as pd
from anm_nb.runs import RunConfig, get_or_train
from anm_nb.training.loop import Trained

HERE = pathlib.Path(__file__).parent

class Slow(RunConfig):
    sources = ()
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


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_an_interrupted_training_is_no_run_and_is_resumed(interrupt, monkeypatch):
    monkeypatch.setattr(Toy, "interrupt", interrupt)
    with pytest.raises(type(interrupt)):
        get_or_train(Toy(value=5))
    assert finished_runs() == []
    monkeypatch.setattr(Toy, "interrupt", None)
    assert get_or_train(Toy(value=5)).metrics["result"].tolist() == [0.1, 20.0]
    assert TRAINED == [5]  # the first half was not done twice


@pytest.mark.parametrize(
    "write",
    ["pandas.DataFrame.to_parquet", "safetensors.torch.save", "anm_nb.runs.store.describe_environment", "os.replace"],
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
    computing = EnergyLearner.losses

    def dying(self, step, averaged):
        if step == 3:
            raise KeyboardInterrupt
        return computing(self, step, averaged)

    def counting(self, step, averaged):
        computed.append(step)
        return computing(self, step, averaged)

    computed: list[int] = []
    monkeypatch.setattr(EnergyLearner, "losses", dying)
    with pytest.raises(KeyboardInterrupt):
        get_or_train(config)
    assert finished_runs() == []
    monkeypatch.setattr(EnergyLearner, "losses", counting)
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
    monkeypatch.setattr(Toy, "device", "cuda")
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


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package to train with, and its config; returns its folder and the function that reads the key."""
    folder = tmp_path / "trained_with"
    (folder / "deep").mkdir(parents=True)
    for name in ("__init__.py", "deep/__init__.py", "deep/step.py"):
        (folder / name).write_text("RATE = 0.1\n")
    (tmp_path / "trained_beside.py").write_text("DECAY = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Toy, "sources", ("trained_with", "trained_beside"))
    return folder


def test_a_changed_training_source_changes_the_key(package):
    keys = [run_key(Toy())]
    assert run_key(Toy()) == keys[0]
    (package / "deep" / "step.py").write_text("RATE = 0.2\n")
    keys.append(run_key(Toy()))
    (package / "deep" / "more.py").write_text("")
    keys.append(run_key(Toy()))
    (package.parent / "trained_beside.py").write_text("DECAY = 2\n")
    keys.append(run_key(Toy()))
    (package / "notes.txt").write_text("no part of the training")
    (package.parent / "unrelated.py").write_text("")
    assert len(set(keys)) == len(keys)
    assert run_key(Toy()) == keys[-1]


def test_a_changed_source_trains_anew(package):
    get_or_train(Toy(value=7))
    (package / "__init__.py").write_text("RATE = 0.3\n")
    get_or_train(Toy(value=7))
    assert TRAINED == [7, 7]
    assert len(finished_runs()) == 2


def test_a_source_that_does_not_exist_is_refused(monkeypatch):
    monkeypatch.setattr(Toy, "sources", ("anm_nb.no_such_module",))
    with pytest.raises(ParameterError, match=r"'anm_nb\.no_such_module' does not exist"):
        get_or_train(Toy())
    assert TRAINED == []


def text_of(module: str) -> Path | None:
    """The file of one of the package's modules; None for what is no module."""
    path = Path(anm_nb.__file__).parents[1].joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def imports_of(module: str) -> set[str]:
    """The package's own modules that a module's text imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(text_of(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("anm_nb.") and text_of(name)}


def test_all_that_an_energy_training_imports_of_the_package_is_among_its_sources():
    seen, waiting = set(), {"anm_nb.energy.train"}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        imported = {name for name in imports_of(module) if not f"{name}.".startswith("anm_nb.runs.")}
        waiting |= imported - seen  # the store itself decides no result
    assert {"anm_nb.training.checkpoint", "anm_nb.energy.sampler", "anm_nb.tasks.base", "anm_nb.config"} <= seen
    covered = tuple(f"{source}." for source in EnergyConfig.sources)
    assert [name for name in seen if not f"{name}.".startswith(covered)] == []


# a strategy of the user's own

HEADER = """
from typing import ClassVar
import torch
from anm_nb.energy.miner import Mined
from anm_nb.energy.negatives import NegativeStrategy, Random, register_negatives
"""
STRATEGY = """
def factor():
    return 1.0

@register_negatives
class Own(NegativeStrategy):
    name = "own"

    def propose(self, problem):
        return Mined(problem.y_pos * factor() + 1)
"""
NUMBERS = itertools.count()


@pytest.fixture
def strategies(monkeypatch):
    """Strategies registered by a test are forgotten after it; `__main__` has no file, as in a notebook's kernel."""
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    monkeypatch.setattr("anm_nb.energy.negatives._STRATEGIES", {})


def key_in_notebook(text: str) -> str:
    """The key with a strategy defined by a cell, as IPython compiles it."""
    name = f"<cell {next(NUMBERS)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), globals_of_a_notebook())
    return run_key(energy_config("own"))


def globals_of_a_notebook() -> dict[str, object]:
    names: dict[str, object] = {"__name__": "__main__"}
    exec(HEADER, names)
    return names


def key_from_file(folder: Path, monkeypatch, **files: str) -> str:
    """The key with a strategy defined by the file `own_strategy.py`, imported afresh."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(HEADER + textwrap.dedent(text))
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        for name in files:
            sys.modules.pop(name, None)
        importlib.import_module("own_strategy")
        return run_key(energy_config("own"))


@pytest.mark.parametrize(
    "change",
    [
        ("problem.y_pos * factor() + 1", "problem.y_pos * factor() + 2"),
        ("return 1.0", "return 0.9"),  # a helper beside it
        ('    name = "own"\n', '    name = "own"\n    shift: float = 2.0\n'),
    ],
    ids=["method", "helper", "option"],
)
def test_a_changed_strategy_of_your_own_changes_the_key(change, strategies, tmp_path, monkeypatch):
    changed = STRATEGY.replace(*change)
    assert changed != STRATEGY
    assert key_in_notebook(STRATEGY) == key_in_notebook(STRATEGY)
    assert key_in_notebook(STRATEGY) != key_in_notebook(changed)
    one = key_from_file(tmp_path / "one", monkeypatch, own_strategy=STRATEGY)
    assert one == key_from_file(tmp_path / "same", monkeypatch, own_strategy=STRATEGY)
    assert one != key_from_file(tmp_path / "two", monkeypatch, own_strategy=changed)


@pytest.mark.parametrize(
    "strategy",
    [
        """
        @register_negatives
        class Own(NegativeStrategy):
            name = "own"

            @torch.no_grad()
            def propose(self, problem):
                return Mined(problem.y_pos + 1.0)
        """,
        """
        @register_negatives
        class Own(NegativeStrategy):
            name = "own"

            @staticmethod
            def shifted(y):
                return y + 1.0

            @property
            def length(self):
                return 1.0

            propose = torch.no_grad()(lambda self, problem: Mined(self.shifted(problem.y_pos)))
        """,
        """
        @register_negatives
        class Own(Random):
            name = "own"
            gain: ClassVar[float] = 1.0
        """,
    ],
    ids=["decorated", "static", "without methods"],
)
def test_a_strategy_is_read_however_it_is_written(strategy, strategies, tmp_path, monkeypatch):
    """Decorated methods, or none of its own: what decides the result is in the key, or the class is refused."""
    one = key_from_file(tmp_path / "one", monkeypatch, own_strategy=strategy)
    two = key_from_file(tmp_path / "two", monkeypatch, own_strategy=strategy.replace("1.0", "2.0"))
    assert one != two
    text = textwrap.dedent(strategy)
    keys = set()
    for value in ("1.0", "3.0"):
        with contextlib.suppress(ParameterError):
            keys.add((value, key_in_notebook(text.replace("1.0", value))))
    assert len({key for _, key in keys}) == len(keys)


def test_a_changed_base_of_a_strategy_changes_the_key(strategies, tmp_path, monkeypatch):
    base = """
        class Base(NegativeStrategy):
            def propose(self, problem):
                return Mined(problem.y_pos + 1.0)
    """
    own = """
        from own_base import Base

        @register_negatives
        class Own(Base):
            name = "own"

            def twice(self):
                return 2
    """
    one = key_from_file(tmp_path / "one", monkeypatch, own_base=base, own_strategy=own)
    two = key_from_file(tmp_path / "two", monkeypatch, own_base=base.replace("1.0", "2.0"), own_strategy=own)
    assert one != two


def test_an_edited_and_reloaded_strategy_changes_the_key(strategies, tmp_path, monkeypatch):
    """As JupyterLab's autoreload does, in one process."""
    one = key_from_file(tmp_path, monkeypatch, own_strategy=STRATEGY)
    (tmp_path / "own_strategy.py").write_text(HEADER + STRATEGY.replace("+ 1", "+ 10"))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.reload(sys.modules["own_strategy"])
    assert run_key(energy_config("own")) != one


@pytest.mark.parametrize("decorator", ["", "    @torch.no_grad()\n"])
def test_a_strategy_whose_text_cannot_be_read_is_refused_before_training(decorator, strategies, outputs):
    exec(STRATEGY.replace("    def propose", f"{decorator}    def propose"), globals_of_a_notebook())
    with pytest.raises(ParameterError, match=r"source of Own cannot be read.*define it in a notebook cell or a file"):
        get_or_train(energy_config("own"))
    assert not outputs.exists()


def test_a_task_of_your_own_is_in_the_key(monkeypatch):
    monkeypatch.setattr("anm_nb.tasks.TASKS.entries", {"inverse": Inverse})
    keys = set()
    for factor in (1, 2):
        text = (
            "@register_task\nclass Own(Inverse):\n    name = 'own'\n"
            f"    def solve(self, x):\n        return {factor} * Inverse.solve(self, x)\n"
        )
        name = f"<cell {next(NUMBERS)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), {"__name__": "__main__", "Inverse": Inverse, "register_task": register_task})
        keys.add(run_key(energy_config(task="own")))
    assert len(keys) == 2


def test_a_strategy_of_your_own_is_trained_stored_and_read(strategies, tmp_path, monkeypatch):
    key_from_file(tmp_path, monkeypatch, own_strategy=STRATEGY)
    run = get_or_train(energy_config("own"))
    (stored,) = finished_runs()
    assert stored.settings["negatives"] == {"name": "own"}
    assert stored.config == run.config
    monkeypatch.setattr("anm_nb.energy.negatives._STRATEGIES", {})
    assert runs.Run(stored.path).settings["negatives"] == {"name": "own"}  # readable without the class
    with pytest.raises(ValueError, match="unknown negative strategy 'own'"):
        _ = runs.Run(stored.path).config


# what a run says


def test_a_run_reads_back_as_it_was(tmp_path, monkeypatch):
    argv = [tmp_path / "ours", "--of", tmp_path / "theirs.json", f"--in={tmp_path}/others.json", "--rate=0.5"]
    monkeypatch.setattr("sys.argv", [str(each) for each in argv])
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
    learner.model.load_state_dict(
        {name.removeprefix(prefix): t for name, t in stored.weights.items() if name.startswith(prefix)}
    )

    provenance = stored.provenance
    assert provenance["versions"]["torch"] == version("torch")
    assert set(runs.PROVENANCE_PACKAGES) < set(provenance["versions"])
    assert 0 < provenance["wall_seconds"] <= elapsed
    assert 50 < provenance["peak_memory_mib"] < 100_000
    assert provenance["device"].startswith("cpu ")
    assert provenance["command"] == "ours --of theirs.json --in=others.json --rate=0.5"
    assert {"commit", "dirty", "sources", "cpu_count", "platform", "finished"} < set(provenance)


def git(folder: Path, *arguments: str) -> str:
    names = {f"GIT_{role}_{what}": "someone" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(
        command, cwd=folder, env=os.environ | names, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_provenance_names_the_commit_and_whether_the_checkout_differs_from_it(tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    monkeypatch.setattr("anm_nb.runs.provenance.project_root", lambda: checkout)
    nowhere = runs.describe_environment(Toy())
    assert nowhere["commit"] is None
    assert nowhere["dirty"] is None  # nobody knows; it must not say that the checkout was clean
    git(checkout, "init")
    (checkout / "a.py").write_text("1")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "x")
    clean = runs.describe_environment(Toy())
    assert clean["commit"] == git(checkout, "rev-parse", "HEAD")
    assert clean["dirty"] is False
    (checkout / "a.py").write_text("2")
    assert runs.describe_environment(Toy())["dirty"] is True


def test_the_stored_config_is_plain_json(outputs):
    run = get_or_train(energy_config("none"))
    stored = json.loads((run.path / "config.json").read_text())
    assert stored["class"] == "anm_nb.energy.train:EnergyConfig"
    assert stored["config"]["negatives"] == "none"
    assert not list((outputs / "runs" / ".partial").glob("*/*"))  # nothing is left behind
