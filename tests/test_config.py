"""Bad parameters from a person, papermill or a file are refused by name, before any work."""

import re
from pathlib import Path

import pytest
from pydantic import create_model

from anm_nb import config as fields
from anm_nb.config import ParameterError, Parameters, read_yaml, unknown_name
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.train import RankingConfig

NAMES_PAGE = Path(__file__).resolve().parents[1] / "docs" / "names.md"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stpes": 50}, "unknown parameter 'stpes' (did you mean 'steps'?)"),
        ({"steps": "50"}, "steps = '50': should be a valid integer"),
        ({"steps": True}, "steps = True: should be a valid integer"),
        ({"steps": -1}, "steps = -1: should be greater than or equal to 1"),
        ({"size": 5000}, "size = 5000: should be less than or equal to 1000"),
        ({"batch": 10**9}, "batch = 1000000000: should be less than or equal to 1000000"),
        ({"seeds": []}, "seeds = []: Tuple should have at least 1 item"),
        ({"seeds": [0, -1]}, "seeds.1 = -1: should be greater than or equal to 0"),
        ({"seeds": [1, 1]}, "seeds = [1, 1]: each"),
        ({"seeds": 3}, "seeds = 3"),
        ({"seeds": "1, 2 3"}, "seeds = '1, 2 3': write a list: [1, 2, 3]"),
        ({"lr": float("nan")}, "lr = nan: should be a finite number"),
        ({"task": "invers"}, "unknown task 'invers' (did you mean 'inverse'?)"),
        ({"negatives": "stok"}, "unknown negative strategy 'stok' (did you mean 'stock'?)"),
        ({"head": "scaler"}, "did you mean 'scalar'?"),
        ({"steps": 0, "sedes": [1]}, "steps = 0: should be greater than or equal to 1\nunknown parameter 'sedes'"),
    ],
)
def test_unusable_values_are_named_with_what_is_allowed(given, message):
    with pytest.raises(ParameterError) as refusal:
        EnergyConfig.from_mapping(given)
    assert message in str(refusal.value)


def test_lists_may_arrive_as_text_as_papermill_passes_them():
    assert EnergyConfig.from_mapping({"seeds": "[3, 4]"}).seeds == (3, 4)
    model = create_model("Model", __base__=Parameters, rates=(fields.Rates, ...))
    assert model.from_mapping({"rates": "[1e-3, 1E-5, 0]"}).rates == (1e-3, 1e-5, 0.0)


@pytest.mark.parametrize("value", [list(range(10**6)), "x" * 10**6, {i: i for i in range(10**5)}], ids=range(3))
def test_messages_stay_short_whatever_the_value(value):
    with pytest.raises(ParameterError) as refusal:
        EnergyConfig(steps=value, seeds=value)
    assert len(str(refusal.value)) < 1500


def test_unknown_name_without_a_near_one_lists_the_known_names():
    assert unknown_name("task", "zzz", ["b", "a"]) == "unknown task 'zzz'; known: a, b"


def test_the_names_of_the_page_are_parameters():
    page = NAMES_PAGE.read_text(encoding="utf-8")
    same = re.search(r"The same in both: ([^.]*)\.", page)[1]
    here = "".join(re.findall(r"^\| `\w+` \| (`.*`) \|$", page, re.MULTILINE))
    assert set(RankingConfig.model_fields) > set(re.findall(r"`(\w+)`", same + here))


def file_of(tmp_path, content):
    path = tmp_path / "given.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 1e-3), ("1.5E-4", 1.5e-4), ("3", 3), ("e5", "e5"), ("'1e5'", "1e5")],
)
def test_numbers_are_numbers_however_they_are_written(tmp_path, written, value):
    content = read_yaml(file_of(tmp_path, f"\ufefflr: {written}  # µ\r\nrates: [{written}, 2]\n"))
    assert content == {"lr": value, "rates": [value, 2]}
    assert type(content["lr"]) is type(value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("steps: 5\nlr: 1\nsteps: 6\n", ", line 3: 'steps' is already set in line 1; remove one of them"),
        ("note: caf\xe9\n".encode("latin-1"), "'utf-8' codec can't decode byte 0xe9"),
        ("grid:\n\tlr: [1]\n", ", line 2: found character '\\t'"),
        ("- 1\n- 2\n", " is not a mapping of names to values; write one `name: value` per line"),
        ("", " is not a mapping of names to values"),
        ("a: !!python/object/apply:os.system ['true']\n", ", line 1: could not determine a constructor for the tag"),
        ("a: 2020-99-99\n", ": month must be in 1..12"),
    ],
)
def test_problems_are_one_line_with_file_and_line(tmp_path, content, message):
    path = file_of(tmp_path, content)
    with pytest.raises(ParameterError) as refusal:
        read_yaml(path)
    assert str(refusal.value).startswith(str(path))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ParameterError, match=f"^{tmp_path} cannot be read: "):
        read_yaml(tmp_path)
