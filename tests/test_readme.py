"""README is short, its numbers are those of kept results, and its experiment runs."""

import re

import pytest
from anm_nb.analysis.reference import load_reference, summary

from anm_nb.analysis import anm_verdict, kept, ranking
from anm_nb.analysis.stats import paired_difference
from anm_nb.files import project_root

README = (project_root() / "README.md").read_text(encoding="utf-8")
ANSWERS = README.split("<!-- begin: answers -->\n")[1].split("<!-- end: answers -->")[0]
QUOTED = {  # from kept tables: the beginning of a row, the place of a cell in it, and what README quotes of that cell
    "10_anm_vs_corruption": [
        ("`anm`", 4, "+216.6 % [+207.4, +225.9]"),
        ("`anm_orthogonal`", 4, "-21.5 % [-26.6, -16.3]"),
    ],
    "anm_verdict": [
        ("no negatives (equal steps)", 3, "-6.4 % [-9.9, -3.0]"),
        ("stock (equal steps)", 3, "-1.5 % [-4.4, +1.4]"),
        ("stock, more steps (equal time)", 3, "+39 % [+35, +43]"),
        ("no negatives, more steps (equal time)", 3, "+158 % [+152, +163]"),
    ],
}
ITERATION = {  # of notebook 25, by the share of hidden items: the model, or the two whose difference is quoted
    0.5: {
        "no iteration": "0.883 [0.857, 0.904]",
        "weight-tied": "0.983 [0.980, 0.986]",
        "deep untied": "0.976 [0.968, 0.982]",
        "HRM per token − weight-tied": "+0.003 [+0.000, +0.006]",
        "HRM per token − one timescale": "-0.002 [-0.006, +0.003]",
    },
    0.9: {
        "no iteration": "0.464 [0.387, 0.535]",
        "HRM per token": "0.727 [0.425, 0.883]",
        "weight-tied": "0.848 [0.826, 0.867]",
    },
}


def test_it_is_at_most_10_kb_and_answers_in_15_lines():
    assert len(README.encode()) <= 10_000
    assert len([line for line in ANSWERS.splitlines() if line]) <= 15
    assert max(map(len, ANSWERS.splitlines())) <= 125


@pytest.mark.parametrize("name", QUOTED)
def test_its_answers_quote_kept_results(name):
    kept = summary(load_reference(name)) if name != "anm_verdict" else anm_verdict.summary(anm_verdict.load_verdict())
    for row, place, quoted in QUOTED[name]:
        (line,) = [line for line in kept.splitlines() if line.startswith(f"| {row} |")]
        assert quoted in line.strip("| ").split(" | ")[place]
        assert quoted in " ".join(ANSWERS.split())


@pytest.mark.parametrize("rate", ITERATION)
def test_its_answers_quote_notebook_25(rate):
    result = kept.load("25_where_iteration_helps")
    if rate == 0.5:
        rows = result.table("test_iterations").query("iterations == trained")
    else:
        rows = result.table("mask_rates").query("mask_rate == @rate")
    scores = rows.pivot(index="seed", columns="model", values="tau_all")
    for name, quoted in ITERATION[rate].items():
        better, _, base = name.partition(" − ")
        if base:
            difference = paired_difference(scores[better], scores[base])
            found = f"{difference.estimate:+z.3f} [{difference.low:+z.3f}, {difference.high:+z.3f}]"
            assert max(abs(difference.low), abs(difference.high)) < ranking.MARGIN  # it is said to be equivalent
        else:
            found = ranking.interval_text(scores[better])
        assert found == quoted
        assert quoted in " ".join(ANSWERS.split())


def test_its_answers_have_no_number_with_an_interval_that_is_not_looked_up():
    intervals = re.findall(r"\S+(?: %)? \[[^]]+\](?!\()", " ".join(ANSWERS.split()))
    quoted = [q for rows in QUOTED.values() for *_, q in rows] + [q for of in ITERATION.values() for q in of.values()]
    assert sorted(each.lstrip("(") for each in intervals) == sorted(quoted)


def test_it_lists_every_notebook():
    listed = re.findall(r"^\| \[(\w+)\]\(notebooks/\1\.ipynb\) \|", README, re.MULTILINE)
    assert listed == sorted(path.stem for path in (project_root() / "notebooks").glob("[0-9]*.ipynb"))


def test_its_first_experiment_runs_with_fewer_steps(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    assert "steps=400" in example
    exec(compile(example.replace("steps=400", "steps=10"), "README.md", "exec"), {"__name__": "readme"})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in printed] == ["none", "stock", "anm_orthogonal"]
    assert all(0 < float(line[1]) < 10 and (tmp_path / "runs" / line[-1]).is_dir() for line in printed)
