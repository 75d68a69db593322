"""What the README shows works as shown, and what it quotes is what is stored."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch

from anm_nb.analysis import anm_verdict
from anm_nb.analysis.doctor import Finding, examine, unexamined
from anm_nb.analysis.ranking_tables import on_test
from anm_nb.analysis.reference import DISPLAYS, load_reference, summary
from anm_nb.files import project_root

README = (project_root() / "README.md").read_text(encoding="utf-8")
SNIPPETS = {
    name: next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if f'name = "{name}"' in block)
    for name in ("other_answer", "square", "distance")
}
DROP_IN = next(
    block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "recorder = Recorder()" in block
)
TINY = "seeds = [0]\nsteps = 4\nsize = 2\nwidth = 8\nbatch = 8\nrecords = 3\ndev_examples = 8\n"


def run_notebook(snippet: str, parameters: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> nbformat.NotebookNode:
    """Notebook 10 up to its first table, with a user's cell and a user's values, through papermill."""
    notebook = nbformat.read(project_root() / "notebooks" / "10_anm_vs_corruption.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    last = next(cell for cell in code if "score_table(scores" in cell.source)
    notebook.cells = notebook.cells[: notebook.cells.index(last) + 1]
    notebook.cells.insert(notebook.cells.index(code[1]), nbformat.v4.new_code_cell(snippet))
    code[0].source = parameters
    nbformat.write(notebook, folder / "mine.ipynb")
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(folder / "outputs"))
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "mine.ipynb", "out.ipynb"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return nbformat.read(folder / "out.ipynb", as_version=4)


def test_a_strategy_of_ones_own_runs_in_the_notebook(tmp_path, monkeypatch):
    assert SNIPPETS["other_answer"].count("\n") < 40
    values = TINY + 'strategies = ["stock", "other_answer"]\n'
    executed = run_notebook(SNIPPETS["other_answer"], values, tmp_path, monkeypatch)
    assert "other_answer" in executed.cells[-1].outputs[0].data["text/plain"]
    changed = SNIPPETS["other_answer"].replace("distance: int = 1", "distance: int = 2")
    run_notebook(changed, values, tmp_path, monkeypatch)
    configs = [json.loads(path.read_text())["config"] for path in (tmp_path / "outputs" / "runs").glob("*/config.json")]
    distances = sorted(c["negatives"]["distance"] for c in configs if c["negatives"]["name"] == "other_answer")
    assert distances == [1, 2]  # the changed strategy was trained, not served from the store


def test_a_task_of_ones_own_runs_in_the_notebook(tmp_path, monkeypatch):
    values = TINY + 'task = "square"\nstrategies = ["none", "anm"]\n'
    executed = run_notebook(SNIPPETS["square"], values, tmp_path, monkeypatch)
    assert "exact solution" in executed.cells[-1].outputs[0].data["text/plain"]


def test_a_network_of_ones_own_runs_in_the_notebook(tmp_path, monkeypatch):
    assert SNIPPETS["distance"].count("\n") < 40
    values = TINY + 'network = "distance"\nstrategies = ["none", "stock"]\n'
    executed = run_notebook(SNIPPETS["distance"], values, tmp_path, monkeypatch)
    assert "exact solution" in executed.cells[-1].outputs[0].data["text/plain"]
    configs = [json.loads(path.read_text())["config"] for path in (tmp_path / "outputs" / "runs").glob("*/config.json")]
    assert {config["network"] for config in configs} == {"distance"}


class Energy(torch.nn.Module):
    """A reader's own network; it knows nothing of noise levels."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.SiLU(), torch.nn.Linear(32, 3))

    def forward(self, x, y):
        return self.body(torch.cat([x, y], dim=1)).square().sum(1)


def run_drop_in(source: str, miner_sign: float = -1.0) -> tuple[list[Finding], pd.DataFrame]:
    """The README's loop over a reader's own data, network, schedule and miner; +1 mines uphill."""
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = Energy()
    ema = copy.deepcopy(net).requires_grad_(False)

    def draw_level(n):
        alpha = 0.1 + 0.8 * torch.rand(n, 1, generator=rng)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def energy(net, x, y):
        return net(x, y)

    def mine(ema, x, y, trial):
        start = (y + torch.randn(y.shape, generator=rng)).requires_grad_()
        before = ema(x, start)
        (gradient,) = torch.autograd.grad(before.sum(), start)
        step, norm = torch.tensor(0.01), gradient.norm(dim=1)
        moved = (start + miner_sign * step * gradient).detach()
        after = ema(x, moved)
        accepted = (after < before) | (miner_sign > 0)
        trial(before, after, step, norm, accepted)
        return torch.where(accepted[:, None], moved, start.detach())

    x = torch.randn(400, 16, 3, generator=rng)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    names = {"loader": [(each, each.tanh()) for each in x], "torch": torch, "F": torch.nn.functional}
    names |= {"net": net, "ema": ema, "optimiser": optimiser, "draw_level": draw_level, "energy": energy, "mine": mine}
    exec(source, names)
    frame = names["recorder"].frame()
    return examine(frame), frame


def test_the_recorder_drops_into_a_trainer_of_ones_own(capsys):
    assert DROP_IN.count("\n") < 25
    findings, frame = run_drop_in(DROP_IN)
    assert findings == []
    assert unexamined(frame) == {}
    assert capsys.readouterr().out.strip() == ""


@pytest.mark.parametrize(
    ("right", "wrong", "sign", "signature"),
    [
        ("signal * y_neg + sigma * eps", "signal * y_neg + sigma * torch.randn_like(y)", -1, "noised a second time"),
        ("", "", 1, "mined toward higher energy"),
    ],
)
def test_the_readme_s_trainer_with_a_bug_is_told_so(right, wrong, sign, signature, capsys):
    assert right in DROP_IN
    findings, _ = run_drop_in(DROP_IN.replace(right, wrong) if right else DROP_IN, sign)
    assert any(signature in finding.signature for finding in findings)
    assert signature.upper() in capsys.readouterr().out


@pytest.mark.parametrize("name", DISPLAYS)
def test_the_quoted_table_is_the_stored_one(name):
    quoted = README.split(f"<!-- begin: {name} -->\n")[1].split(f"\n<!-- end: {name} -->")[0]
    assert quoted == summary(load_reference(name))


def test_the_quoted_verdict_is_the_stored_one():
    quoted = README.split("<!-- begin: anm_verdict -->\n")[1].split("\n<!-- end: anm_verdict -->")[0]
    assert quoted == anm_verdict.summary(anm_verdict.load_verdict())


def test_what_it_says_of_the_grid_s_last_epochs_is_counted_in_the_stored_runs():
    metrics = load_reference("hrm").metrics
    all_pairs = metrics.pivot(index=["method", "seed"], columns="epoch", values="tau_all")
    lower = int((all_pairs[100] < all_pairs[1]).sum())
    assert f"than after the first in {lower} of the {len(all_pairs)} trainings" in README
    observed = metrics[metrics["epoch"] == 100].set_index(["method", "seed"])["tau_obs"]
    lost = observed[observed < 0.9995].sort_values()
    assert f"in {len(lost)} the last epoch has lost observed pairs" in README
    assert ", ".join(f"`{method}` seed {seed} ({tau:.3f})" for (method, seed), tau in lost.items()) in README


def test_what_it_says_of_the_grid_s_seeds_on_hinted_sorting_is_read_from_the_stored_runs():
    scores = on_test(load_reference("hrm_hinted").metrics, "test_tau_all")
    iterated, one_pass = scores.drop(columns="baseline"), scores["baseline"]
    (stalled,) = iterated.idxmin().unique()
    others = iterated.drop(index=stalled).to_numpy()
    assert f"Four seeds of every iterated model end at τ {others.min():.2f} to {others.max():.2f} over all" in README
    best = one_pass.drop(index=one_pass.idxmin())
    assert f"four of the single pass at {best.min():.2f} to {best.max():.2f}. But seed {stalled}" in README
    assert f"near {iterated.loc[stalled].mean():.2f}, what sorting the visible values" in README
    assert f"and seed {one_pass.idxmin()} of the single pass at {one_pass.min():.2f}" in README
    gains = iterated["hrm"] - one_pass
    assert (gains.drop(index=stalled) > 0.2).all()
    assert f"the mean gain\nof {gains.mean():.2f} is undecided" in README


def test_every_file_it_points_to_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (project_root() / target).exists(), target


def test_no_text_sets_two_processes_beside_one_of_the_public_implementation():
    """Paired, one process and one thread each, it is 1.05 [0.99, 1.11]; whoever quotes a ratio quotes that."""
    texts = [README, *(path.read_text("utf-8") for path in (project_root() / "notebooks").glob("*.ipynb"))]
    sentences = [line for text in texts for line in text.split("\n\n") if "public implementation" in line]
    assert sentences
    assert not [each for each in sentences if "[0.99, 1.11]" not in each or "scaled by the rate" in each]
    assert not re.search(r"2[.]20?× the public|public reference scaled", "".join(texts))
