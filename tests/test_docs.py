"""What the docs show works as shown: examples run as written, commands and files exist."""

import importlib.util
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat
import pandas as pd
import pytest
import typer
from drop_in import DROP_IN, run_drop_in

from anm_nb import store, training
from anm_nb.analysis.doctor import examine, unexamined
from anm_nb.cases import open_sweep
from anm_nb.cli import app
from anm_nb.energy.train import EnergyConfig
from anm_nb.files import project_root
from anm_nb.store import Run

ROOT = project_root()
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}


def example(page: str, containing: str) -> str:
    """The one Python block of a page with a text in it."""
    blocks = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGES[page], re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return found


SNIPPETS = {name: example("extending.md", f'name = "{name}"') for name in ("other_answer", "square", "distance")}
JUDGING = ("rows", "rows-own", "verdicts-of")  # the cells of notebook 10 that its last one needs
TINY = "seeds = [0]\nsteps = 4\nsize = 2\nwidth = 8\nbatch = 8\nrecords = 3\ndev_examples = 8\n"


def values_of(source: str) -> dict[str, Any]:
    """What a parameter cell sets."""
    values: dict[str, Any] = {}
    exec(source, values)
    return {name: value for name, value in values.items() if name != "__builtins__"}


def run_notebook(snippet: str, parameters: str, folder: Path, **typed: str) -> nbformat.NotebookNode:
    """Notebook 10's table and verdicts with a user's cell and values, and some typed, by plain papermill anywhere."""
    notebook = nbformat.read(project_root() / "notebooks" / "10_anm_vs_corruption.ipynb", as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    cells["parameters"].source = parameters
    first = "import pandas as pd\nfrom anm_nb.analysis.tables import final"
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (first, snippet)]
    notebook.cells += [cells[name] for name in ("parameters", "settings", "runs", "scores", *JUDGING, "verdicts")]
    nbformat.write(notebook, folder / "mine.ipynb")
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "mine.ipynb", "out.ipynb"]
    command += [word for name, value in typed.items() for word in ("-p", name, value)]
    env = os.environ | {"ANM_NB_OUTPUTS": str(folder / "outputs")}
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    return nbformat.read(folder / "out.ipynb", as_version=4)


def test_the_recorder_drops_into_a_trainer_of_ones_own(capsys):
    assert DROP_IN.count("\n") < 25
    frame = run_drop_in()["recorder"].frame()
    assert examine(frame) == []
    assert unexamined(frame) == {}
    assert capsys.readouterr().out.strip() == ""


@pytest.mark.parametrize(
    ("right", "wrong", "uphill", "signature"),
    [
        ("signal * y_neg + sigma * eps", "signal * y_neg + sigma * torch.randn_like(y)", False, "noised a second time"),
        ("", "", True, "mined toward higher energy"),
        ("0.5 * F.softplus", "0.0 * F.softplus", False, "contrastive loss switched off"),
        ("0.5 * F.softplus", "500 * F.softplus", False, "contrastive loss dominates"),
        ("(e_pos - e_neg)", "(e_neg - e_pos)", False, "pairs ranked the wrong way round"),
    ],
)
def test_the_trainer_of_the_page_with_a_bug_is_told_so(right, wrong, uphill, signature, capsys):
    assert right in DROP_IN
    findings = examine(run_drop_in(DROP_IN.replace(right, wrong), uphill, steps=150)["recorder"].frame())
    assert any(signature in finding.signature for finding in findings), findings
    assert signature.upper() in capsys.readouterr().out


@pytest.fixture
def trained_with(tmp_path, monkeypatch):
    """Trains something small after a block of the page was run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(training, "LOGGERS", {})

    def train(source: str) -> Run:
        exec(source, {"__name__": "docs"})
        small = {"size": 2, "width": 8, "steps": 4, "batch": 8, "records": 3, "dev_examples": 8, "seeds": [0, 1]}
        return store.get_or_train(EnergyConfig(**small, negatives="stock"))

    return train


def test_a_logger_of_ones_own_hears_every_record(trained_with):
    run = trained_with(example("extending.md", "def log("))
    expected = run.metrics.assign(method="stock")[["method", "seed", "step", "loss_mse"]]
    heard = pd.read_csv("log.csv", names=list(expected))
    pd.testing.assert_frame_equal(heard, expected, check_dtype=False)


def test_the_sweep_file_shown_is_one(tmp_path):
    (tmp_path / "mine.yaml").write_text(example("running.md", "notebook: 10_anm_vs_corruption"))
    cases = open_sweep(tmp_path / "mine.yaml")
    assert len(cases) == 3 * 2 + 1
    assert {case.values["steps"] for case in cases} == {4000}
    assert {case.values["batch"] for case in cases} == {128}  # the profile's


@pytest.mark.parametrize("page", PAGES)
def test_commands_files_and_headings_that_it_names_exist(page):
    shown = re.findall(r"^anm-nb .*$", PAGES[page], re.MULTILINE) + re.findall(r"`(anm-nb [^`]+)`", PAGES[page])
    for line in shown:
        command, words = typer.main.get_command(app), line.partition("#")[0].split()[1:]
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command, words = command.commands[words[0]], words[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
    folder = ROOT if (ROOT / page).exists() else ROOT / "docs"
    for target in re.findall(r"\]\((?!http)([^)]+)\)", PAGES[page]):
        path, _, heading = target.partition("#")
        assert (folder / path).exists(), target
        titles = re.findall(r"^#+ (.+)$", PAGES[Path(path).name if path else page], re.MULTILINE) if heading else []
        assert not heading or heading in [title.lower().replace(" ", "-") for title in titles], target


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_link_to_each_other_and_the_web(path):
    """Nothing else is there in JupyterLab, whose root is their folder, and beside their copies in a gallery."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", []) if "data" in output]
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    texts += [output.data["text/markdown"] for output in outputs if "text/markdown" in output.data]
    for target in re.findall(r"\]\(([^)]+)\)", "\n".join(texts)):
        assert target.startswith("https://") or (path.parent / target).suffix == ".ipynb", target
        assert target.startswith("https://") or ("/" not in target and (path.parent / target).exists()), target


def test_the_table_of_gpu_steps_is_that_of_the_kept_measurement():
    steps = pd.read_csv(ROOT / "outputs" / "reference" / "gpu" / "steps.csv").query("precision == 'tf32'")
    names = {"IRED, no negatives": "none", "IRED, stock negatives": "stock", "IRED, mined negatives": "anm"}
    names |= {"IRED, mined, orthogonal to the noise": "anm_orthogonal", "ranking, 12 iterations": "hrm"}
    names |= {"9×9 boards, no negatives": "none", "9×9 boards, stock negatives": "stock"}
    rows = re.findall(r"^\| (IRED.*?|ranking.*?|9×9.*?) \| (\d+) \| (.*?) \|$", PAGES["running.md"], re.MULTILINE)
    assert len(rows) == 14
    for name, seeds, cells in rows:
        boards = steps["family"] == "sudoku"
        own = steps[(steps["method"] == names[name]) & (steps["seeds"] == int(seeds)) & (boards == ("9×9" in name))]
        for (card, graph), cell in zip((("H100", 1), ("H100", 0), ("H200", 1)), cells.split(" | "), strict=True):
            found = own[own["card"].str.contains(card) & (own["graph"] == graph)]["ms"]
            assert cell == (f"{found.item():.1f}" if len(found) else "–"), (name, seeds, card)


SPEC = importlib.util.spec_from_file_location("static_site", ROOT / "docs" / "static_site.py")
static_site = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(static_site)
SITE = ["README.md", "docs/results.md", "docs/tasks.md", "docs/extending.md"]
SITE += ["notebooks/30_analysis.ipynb", "notebooks/41_explore_routing.ipynb"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A part of the site; it has links to pages outside this part as plain files."""
    folder = tmp_path_factory.mktemp("site")
    assert static_site.write_site([ROOT / page for page in SITE], folder) == []
    return folder


@pytest.mark.parametrize("page", SITE)
def test_links_lead_to_pages_files_and_headings(page, site):
    written = (site / page).with_suffix(".html")
    html = written.read_text("utf-8").split("<body", 1)[1]
    links = re.findall(r'\b(?:href|src)="(?!https?:|data:|mailto:)([^"]+)"', html)
    assert links
    for link in links:
        path, _, heading = unquote(link).partition("#")
        target = (written.parent / path).resolve() if path else written
        assert target.is_file(), link
        if heading and target.suffix == ".html":
            assert f'id="{heading}"' in target.read_text("utf-8"), link


@pytest.mark.parametrize("page", [page for page in SITE if page.endswith(".ipynb")])
def test_every_figure_has_the_text_of_its_output_or_cell_or_the_notebook_s_title(page, site):
    notebook = nbformat.read(ROOT / page, as_version=4)
    title = re.search("^# (.+)", notebook.cells[0].source, re.MULTILINE)[1]
    expected = [
        output.metadata.get("image/png", {}).get("alt") or cell.metadata.get("alt") or title
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    html = (site / page).with_suffix(".html").read_text("utf-8")
    assert [unescape(alt) for alt in re.findall(r'<img alt="([^"]*)"[^>]* src="data:image/png', html)] == expected
    assert html.count('src="data:image/png') == len(expected)
    assert len(set(expected)) > 1
