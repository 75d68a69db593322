"""docs/results.md quotes what is stored, and what it says of it is counted there; run as a program, it writes the page.

The tables of the ranking results are those of the notebooks' own cells.
"""

import json
import re

import nbformat
import pandas as pd
import pytest

from anm_nb.analysis import anm_verdict, kept, ranking
from anm_nb.analysis.reference import DISPLAYS, load_reference, summary, write_between
from anm_nb.files import project_root
from anm_nb.tasks import get_task

PATH = project_root() / "docs" / "results.md"
PAGE = PATH.read_text(encoding="utf-8")
SENTENCES = " ".join(PAGE.split())  # wherever lines are broken
RANKINGS = ("02_kendall_forensics", "20_hrm_vs_baseline", "hrm", "hrm_hinted", "25_where_iteration_helps")


def markdown(table: pd.DataFrame) -> str:
    flat = table.reset_index().astype(str)
    lines = [flat.columns, ["---"] * flat.shape[1], *flat.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def ranking_tables(name: str) -> str:
    """The tables of a kept ranking result, as docs/results.md quotes them."""
    result = kept.load(name)
    if name == "25_where_iteration_helps":
        return "\n\n".join(map(markdown, iteration_tables()))
    if name.startswith("hrm"):
        hinted = name == "hrm_hinted"
        level = ranking.halfway(get_task("hinted_sort", size=20, mask_rate=0.5)) if hinted else float("nan")
        table = markdown(ranking.score_summary(result.metrics, result.references, level))
        return table if not hinted else "\n\n".join([table, *(first_sentence(field) for field in ranking.SHORT)])
    known = result.references.pivot(index="name", columns="metric", values="value")[list(ranking.SPACES.values())]
    measured = ranking.tested(result.metrics).groupby("method", sort=False)[list(ranking.SPACES.values())]
    table = pd.concat([known.map("{:z.3f}".format), measured.agg(ranking.interval_text)]).rename_axis("ranking")
    spaces = {metric: space for space, metric in ranking.SPACES.items()}
    return markdown(table.rename(columns=spaces).replace("nan", "–"))


def first_sentence(field: str) -> str:
    """What notebooks 21 to 24 open with."""
    answer = ranking.sweep_answer(field, kept.load("hrm_hinted"), kept.load("hrm"))
    return f"{answer.split('**. ')[0]}**."


def iteration_tables() -> list[pd.DataFrame]:
    """Comparators at every share of hidden items, components and tiers, by notebook 25's own cells."""
    notebook = nbformat.read(project_root() / "notebooks" / "25_where_iteration_helps.ipynb", as_version=4)
    wanted = ("def components(", "def summary(", "def tiers(")
    cells = [c.source for c in notebook.cells if c.cell_type == "code" and any(name in c.source for name in wanted)]
    names: dict = {"display": lambda *given: None}
    for source in cells:
        exec(source.replace("from IPython.display import Markdown, display", "Markdown = str"), names)
    result, rates = names["result"], names["result"].table("mask_rates")
    level, summed = names["level_of"], names["summary"]
    every = summed(names["at_trained"](result.table("test_iterations")), level(names["kept_config"], 0.5))
    by_rate = {
        f"{100 * rate:.0f} %": summed(rows, level(names["kept_config"], rate))
        for rate, rows in rates.groupby("mask_rate")
    }
    judged = names["judged"].set_index("name")[["measured", "p_holm", "verdict"]]
    judged["p_holm"] = judged["p_holm"].map("{:.3f}".format).replace("nan", "–")
    tiers = names["tiers"](rates).drop(columns="asks for").rename(columns={"baseline": "one pass", "model": "τ"})
    return [every, pd.concat(by_rate, names=["hidden"]), judged, tiers]


@pytest.mark.parametrize("name", [*DISPLAYS, *RANKINGS])
def test_the_quoted_table_is_the_stored_one(name):
    quoted = PAGE.split(f"<!-- begin: {name} -->\n")[1].split(f"\n<!-- end: {name} -->")[0]
    assert quoted == (summary(load_reference(name)) if name in DISPLAYS else ranking_tables(name))


def test_the_quoted_verdict_is_the_stored_one():
    quoted = PAGE.split("<!-- begin: anm_verdict -->\n")[1].split("\n<!-- end: anm_verdict -->")[0]
    assert quoted == anm_verdict.summary(anm_verdict.load_verdict())


def test_what_it_says_of_the_grid_s_last_epochs_is_counted_in_the_stored_runs():
    metrics = kept.load("hrm").metrics
    all_pairs = metrics.pivot(index=["method", "seed"], columns="epoch", values="tau_all")
    lower = int((all_pairs[100] < all_pairs[1]).sum())
    assert f"than after the first in {lower} of the {len(all_pairs)} trainings" in SENTENCES
    observed = metrics[metrics["epoch"] == 100].set_index(["method", "seed"])["tau_obs"]
    lost = observed[observed < 0.9995].sort_values()
    assert f"in {len(lost)} the last epoch has lost observed pairs" in SENTENCES
    assert ", ".join(f"`{method}` seed {seed} ({tau:.3f})" for (method, seed), tau in lost.items()) in SENTENCES


def test_what_it_says_of_the_grid_s_seeds_on_hinted_sorting_is_read_from_the_stored_runs():
    scores = ranking.on_test(kept.load("hrm_hinted").metrics, "tau_all")
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
    study = anm_verdict.load_verdict()
    choices = study.tuning["choice"].map(json.loads)
    rates = sorted(choices.map(lambda choice: choice["lr"]).unique())
    assert f"The learning rates tried were {rates[0]}, {rates[1]} and {rates[2]}. " in SENTENCES
    inverse = choices[study.tuning["task"] == "inverse"]
    assert {choice["lr"] for choice in inverse if choice.get("legitimacy") == "orthogonal"} == {rates[1]}
    plans = {(plan["task"], plan["training"]): plan for plan in study.provenance["plans"]}
    chosen = plans["inverse", "unlimited"]["chosen"]
    assert chosen["none"]["lr"] == chosen["stock"]["lr"] == rates[-1]
    assert chosen["anm"]["legitimacy"] == "orthogonal"
    sudoku = study.provenance["runs"]["sudoku/unlimited/anm_tuned"]["config"]
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


if __name__ == "__main__":
    for each in RANKINGS:
        write_between(PATH, each, ranking_tables(each))
