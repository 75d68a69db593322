"""What a parameter or sweep file says is what is used; its problems are one line with file and line."""

import pytest

from anm_nb.config import ParameterError, read_yaml


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
        ("steps: 5\nlr: 1\nsteps: 6\n", ", line 3: 'steps' is there already, in line 1; keep one of them"),
        ("note: caf\xe9\n".encode("latin-1"), "'utf-8' codec can't decode byte 0xe9"),
        ("grid:\n\tlr: [1]\n", ", line 2: found character '\\t'"),
        ("- 1\n- 2\n", " holds no names with values; write one `name: value` a line"),
        ("", " holds no names with values"),
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
