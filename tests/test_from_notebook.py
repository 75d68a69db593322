"""The values checked are those in the kernel's namespace, however they were set; misspelt names are refused."""

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

SETTINGS = """
from typing import Annotated
from pydantic import Field
from anm_nb.config import Parameters
class Settings(Parameters):
    epochs: int = 10
    size: int = 10
    lr: float = 0.5
    task: str = "default"
    records: int = 10
    seeds: Annotated[tuple[int, ...], Field(strict=False)] = ()
"""
PARAMETERS = "epochs = 3  # passes\nsize = 12\nlr = 1e-3\nseeds = [1, 2]"
EDITED = PARAMETERS.replace("epochs = 3", "epochs = 2")
CHECK = "from settings import Settings\n\nsettings = Settings.from_notebook()"
REPORT = "print(settings.epochs == epochs, settings.size == size, settings.epochs, settings.size, list(settings.seeds))"

# Cells before the check, and the expected settings: epochs, size, seeds.
USED = {
    "a cell of its own": ((PARAMETERS, "epochs = 2"), 2, 12, [1, 2]),
    "counted down": ((PARAMETERS, "epochs -= 1"), 2, 12, [1, 2]),
    "a tuple": ((PARAMETERS, "epochs, size = 2, 5"), 2, 5, [1, 2]),
    "timed": ((PARAMETERS, "%%time\nepochs = 2"), 2, 12, [1, 2]),
    "an extension": (("%load_ext autoreload\n%autoreload 0\n" + EDITED,), 2, 12, [1, 2]),
    "loop and own names": ((EDITED + "\n_n = 8\nfor i in range(2):\n    seeds.append(i + _n)",), 2, 12, [1, 2, 8, 9]),
    "numpy": ((PARAMETERS, "import numpy as np\nepochs, seeds = np.int64(2), np.arange(2)"), 2, 12, [0, 1]),
    "papermill's": ((PARAMETERS, "# Parameters\nepochs = 2"), 2, 12, [1, 2]),
    "an answer first": (("import os\nepoch, siz = os.getcwd(), os.sep", EDITED), 2, 12, [1, 2]),
    "again after an edit": ((PARAMETERS, CHECK, "result = {}\nfigure = 3\nseed = 0", EDITED), 2, 12, [1, 2]),
    "one parameter again": ((PARAMETERS, CHECK, "result = 1", "epochs = 2"), 2, 12, [1, 2]),
    "name of a result": ((EDITED, CHECK, "class Task: pass\ntask = Task()\ndef records(): pass"), 2, 12, [1, 2]),
}
REFUSED = {
    "misspelt": ((PARAMETERS, "epohcs = 2"), "unknown parameter 'epohcs' (did you mean 'epochs'?)"),
    "misspelt beside a magic": (("%env A=1\n" + EDITED + "\nsise = 2",), "did you mean 'size'?"),
    "the plan's name": ((PARAMETERS + "\narray_len = 20",), "unknown parameter 'array_len'; known: epochs, lr"),
    "papermill's": ((PARAMETERS, CHECK, "# Parameters\nfoo = 2"), "unknown parameter 'foo'; known: epochs, lr"),
    "text": ((PARAMETERS, "epochs = input if False else 'two'"), "epochs = 'two'"),
    "object": ((PARAMETERS, "epochs = object()"), "epochs = <object object"),
    "nothing was run": ((), "no cell with parameters ran before this one; known: epochs, lr, records"),
    "only imports were run": (("import os\na, b = 1, 2", "def f(): pass"), "no cell with parameters ran"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "settings.py").write_text(SETTINGS)
    return folder


@pytest.fixture
def shell(folder, monkeypatch, tmp_path):
    """An IPython shell in this process, as in a kernel."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    InteractiveShell.clear_instance()


def run(shell, cells, history=True):
    for cell in [*cells, CHECK, REPORT]:
        shell.run_cell(cell, store_history=history).raise_error()


@pytest.mark.parametrize("name", USED)
def test_the_values_are_those_in_the_kernel(name, shell, capsys):
    cells, epochs, size, seeds = USED[name]
    run(shell, cells)
    assert capsys.readouterr().out.endswith(f"True True {epochs} {size} {seeds}\n")


@pytest.mark.parametrize("name", REFUSED)
def test_unknown_parameters_and_unusable_values_are_refused_by_name(name, shell):
    cells, message = REFUSED[name]
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        run(shell, cells)
    assert type(refusal.value).__name__ == "ParameterError"
    assert message in str(refusal.value)


def test_a_kernel_without_history_as_under_nbval_gives_the_values(shell, capsys):
    run(shell, USED["counted down"][0], history=False)
    assert capsys.readouterr().out == "True True 2 12 [1, 2]\n"
