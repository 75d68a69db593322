"""The examples of the docs run as they are written."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXAMPLES = [
    pytest.param(block, id=f"{path.stem} {number}")
    for path in sorted(DOCS.glob("*.md"))
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run_as_written(example, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    exec(compile(example, "docs", "exec"), {"__name__": "docs"})
    if "from_puzzles" in example:
        assert capsys.readouterr().out == "1.0\ntorch.Size([8, 729])\n"
