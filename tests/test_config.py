"""What a person or papermill hands over is refused by name, before any work."""

import collections
import re
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from anm_nb.config import DOCUMENT_NAMES, SAME_NAMES, ParameterError, Parameters, Registry, shown, unknown_name
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.train import RankingConfig

ROOT = Path(__file__).resolve().parents[1]


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
        ({"seeds": [1, 1]}, "seeds = [1, 1]: each"),
        ({"seeds": 3}, "seeds = 3"),
        ({"lr": float("nan")}, "lr = nan: should be a finite number"),
        ({"lr": float("inf")}, "lr = inf: should be a finite number"),
        ({"task": "invers"}, "unknown task 'invers' (did you mean 'inverse'?)"),
        ({"negatives": "stok"}, "unknown negative strategy 'stok' (did you mean 'stock'?)"),
        ({"head": "scaler"}, "did you mean 'scalar'?"),
    ],
)
def test_unusable_values_are_named_with_what_is_allowed(given, message):
    with pytest.raises(ParameterError) as refusal:
        EnergyConfig.from_mapping(given)
    assert message in str(refusal.value)


def test_every_problem_is_told_in_one_go_and_of_very_many_the_first():
    with pytest.raises(ParameterError) as refusal:
        EnergyConfig.from_mapping({"steps": 0, "sedes": [1]})
    assert "steps = 0" in str(refusal.value)
    assert "'sedes'" in str(refusal.value)
    with pytest.raises(ParameterError) as refusal:
        SomeRates(rates=["x"] * 100)
    assert str(refusal.value).split("\n")[-1] == "… and 92 more"


def test_lists_may_arrive_as_text_as_papermill_hands_them_over():
    assert EnergyConfig.from_mapping({"seeds": "[3, 4]"}).seeds == (3, 4)
    assert SomeRates.from_mapping({"rates": "[1e-3, 1E5, 2]"}).rates == (1e-3, 1e5, 2.0)


@pytest.mark.parametrize("text", ["1 2 3", "1,2,3", "1, 2, 3"])
def test_seeds_in_a_row_are_refused_with_the_list_to_write(text):
    with pytest.raises(ParameterError, match=r"write a list: \[1, 2, 3\]$"):
        EnergyConfig.from_mapping({"seeds": text})


class SomeRates(Parameters):
    rates: Annotated[tuple[float, ...], Field(strict=False)]


@pytest.mark.parametrize(
    "value",
    [list(range(10**6)), "x" * 10**6, 10**5000, {i: i for i in range(10**5)}, b"x" * 10**5, [[0] * 10**5] * 9],
    ids=range(6),
)
def test_messages_stay_short_whatever_the_value(value):
    assert len(shown(value)) < 1000
    with pytest.raises(ParameterError) as refusal:
        EnergyConfig(steps=value, seeds=value)
    assert len(str(refusal.value)) < 1500


def test_unknown_name_without_a_near_one_lists_what_is_known():
    assert unknown_name("task", "zzz", ["b", "a"]) == "unknown task 'zzz'; known: a, b"


@pytest.mark.parametrize("name", DOCUMENT_NAMES)
def test_names_of_the_plan_are_refused_with_the_name_used_here(name):
    with pytest.raises(ParameterError) as refusal:
        RankingConfig.from_mapping({name: 1})
    assert f"unknown parameter '{name}': {name} {DOCUMENT_NAMES[name]}; known: batch, " in str(refusal.value)
    with pytest.raises(ParameterError, match=DOCUMENT_NAMES[name].split(";")[0]):
        RankingConfig.from_mapping({name.upper(): 1})


def test_names_that_the_sentences_give_are_parameters_and_the_page_of_names_has_them():
    fields = set(RankingConfig.model_fields)
    assert fields.issuperset(SAME_NAMES)
    assert fields.isdisjoint(DOCUMENT_NAMES)
    for said in DOCUMENT_NAMES.values():
        assert "no parameter" in said or fields & set(said.split())
    page = (ROOT / "docs" / "names.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE)) == DOCUMENT_NAMES
    assert all(f"`{name}`" in page for name in SAME_NAMES)


class Animal:
    name = ""


def test_a_registry_finds_what_was_registered_and_imports_built_ins_when_asked_for():
    animals = Registry("animal", {"counter": "collections:Counter", "missing": "no_such_module:Nothing"})

    for _ in range(2):  # as a cell that is run again does

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


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_class_without_a_name_is_refused_when_it_is_registered(name):
    with pytest.raises(ParameterError, match='Dog: every animal needs a name, as in name = "own"'):
        Registry("animal").register(type("Dog", (Animal,), {"name": name}))
