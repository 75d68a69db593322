"""A user's plugin is in the key with all of the user's own code that it reaches, and with nothing else."""

import importlib
import os
import subprocess
import sys
from types import ModuleType

import pytest

from anm_nb.config import ParameterError
from anm_nb.energy.train import EnergyConfig
from anm_nb.identity import code_digest
from anm_nb.store import Run, get_or_train, scan
from anm_nb.tasks.matrices import Inverse

HEADER = """
from typing import ClassVar
import functools
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


@pytest.fixture(autouse=True)
def strategies(monkeypatch, tmp_path):
    """Strategies registered by a test are forgotten after it; `__main__` has no file, as in a notebook's kernel."""
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    monkeypatch.setattr("anm_nb.energy.negatives.STRATEGIES.entries", {})


def own_config():
    return EnergyConfig(size=2, width=8, levels=4, dev_examples=4, seeds=[0], steps=4, records=3, negatives="own")


class Notebook:
    """Cells as IPython runs them: compiled one by one into one namespace."""

    def __init__(self, *cells):
        self.names = {"__name__": "__main__"}
        self.run(HEADER, *cells)

    def run(self, *cells):
        for text in cells:
            exec(text, self.names)
        return self

    def digest(self):
        return code_digest([self.names["Own"]])


def digest_of_files(folder, monkeypatch, **files):
    """The digest of a strategy defined by the file `own_strategy.py`, all of them imported afresh."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(HEADER + text)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        for name in files:
            sys.modules.pop(name, None)
        return code_digest([importlib.import_module("own_strategy").Own])


OWN = """
@register_negatives
class Own(NegativeStrategy):
    name = "own"

    def propose(self, problem):
        return Mined(problem.y_pos + {})
"""
DECORATOR = """
def adding(x):
    def decorate(function):
        @functools.wraps(function)
        def added(*arguments):
            return function(*arguments) + x
        return added
    return decorate
"""
# What a strategy may reach, with a number that decides the result: cells, or files but for the strategy's own.
REACHED = {
    "method": ("", OWN.format("1.5")),
    "function of another cell": ("def shift():\n    return 1.5", OWN.format("shift()")),
    "constant": ("SHIFT = 1.5", OWN.format("SHIFT")),
    "order of a mapping": ("SHIFT = {n: n for n in ((1, 2) if 1.5 > 1.6 else (2, 1))}", OWN.format("list(SHIFT)[0]")),
    "set of functions": ("def f(): return 1.5\ndef g(): return 2\nSHIFT = {f, g}", OWN.format("[*SHIFT][0]()")),
    "tensor": ("SHIFT = torch.tensor([0.0, 1.5])", OWN.format("SHIFT[1]")),
    "object": ("class Box:\n    def __init__(self): self.shift = 1.5\nBOX = Box()", OWN.format("BOX.shift")),
    "closure": ("def make(x):\n    return lambda: x\nshift = make(1.5)", OWN.format("shift()")),
    "default": ("SHIFT = 1.5\ndef shift(x=SHIFT):\n    return x", OWN.format("shift()")),
    "decorator": (DECORATOR + "@adding(1.5)\ndef shift():\n    return 0", OWN.format("shift()")),
    "base": (
        "class Base(NegativeStrategy):\n    def propose(self, problem):\n        return Mined(problem.y_pos + 1.5)",
        "@register_negatives\nclass Own(Base):\n    name = 'own'",
    ),
    "import in a method": (None, OWN.format("1").replace("return", "from elsewhere import shift; return")),
    "module": (None, "import elsewhere\n" + OWN.format("elsewhere.shift()")),
    "module by getattr": (None, "import elsewhere\n" + OWN.format("getattr(elsewhere, 'sh' + 'ift')()")),
}
ELSEWHERE = "SHIFT = 1.5\n\ndef shift():\n    return SHIFT\n"


@pytest.mark.parametrize("kind", REACHED)
def test_a_change_of_anything_reached_changes_the_digest(kind, tmp_path, monkeypatch):
    other, own = REACHED[kind]

    def digest(number, place):
        if other is None:
            files = {"elsewhere": ELSEWHERE.replace("1.5", number), "own_strategy": own}
            return digest_of_files(tmp_path / place, monkeypatch, **files)
        return Notebook(other.replace("1.5", number), own.replace("1.5", number)).digest()

    assert digest("1.5", "a") == digest("1.5", "b") != digest("1.75", "c")


def test_comments_layout_moves_and_what_is_not_reached_change_nothing():
    digest = Notebook(STRATEGY).digest()
    moved = STRATEGY.replace("        return", "        # because\n\n        return (").replace("+ 1)", "+ 1))")
    assert Notebook("# more\n\n\n" + moved).digest() == digest
    assert Notebook("OTHER = 3\ny_pos = []\ndef unused():\n    return OTHER", STRATEGY).digest() == digest
    assert code_digest([Inverse, EnergyConfig]) is None


def test_an_edited_file_counts_when_it_is_loaded(tmp_path, monkeypatch):
    """As JupyterLab's autoreload does, in one process; until then the code that runs is the old one."""
    one = digest_of_files(tmp_path, monkeypatch, own_strategy=STRATEGY)
    (tmp_path / "own_strategy.py").write_text(HEADER + STRATEGY.replace("+ 1", "+ 10"))
    assert code_digest([sys.modules["own_strategy"].Own]) == one
    monkeypatch.syspath_prepend(tmp_path)
    assert code_digest([importlib.reload(sys.modules["own_strategy"]).Own]) != one


@pytest.mark.parametrize(
    ("value", "said"),
    [("(x for x in 'ab')", "Own.propose refers to .*'generator'"), ("open('/dev/null')", "'_io.TextIOWrapper'")],
)
def test_a_value_that_cannot_be_read_is_refused_before_training(value, said, tmp_path):
    Notebook(f"SHIFT = {value}", OWN.format("SHIFT"))
    with pytest.raises(ParameterError, match=f"{said}.* would go unnoticed"):
        get_or_train(own_config())
    assert not (tmp_path / "outputs").exists()


def test_the_digest_is_the_same_in_every_process(tmp_path):
    """Sets and hashes of texts are ordered anew in each."""
    text = "NAMES = {'a', 'b', 'c', 'd'}\nclass Own:\n    def f(self):\n        return NAMES & {'e', 'f', 'a', 'g'}\n"
    (tmp_path / "own_strategy.py").write_text(text)
    program = "import own_strategy; from anm_nb.identity import code_digest; print(code_digest([own_strategy.Own]))"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = set()
    for seed in ("1", "2"):
        env = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program]
        found.add(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1


def test_a_strategy_of_your_own_is_trained_stored_and_read(monkeypatch):
    Notebook(STRATEGY)
    run = get_or_train(own_config())
    assert run.manifest["identity"]["code"]
    (stored,) = scan()[0]
    assert stored.config == run.config
    monkeypatch.setattr("anm_nb.energy.negatives.STRATEGIES.entries", {})
    assert Run(stored.path).settings["negatives"] == {"name": "own"}  # readable without the class
    with pytest.raises(ValueError, match="unknown negative strategy 'own'"):
        _ = Run(stored.path).config
