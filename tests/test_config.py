"""What a person or papermill hands over is refused by name, before any work."""

import collections

import pytest

from anm_nb.config import ParameterError, Registry, assigned_parameters, plain_values, unknown_name
from anm_nb.studies.energy_settings import AnmVsCorruption


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stpes": 50}, "unknown parameter 'stpes' (did you mean 'steps'?)"),
        ({"steps": "50"}, "steps = '50': should be a valid integer"),
        ({"steps": 50.5}, "steps = 50.5"),
        ({"steps": True}, "steps = True: should be a valid integer"),
        ({"steps": -1}, "steps = -1: should be greater than 0"),
        ({"seeds": []}, "seeds = []: needs at least 1 item"),
        ({"seeds": [0, -1]}, "seeds.1 = -1: should be greater than or equal to 0"),
        ({"seeds": [1, 1]}, "seeds = [1, 1]: each seed may appear once"),
        ({"seeds": 3}, "seeds = 3"),
        ({"lr": float("nan")}, "lr = nan: should be a finite number"),
        ({"lr": float("inf")}, "lr = inf: should be a finite number"),
        ({"task": "invers"}, "unknown task 'invers' (did you mean 'inverse'?)"),
        ({"strategies": ["stok"]}, "unknown negative strategy 'stok' (did you mean 'stock'?)"),
        ({"head": "scaler"}, "did you mean 'scalar'?"),
    ],
)
def test_unusable_values_are_named_with_what_is_allowed(given, message):
    with pytest.raises(ParameterError) as refusal:
        AnmVsCorruption.from_mapping(given)
    assert message in str(refusal.value)


def test_every_problem_is_told_in_one_go():
    with pytest.raises(ParameterError) as refusal:
        AnmVsCorruption.from_mapping({"steps": 0, "sedes": [1]})
    assert "steps = 0" in str(refusal.value)
    assert "'sedes'" in str(refusal.value)


def test_lists_may_arrive_as_text_as_papermill_hands_them_over():
    settings = AnmVsCorruption.from_mapping({"seeds": "[3, 4]", "strategies": "['anm', 'stock']"})
    assert settings.seeds == (3, 4)
    assert settings.strategies == ("anm", "stock")


def test_unknown_name_without_a_near_one_lists_what_is_known():
    assert unknown_name("task", "zzz", ["b", "a"]) == "unknown task 'zzz'; known: a, b"


PARAMETERS = "steps = 100  # optimiser steps\nseeds = [0, 1]\nlr: float = 1e-3"
CHECK = "from anm_nb.studies.energy_settings import AnmVsCorruption\nsettings = AnmVsCorruption.from_notebook()"


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([PARAMETERS], {"steps": 100, "seeds": [0, 1], "lr": 1e-3}),
        (["", "%pylab", PARAMETERS, "# Parameters\nsteps = 5\n"], {"steps": 5, "seeds": [0, 1], "lr": 1e-3}),
        (["# Parameters\nlr = float('nan')"], {"lr": pytest.approx(float("nan"), nan_ok=True)}),
        # the person edits the parameters, and runs them and the check again, after the rest of the notebook
        ([PARAMETERS, CHECK, "x = run()", "steps = 7", CHECK, "y = 3 * x"], {"steps": 7}),
        # … or runs only the check again
        ([PARAMETERS, CHECK, "x = run()"], {"steps": 100, "seeds": [0, 1], "lr": 1e-3}),
        # … or a value that is no literal, which must not be passed over
        ([PARAMETERS.replace("[0, 1]", "list(range(5))"), CHECK], {"steps": 100, "seeds": [0, 1, 2, 3, 4], "lr": 1e-3}),
        (["import numpy as np\nsteps = 10 * 7", CHECK], {"steps": 70}),
        # what the notebook's other cells assign is no parameter
        (["steps = 7", CHECK, "runs = train()\nmetrics = collect(runs)"], {"steps": 7}),
    ],
)
def test_parameters_are_read_from_the_cells_that_assign_them(cells, expected):
    namespace = {"seeds": [0, 1, 2, 3, 4], "steps": 70, "runs": object(), "metrics": object()}
    assert assigned_parameters(cells, AnmVsCorruption.model_fields.keys(), namespace) == expected


def test_without_a_history_of_cells_the_namespace_tells():
    """nbval runs cells without one; a mistyped name must not pass there either."""
    namespace = {
        "In": [""],
        "steps": 5,
        "stpes": 7,
        "_i": "steps = 5",
        "np": pytest,
        "AnmVsCorruption": AnmVsCorruption,
    }
    assert plain_values(namespace, {"In"}) == {"steps": 5, "stpes": 7}


def test_a_check_without_any_parameter_cell_is_refused():
    with pytest.raises(ParameterError, match=r"no cell with parameters was run before this one; known: batch, "):
        assigned_parameters(["import os", "a, b = 1, 2", "def f(): pass"], {"steps", "batch"}, {})


class Animal:
    name = ""


def test_a_registry_finds_what_was_registered_and_imports_built_ins_when_asked_for():
    animals = Registry("animal", {"counter": "collections:Counter", "missing": "no_such_module:Nothing"})

    @animals.register
    class Cat(Animal):
        name = "cat"

    assert animals.names() == ["cat", "counter", "missing"]  # nothing was imported for that
    assert animals.get("cat") is Cat
    assert animals.get("counter") is collections.Counter
    with pytest.raises(ModuleNotFoundError):
        animals.get("missing")
    with pytest.raises(ParameterError, match=r"unknown animal 'cta' \(did you mean 'cat'\?\); known: cat, counter"):
        animals.get("cta")


def test_a_class_defined_again_replaces_the_one_before_as_a_cell_that_is_run_again_does():
    animals = Registry("animal")
    for _ in range(2):

        @animals.register
        class Cat(Animal):
            name = "cat"

    assert animals.get("cat") is Cat


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_class_without_a_name_is_refused_when_it_is_registered(name):
    with pytest.raises(ParameterError, match='Dog: every animal needs a name, as in name = "own"'):
        Registry("animal").register(type("Dog", (Animal,), {"name": name}))


def test_registries_share_nothing():
    cats, dogs = Registry("cat"), Registry("dog")
    cats.register(type("Tom", (Animal,), {"name": "tom"}))
    assert dogs.names() == []
    with pytest.raises(ParameterError, match="unknown dog 'tom'; known: none"):
        dogs.get("tom")
