"""A sweep of a trivial notebook, and the command that runs it in a separate process."""

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
    """A notebook of code cells; the first has the parameters."""
    cells = [new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A question?"), *cells]), path)
    return path


class TrivialSweep:
    """A folder with a notebook that takes n, x and pause, logs each execution in `ran`, and fails at n = 13."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.notebook = write_notebook(folder / "square.ipynb", PARAMETERS, WORK, SHOW)

    def write(self, name: str = "trivial", **content: object) -> Path:
        """Write a sweep file with this content, by default for the trivial notebook."""
        path = self.folder / f"{name}.yaml"
        content = content if "union" in content else {"notebook": self.notebook.name, **content}
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `anm-nb sweep` on the file `trivial`."""
        command = [sys.executable, "-m", "anm_nb.cli", "sweep", self.folder / "trivial.yaml", "--out", self.out]
        environment = os.environ | {"ANM_NB_OUTPUTS": str(self.folder / "outputs")}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        return subprocess.Popen([*command, *arguments], env=environment, **streams)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run it to its end; returns exit code and output."""
        process = self.start(*arguments)
        said = process.communicate(timeout=600)[0]
        return process.returncode, said

    def invoke(self, *arguments: str) -> Result:
        """Run it in this process, one case at a time."""
        command = ["sweep", str(self.folder / "trivial.yaml"), "--out", str(self.out), "--jobs", "1", *arguments]
        return CliRunner().invoke(app, command)

    def ran(self) -> list[int]:
        """The n of every execution of the notebook so far, in order."""
        path = self.folder / "ran"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def outcomes(self) -> dict[str, dict]:
        """The outcomes recorded in the executed notebooks, by name."""
        paths = self.out.glob("*.ipynb")
        return {path.stem: json.loads(path.read_bytes())["metadata"]["anm_nb"] for path in paths}

    def half_written(self) -> list[str]:
        """Names in the folder of results that are neither finished results nor the lock."""
        whole = {".ipynb", ".parquet", ".lock"}
        names = [path.name for path in self.out.iterdir()] if self.out.exists() else []
        return [name for name in names if Path(name).suffix not in whole or ".partial" in name]

    def wait_for_kernel(self, n: int) -> int:
        """Wait for the kernel that runs the case of n; returns its process id."""
        path = self.folder / f"pid-{n}"
        wait_until(lambda: path.exists() and path.read_text() != "", 120)
        return int(path.read_text())


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Wait for a condition; fail after some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def ended(pid: int) -> bool:
    """Whether a process is gone or a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return state.startswith("Z")
