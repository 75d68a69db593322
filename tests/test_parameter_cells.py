"""Whatever a parameter cell does, what counts is what the kernel has when the notebook asks; slips are refused."""

import subprocess
import sys
from dataclasses import dataclass
from functools import partial

import nbformat
import papermill
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook, new_output

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
CHECK = "from settings import Settings\n\nsettings = Settings.from_notebook()"
REPORT = "print(settings.epochs == epochs, settings.size == size, settings.epochs, settings.size, list(settings.seeds))"
EDITED = PARAMETERS.replace("epochs = 3", "epochs = 2")


@dataclass(frozen=True)
class Variant:
    """Cells before the check, and what the settings have to be: epochs, size, seeds."""

    cells: tuple[str, ...]
    epochs: int = 2
    size: int = 12
    seeds: tuple[int, ...] = (1, 2)


VARIANTS = {
    "as it is": Variant((PARAMETERS,), epochs=3),
    "edited": Variant((EDITED,)),
    "a cell of its own": Variant((PARAMETERS, "epochs = 2")),
    "counted down": Variant((PARAMETERS, "epochs -= 1")),
    "under a condition": Variant((PARAMETERS, "import os\nif os.cpu_count():\n    epochs = 2\nelse:\n    epochs = 9")),
    "a tuple": Variant((PARAMETERS, "epochs, size = 2, 5"), size=5),
    "unpacked with a star": Variant((PARAMETERS, "epochs, *seeds = [2, 7, 8]"), seeds=(7, 8)),
    "timed": Variant((PARAMETERS, "%%time\nepochs = 2")),
    "extension loaded first": Variant(("%load_ext autoreload\n%autoreload 2\n" + EDITED,)),
    "loop and comprehension": Variant(
        (EDITED + "\nfor i in range(3):\n    seeds.append(i + 5)",), seeds=(1, 2, 5, 6, 7)
    ),
    "helpers": Variant((EDITED + "\nimport os\ndef half(x):\n    return x // 2\n_n = 8\nsize = half(_n)",), size=4),
    "try": Variant((PARAMETERS, "try:\n    epochs = missing\nexcept NameError:\n    epochs = 2")),
    "with": Variant((PARAMETERS, "from contextlib import nullcontext\nwith nullcontext(2) as epochs:\n    pass")),
    "walrus": Variant((PARAMETERS, "if (epochs := 2) > 1:\n    print(epochs)")),
    "range": Variant((EDITED, "seeds = range(3)"), seeds=(0, 1, 2)),
    "numpy": Variant((PARAMETERS, "import numpy as np\nepochs, seeds = np.int64(2), np.arange(2)"), seeds=(0, 1)),
    "imported": Variant((PARAMETERS, "from mine import epochs")),
    "star import": Variant((PARAMETERS, "from mine import *")),
    "globals": Variant((PARAMETERS, "globals().update(epochs=2)")),
    "an answer first": Variant(("import os\nepoch, siz = os.getcwd(), os.sep", EDITED)),
    "run again after an edit": Variant((PARAMETERS, CHECK, "result = {}\nfigure = 3", EDITED)),
    "only the check again": Variant((EDITED, CHECK, "result = {}\nlabel = 'a'")),
    "one parameter again": Variant((PARAMETERS, CHECK, "result = 1", "epochs = 2")),
    "name of a result": Variant((EDITED, CHECK, "class Task: pass\ntask = Task()\ndef records(): pass")),
}

REFUSED = {
    "misspelt": ((PARAMETERS, "epohcs = 2"), "unknown parameter 'epohcs' (did you mean 'epochs'?)"),
    "misspelt list": ((PARAMETERS, "sedes = list(range(3))"), "unknown parameter 'sedes' (did you mean 'seeds'?)"),
    "misspelt beside a magic": (("%env A=1\n" + EDITED + "\nsise = 2\nprint(1)",), "did you mean 'size'?"),
    "the plan's name": ((PARAMETERS, "array_len = 20"), "array_len is called size here"),
    "papermill, misspelt": ((PARAMETERS, "# Parameters\nepohcs = 2\n"), "unknown parameter 'epohcs'"),
    "text": ((PARAMETERS, "epochs = input if False else 'two'"), "epochs = 'two'"),
    "deleted": ((PARAMETERS, "del epochs"), "epochs = 3 in In [1], but the kernel has no 'epochs'"),
    "object": ((PARAMETERS, "epochs = object()"), "epochs = 3 in In [1], but <object object"),
    "replaced by a result": (
        (PARAMETERS, CHECK, "class Run: pass\nepochs = Run()", "size = 4"),
        "epochs = 3 in In [1], but <__main__.Run object",
    ),
    "nothing was run": ((), "no cell with parameters was run before this one; known: epochs, lr, records"),
    "only imports were run": (("import os\na, b = 1, 2", "def f(): pass"), "no cell with parameters was run"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "settings.py").write_text(SETTINGS)
    (folder / "mine.py").write_text("epochs = 2\n")
    return folder


def notebook_of(cells):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel})


def outcomes(cells_of_each, folder):
    """What every list of cells prints last, or how it fails; in a kernel whose names and history are cleared before."""
    client = NotebookClient(new_notebook(), timeout=120, resources={"metadata": {"path": str(folder)}})

    def said_by(source):
        cell = new_code_cell(source)
        client.nb.cells.append(cell)
        client.execute_cell(cell, len(client.nb.cells) - 1)
        return "".join(output.get("text", "") for output in cell.outputs).strip()

    with client.setup_kernel():
        for cells in cells_of_each:
            said_by("get_ipython().reset(new_session=True)")
            try:
                yield [said_by(source) for source in [*cells, CHECK, REPORT]][-1]
            except CellExecutionError as error:
                yield error.evalue


@pytest.fixture(scope="module")
def said(folder):
    """By name, what every variant ended with."""
    cells = [variant.cells for variant in VARIANTS.values()] + [cells for cells, _ in REFUSED.values()]
    return dict(zip([*VARIANTS, *REFUSED], outcomes(cells, folder), strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_values_used_are_those_that_the_kernel_has(name, said):
    variant = VARIANTS[name]
    assert said[name] == f"True True {variant.epochs} {variant.size} {list(variant.seeds)}"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_parameter_or_no_value_is_refused_by_name(name, said):
    assert REFUSED[name][1] in said[name]


@pytest.mark.parametrize(
    ("given", "cell", "expected"),
    [
        ({"epochs": 2}, PARAMETERS, "True True 2 12 [1, 2]"),
        ({"epochs": 2}, PARAMETERS + "\nprint(epochs)\nepochs -= 1", "True True 2 12 [1, 2]"),
        ({"seeds": "[5, 6]"}, EDITED, "True True 2 12 [5, 6]"),
        ({"epohcs": 2}, PARAMETERS, "unknown parameter 'epohcs' (did you mean 'epochs'?)"),
        ({"seeds": "1 2 3"}, PARAMETERS, "seeds = '1 2 3': write a list: [1, 2, 3]"),
    ],
)
def test_papermill_s_values_are_used_or_refused_whatever_stands_beside_them(given, cell, expected, folder, tmp_path):
    notebook = notebook_of([cell, CHECK, REPORT])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, tmp_path / "in.ipynb")
    run = partial(papermill.execute_notebook, tmp_path / "in.ipynb", tmp_path / "out.ipynb", given, progress_bar=False)
    if not expected.startswith("True"):
        with pytest.raises(papermill.PapermillExecutionError) as refusal:
            run(cwd=folder)
        assert expected in refusal.value.evalue
        return
    outputs = run(cwd=folder).cells[-1].outputs
    assert "".join(output["text"] for output in outputs).strip() == expected


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ((PARAMETERS, "%env FOO=1\nepochs = 4\nfor i in range(2):\n    epochs -= 1", "n_free = 4"), None),
        ((PARAMETERS, "epohcs = 2"), "unknown parameter 'epohcs' (did you mean 'epochs'?)"),
    ],
)
def test_nbval_s_kernels_which_keep_no_history_give_the_same(cells, expected, folder):
    cells = [*cells, CHECK, REPORT]
    notebook = notebook_of(cells)
    if expected is None:
        notebook.cells[-1] = new_code_cell(
            REPORT, execution_count=1, outputs=[new_output("stream", name="stdout", text="True True 2 12 [1, 2]\n")]
        )
    path = folder / "checked.ipynb"
    nbformat.write(notebook, path)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
    ended = subprocess.run([*command, str(path)], cwd=folder, capture_output=True, text=True, check=False)
    if expected is None:
        assert ended.returncode == 0, ended.stdout
    else:
        assert expected in ended.stdout
