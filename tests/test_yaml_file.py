"""What a parameter or sweep file says is what is used; its problems are one line with file, line and remedy."""

import pytest

from anm_nb.config import ParameterError
from anm_nb.yaml_file import read_yaml, stands_for


def file_of(tmp_path, content):
    path = tmp_path / "given.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-1e-3", -1e-3),
        ("1.5E-4", 1.5e-4),
        ("1.0e-3", 1e-3),
        ("3", 3),
    ],
)
def test_numbers_are_numbers_however_they_are_written(tmp_path, written, number):
    content = read_yaml(file_of(tmp_path, f"lr: {written}\nrates: [{written}, 2]\n"))
    assert content == {"lr": number, "rates": [number, 2]}
    assert type(content["lr"]) is type(number)


@pytest.mark.parametrize("text", ["e5", "1e", "1e5x", "v1e5", "'1e5'", "1e5-a"])
def test_what_is_no_number_stays_text(tmp_path, text):
    assert read_yaml(file_of(tmp_path, f"name: {text}\n")) == {"name": text.strip("'")}


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffsteps: 5\n",
        "steps: 5\r\n",
        "# a note: with µ and √\nsteps: 5\n",
    ],
)
def test_byte_order_marks_line_ends_and_notes_do_no_harm(tmp_path, content):
    assert read_yaml(file_of(tmp_path, content)) == {"steps": 5}


def test_a_merge_may_give_a_key_that_is_written_again(tmp_path):
    content = read_yaml(file_of(tmp_path, "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n"))
    assert content["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("steps: 5\nlr: 1\nsteps: 6\n", ", line 3: 'steps' is there already, in line 1; keep one of them"),
        ("grid:\n  lr: [1]\n  lr: [2]\n", ", line 3: 'lr' is there already, in line 2; keep one of them"),
        ("{x: 1, x: 1}", "'x' is there already"),
        ("note: caf\xe9\n".encode("latin-1"), ", line 1: is not in UTF-8; save the file as UTF-8"),
        ("steps: 5\n".encode("utf-16"), ", line 1: is not in UTF-8; save the file as UTF-8"),
        ("grid:\n\tlr: [1]\n", ", line 2: is indented by a tab; use spaces"),
        ("a: 1\nnote: this: that\n", ", line 2: has a second `:`; put a text that contains one in quotes"),
        ("- 1\n- 2\n", ", line 1: is a list; write one `name: value` a line"),
        ("steps\n", ", line 1: is a text; write one `name: value` a line"),
        ("", " is empty; write one `name: value` a line"),
        ("yes: 2\n", "True is no name; put it in quotes"),
        ("a: [1, 2\n", ", line 2: "),
        ("a: !!python/object/apply:os.system ['true']\n", ", line 1: could not determine a constructor for the tag"),
        ("? [1, 2]\n: 3\n", "line 1: found unhashable key"),
        ("a: 2020-99-99\n", ", line 1: month must be in 1..12"),
        ("a: " + "[" * 5000 + "]" * 5000, "is nested too deep"),
        ("a: " + "9" * 5000, ", line 1: Exceeds the limit"),
    ],
)
def test_problems_are_one_line_with_file_line_and_remedy(tmp_path, content, message):
    path = file_of(tmp_path, content)
    with pytest.raises(ParameterError) as refusal:
        read_yaml(path)
    said = str(refusal.value)
    assert said.startswith(str(path))
    assert message in said
    assert "\n" not in said


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ParameterError, match=f"^{path} cannot be read: "):
            read_yaml(path)


@pytest.mark.parametrize(
    ("text", "value", "same"),
    [
        ("1e-3", 0.001, True), ("2", 2.0, True), ("true", True, True), ("true", 1, False), ("1", True, False),
        ("[stock, anm]", ["stock", "anm"], True), ("null", None, True), ("anm", "anm", True), ("a: [", "x", False),
    ],
)  # fmt: skip
def test_what_a_person_types_stands_for_a_value(text, value, same):
    assert stands_for(text, value) is same
