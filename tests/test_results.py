"""docs/results.md quotes what is stored, and what it says of it is counted there."""

import json
import re

import pytest

from anm_nb.analysis import anm_verdict
from anm_nb.analysis.ranking_tables import on_test
from anm_nb.analysis.reference import DISPLAYS, load_reference, summary
from anm_nb.files import project_root

PAGE = (project_root() / "docs" / "results.md").read_text(encoding="utf-8")
SENTENCES = " ".join(PAGE.split())  # wherever lines are broken


@pytest.mark.parametrize("name", DISPLAYS)
def test_the_quoted_table_is_the_stored_one(name):
    quoted = PAGE.split(f"<!-- begin: {name} -->\n")[1].split(f"\n<!-- end: {name} -->")[0]
    assert quoted == summary(load_reference(name))


def test_the_quoted_verdict_is_the_stored_one():
    quoted = PAGE.split("<!-- begin: anm_verdict -->\n")[1].split("\n<!-- end: anm_verdict -->")[0]
    assert quoted == anm_verdict.summary(anm_verdict.load_verdict())


def test_what_it_says_of_the_grid_s_last_epochs_is_counted_in_the_stored_runs():
    metrics = load_reference("hrm").metrics
    all_pairs = metrics.pivot(index=["method", "seed"], columns="epoch", values="tau_all")
    lower = int((all_pairs[100] < all_pairs[1]).sum())
    assert f"than after the first in {lower} of the {len(all_pairs)} trainings" in SENTENCES
    observed = metrics[metrics["epoch"] == 100].set_index(["method", "seed"])["tau_obs"]
    lost = observed[observed < 0.9995].sort_values()
    assert f"in {len(lost)} the last epoch has lost observed pairs" in SENTENCES
    assert ", ".join(f"`{method}` seed {seed} ({tau:.3f})" for (method, seed), tau in lost.items()) in SENTENCES


def test_what_it_says_of_the_grid_s_seeds_on_hinted_sorting_is_read_from_the_stored_runs():
    scores = on_test(load_reference("hrm_hinted").metrics, "test_tau_all")
    iterated, one_pass = scores.drop(columns="baseline"), scores["baseline"]
    (stalled,) = iterated.idxmin().unique()
    others = iterated.drop(index=stalled).to_numpy()
    assert f"Four seeds of every iterated model end at τ {others.min():.2f} to {others.max():.2f} over all" in SENTENCES
    best = one_pass.drop(index=one_pass.idxmin())
    assert f"four of the single pass at {best.min():.2f} to {best.max():.2f}. But seed {stalled}" in SENTENCES
    assert f"near {iterated.loc[stalled].mean():.2f}, which sorting the visible values reaches" in SENTENCES
    assert f"and seed {one_pass.idxmin()} of the single pass at {one_pass.min():.2f}" in SENTENCES
    gains = iterated["hrm"] - one_pass
    assert (gains.drop(index=stalled) > 0.2).all()
    assert f"the mean gain of {gains.mean():.2f} is undecided" in SENTENCES
    means = iterated.mean()
    assert f"no two settings differ by more than {means.max() - means.min():.3f}" in SENTENCES


def test_what_it_says_of_the_tuning_is_read_from_the_stored_study():
    kept = anm_verdict.load_verdict()
    choices = kept.tuning["choice"].map(json.loads)
    rates = sorted(choices.map(lambda choice: choice["lr"]).unique())
    assert f"The learning rates tried were {rates[0]}, {rates[1]} and {rates[2]}. " in SENTENCES
    inverse = choices[kept.tuning["task"] == "inverse"]
    assert {choice["lr"] for choice in inverse if choice.get("legitimacy") == "orthogonal"} == {rates[1]}
    plans = {(plan["task"], plan["training"]): plan for plan in kept.provenance["plans"]}
    chosen = plans["inverse", "unlimited"]["chosen"]
    assert chosen["none"]["lr"] == chosen["stock"]["lr"] == rates[-1]
    assert chosen["anm"]["legitimacy"] == "orthogonal"
    sudoku = kept.provenance["runs"]["sudoku/unlimited/anm_tuned"]["config"]
    weights = sudoku["contrastive_weight"], sudoku["contrastive_weight_end"]
    assert f"(weight {weights[0]:.3g}, falling to {weights[1]:g})" in SENTENCES


def test_no_text_sets_two_processes_beside_one_of_the_public_implementation():
    """Paired, one process and one thread each, it is 1.05 [0.99, 1.11]; whoever quotes a ratio quotes that."""
    pages = [*(project_root() / "docs").glob("*.md"), project_root() / "README.md"]
    texts = [path.read_text("utf-8") for path in (*pages, *(project_root() / "notebooks").glob("*.ipynb"))]
    sentences = [line for text in texts for line in re.split(r"\n\n|\n- ", text) if "public implementation" in line]
    assert sentences
    assert not [each for each in sentences if "[0.99, 1.11]" not in each or "scaled by the rate" in each]
    assert not re.search(r"2[.]20?× the public|public reference scaled", "".join(texts))
