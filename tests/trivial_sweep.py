"""A sweep of a trivial notebook, the command that runs it as a process of its own, and cases that end at once."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from typer.testing import CliRunner, Result

from anm_nb.analysis import VERDICT_MIME
from anm_nb.cli import app

PARAMETERS = "n = 1      # 0 …\nx = 0.5    # > 0\npause = 0.0  # s"
WORK = """
import os, pathlib, time
with open("ran", "a") as ran:
    ran.write(f"{n}\\n")
if n == 13:
    raise ValueError("thirteen")
pathlib.Path(f"pid-{n}").write_text(str(os.getpid()))
time.sleep(pause)
"""
SHOW = f"""
from IPython.display import display
row = {{"claim": f"{{n}}·x is small", "measured": "so", "verdict": "supported", "estimate": n * x / 3, "seeds": 3}}
display({{{VERDICT_MIME!r}: {{"verdicts": [row | {{"low": n * x - 1}}]}}, "text/plain": "so"}}, raw=True)
"""


def write_notebook(path: Path, *sources: str) -> Path:
    """A notebook of code cells, the first of which holds its parameters."""
    cells = [new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A question?"), *cells]), path)
    return path


class TrivialSweep:
    """A folder with a notebook that takes n, x and pause, notes each of its runs in `ran`, and fails at n = 13."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.notebook = write_notebook(folder / "square.ipynb", PARAMETERS, WORK, SHOW)

    def write(self, name: str = "trivial", **content: object) -> Path:
        """A sweep file of the notebook, or of what else `content` says."""
        path = self.folder / f"{name}.yaml"
        content = content if "union" in content else {"notebook": self.notebook.name, **content}
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run `anm-nb sweep` on the file `trivial`."""
        command = [sys.executable, "-m", "anm_nb.cli", "sweep", self.folder / "trivial.yaml", "--out", self.out]
        environment = os.environ | {"ANM_NB_OUTPUTS": str(self.folder / "outputs")}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        return subprocess.Popen([*command, *arguments], env=environment, **streams)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run it to its end: exit code and what it said."""
        process = self.start(*arguments)
        said = process.communicate(timeout=600)[0]
        return process.returncode, said

    def invoke(self, *arguments: str) -> Result:
        """The same in this process, one case at a time."""
        command = ["sweep", str(self.folder / "trivial.yaml"), "--out", str(self.out), "--jobs", "1", *arguments]
        return CliRunner().invoke(app, command)

    def ran(self) -> list[int]:
        """The n of every run of the notebook so far, in order."""
        path = self.folder / "ran"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def outcomes(self) -> dict[str, dict]:
        """What the executed notebooks note, by name."""
        paths = self.out.glob("*.ipynb")
        return {path.stem: json.loads(path.read_bytes())["metadata"]["anm_nb"] for path in paths}

    def half_written(self) -> list[str]:
        """What is in the folder of results that is neither a whole result nor the lock."""
        whole = {".ipynb", ".parquet", ".lock"}
        names = [path.name for path in self.out.iterdir()] if self.out.exists() else []
        return [name for name in names if Path(name).suffix not in whole or ".partial" in name]

    def wait_for_kernel(self, n: int) -> int:
        """The process id of the kernel that runs the case of n, once it does."""
        path = self.folder / f"pid-{n}"
        wait_until(lambda: path.exists() and path.read_text() != "", 120)
        return int(path.read_text())


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Wait, and fail where it was in vain."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def ended(pid: int) -> bool:
    """Gone, or waiting only for its parent to notice."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return state.startswith("Z")
