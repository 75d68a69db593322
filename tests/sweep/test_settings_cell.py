"""A sweep checks its cases by executing the notebook's own settings cell."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from anm_nb.config import ParameterError
from anm_nb.sweep.notebook import check_of

PARAMETERS = "epochs = 2  # 1 …\nsize = 2**3\nlabel = 'a'\n_aside = 1"
SETTINGS = """
from typing import ClassVar
from anm_nb.bounds import Epochs, Size
from anm_nb.config import Parameters, ParameterError
import beside

class Study(Parameters):
    family: ClassVar[str] = "own"
    epochs: Epochs
    size: Size = 5
    label: str = ""
    extra: "Size" = 3

study = Study.from_notebook()
print("not part of a sweep's output")
if study.epochs * study.size > beside.MOST:
    raise ParameterError(f"epochs = {study.epochs}: at most {beside.MOST} epochs·size")
inverse = 1 / (study.size - 1)
"""


def write(folder, *, settings=SETTINGS, parameters=PARAMETERS):
    tagged = {"parameters": parameters, "settings": settings}
    cells = [new_code_cell(source, metadata={"tags": [tag]}) for tag, source in tagged.items()]
    cells.append(new_code_cell("raise RuntimeError('a check runs no further cell')"))
    (folder / "beside.py").write_text("MOST = 100\n")
    path = folder / "10_own.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_all_values_of_a_case_are_those_of_the_parameter_cell_and_the_class_under_its_own(tmp_path, capsys):
    check = check_of(write(tmp_path))
    assert check({}) == {"epochs": 2, "size": 8, "label": "a", "extra": 3}
    assert check({"epochs": 5, "extra": 4}) == {"epochs": 5, "size": 8, "label": "a", "extra": 4}
    assert check({}) == {"epochs": 2, "size": 8, "label": "a", "extra": 3}  # nothing stays of the case before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epoch": 3}, r"unknown parameter 'epoch' \(did you mean 'epochs'\?\); known: epochs, extra, label, size"),
        ({"epochs": 0}, r"epochs = 0: should be greater than 0"),
        ({"epochs": 99}, r"^epochs = 99: at most 100 epochs·size$"),
        ({"size": 1}, r"10_own.ipynb, code cell 2 \(settings\), line 18: ZeroDivisionError: division by zero"),
    ],
)
def test_what_the_cell_refuses_is_refused_and_another_error_names_notebook_and_cell(tmp_path, values, said):
    with pytest.raises(ParameterError, match=said):
        check_of(write(tmp_path))(values)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("class Study(:", r"10_own.ipynb, code cell 2 \(settings\), line 1: invalid syntax"),
        ("x = 1", r"code cell 2 \(settings\): does not call from_notebook\(\)"),
        ("import nowhere_to_be_found", r"line 1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    ],
)
def test_a_settings_cell_that_cannot_be_used_is_named(tmp_path, settings, said):
    with pytest.raises(ParameterError, match=said):
        check_of(write(tmp_path, settings=settings))({})


@pytest.mark.parametrize(
    "parameters", ["%matplotlib inline\nepochs = 2", "epochs: int = 1\nepochs += 1", "epochs, label = 2, ''"]
)
def test_a_parameter_cell_may_do_more_than_assign_literals(tmp_path, parameters):
    assert check_of(write(tmp_path, parameters=parameters))({})["epochs"] == 2


def test_a_default_that_takes_more_than_the_parameter_cell_is_left_to_the_class(tmp_path):
    path = write(tmp_path, parameters="epochs = 2\nsize = count_of(3)")
    assert check_of(path)({})["size"] == 5
    with pytest.raises(ParameterError, match="parameter 'epochs' is required"):
        check_of(write(tmp_path, parameters="size = 1"))({})
