"""Base IRED on every task: its test scores beside trivial, classical and best-possible ones, and the published ones.

`metrics` holds the runs of several tasks, the task's name in its `method` column; `references` is the table of
`anm_nb.tasks.base.reference_scores`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import pandas as pd

from anm_nb.analysis.published import IRED_MSE
from anm_nb.analysis.reference_scores import metric_label, native, references_of
from anm_nb.analysis.stats import mean_interval
from anm_nb.analysis.tables import rounded, skill
from anm_nb.analysis.verdicts import Verdict, judge

SCORE = ["task", "split", "metric", "predictor"]


def final_test(metrics: pd.DataFrame) -> pd.DataFrame:
    """The final test of every run (`energy.evaluate`), tidy: task, split, metric, predictor, seed, score."""
    last = metrics[metrics["step"] == metrics.groupby("method")["step"].transform("max")]
    columns = [column for column in last if str(column).count("/") == 2]
    long = last.melt(["method", "seed"], columns, "column", "score").dropna(subset=["score"])
    parts = long["column"].str.split("/", expand=True).set_axis(["split", "metric", "predictor"], axis=1)
    return parts.assign(task=long["method"], seed=long["seed"], score=long["score"])[[*SCORE, "seed", "score"]]


def with_skill(scores: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """Test scores in each task's own metric with their skill against the best trivial score on the same problems."""
    parts = []
    for task, split, part in _by_problems(native(scores)):
        known = references_of(references, task, split)
        trivial = part[part["predictor"] == known.best("trivial")].set_index("seed")["score"]
        skills = skill(part["score"].to_numpy(), part["seed"].map(trivial).to_numpy(), known.ceiling)
        parts.append(part.assign(skill=skills))
    return pd.concat(parts, ignore_index=True)


def ired_table(scores: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """One row a task and split: the best trivial, the classical and the best possible score, published, and ours.

    Ours is the mean over seeds with its 95 % interval; trivial and classical are means on the same test problems.
    """
    rows = []
    skilled = with_skill(scores, references)
    for task, split, part in _by_problems(skilled):
        known = references_of(references, task, split)
        mean = part.groupby("predictor")["score"].mean()
        ours = part[part["predictor"] == "model"]
        trivial, classical = known.best("trivial"), known.best("classical")
        score, low, high = mean_interval(ours["score"])
        rows.append(
            {
                "task": task,
                "problems": split,
                "metric": metric_label(task),
                "trivial": mean[trivial],
                "best trivial": trivial,
                "classical": mean[classical],
                "best classical": classical,
                "ceiling": known.ceiling,
                "published": IRED_MSE.get((task, split), np.nan),
                "base IRED": score,
                "low": low,
                "high": high,
                "seeds": ours["score"].count(),
                "skill": ours["skill"].mean(),
            }
        )
    return pd.DataFrame(rows).set_index(["task", "problems"])


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """`ired_table` as text to read: scores to three digits, names beside them, the interval in brackets."""
    text = pd.DataFrame(index=table.index)
    text["metric"] = table["metric"]
    for kind in ("trivial", "classical"):
        text[f"best {kind}"] = [
            f"{rounded(value)} ({name})" for value, name in zip(table[kind], table[f"best {kind}"], strict=True)
        ]
    text["ceiling"] = table["ceiling"].map(rounded)
    text["published IRED, 20×20"] = ["–" if np.isnan(value) else f"{value:.4f}" for value in table["published"]]
    text["base IRED here [95 %]"] = [
        f"{rounded(score)} [{rounded(low)}, {rounded(high)}]"
        for score, low, high in zip(table["base IRED"], table["low"], table["high"], strict=True)
    ]
    text["skill"] = table["skill"].map("{:z.2f}".format)
    return text


def forms_table(metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The two forms of IRED's stock negatives side by side, a row each task and form, means over seeds at the end.

    `metrics` holds the runs' metrics by form. `illegitimate` is the share of negatives with m* < 0; a contrastive loss
    above ln 2 = 0.69 ranks pairs worse than a coin.
    """
    columns = {"same/mse/model": "mse", "harder/mse/model": "mse, harder", "illegitimate_fraction": "illegitimate"}
    columns |= {"loss_con": "contrastive loss", "grad_share_contrast": "gradient share"}
    needed = ["method", "seed", "step", *columns]
    rows = pd.concat([each.reindex(columns=needed).assign(form=form) for form, each in metrics.items()])
    ends = rows.sort_values("step").groupby(["method", "form", "seed"], sort=False).last().reset_index()
    ends = ends[ends["method"].isin(ends.loc[ends["form"] != "paper", "method"])]
    return ends.groupby(["method", "form"])[list(columns)].mean().rename(columns=columns).rename_axis(["task", "form"])


def ired_verdicts(
    scores: pd.DataFrame, references: pd.DataFrame, splits: Collection[str] = ("same", "harder")
) -> list[Verdict]:
    """For each task and split, whether base IRED is better than the best trivial reference, paired by seed."""
    verdicts = []
    for task, split, rows in _by_problems(native(scores)):
        if split not in splits:
            continue
        known = references_of(references, task, split)
        trivial = known.best("trivial")
        pairs = rows.pivot(index="seed", columns="predictor", values="score")
        grows = known.ceiling > known.values[trivial]
        lower, higher = (trivial, "model") if grows else ("model", trivial)
        verdicts.append(
            judge(
                f"base IRED beats every trivial reference on {task}, {split} problems",
                lower=pairs[lower],
                higher=pairs[higher],
                names=(lower.replace("model", "base IRED"), higher.replace("model", "base IRED")),
                unit=metric_label(task),
            )
        )
    return verdicts


def by_inner_steps(scores: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """Score and skill against the sampler's descent steps a level: task, split, steps, seed, score, skill."""
    rows = with_skill(scores, references)
    rows = rows[rows["predictor"].str.startswith("steps=")]
    steps = rows["predictor"].str.removeprefix("steps=").astype(int)
    return rows.assign(steps=steps).drop(columns=["predictor", "metric"]).reset_index(drop=True)


def classical_skill(scores: pd.DataFrame, references: pd.DataFrame) -> pd.Series:
    """The skill of the best classical method on the same test problems, by task and split."""
    rows = with_skill(scores, references)
    skills = rows.groupby(["task", "split", "predictor"], sort=False)["skill"].mean()
    chosen = {
        (task, split): skills[task, split, references_of(references, task, split).best("classical")]
        for task, split, _ in _by_problems(rows)
    }
    return pd.Series(chosen)


def step_verdicts(scores: pd.DataFrame, references: pd.DataFrame) -> list[Verdict]:
    """IRED's claim that more descent steps at test time answer better: the most against the fewest, paired by seed."""
    rows = by_inner_steps(scores, references)
    verdicts = []
    for task, split, part in _by_problems(rows):
        skills = part.pivot(index="seed", columns="steps", values="skill")
        few, many = skills.columns.min(), skills.columns.max()
        verdicts.append(
            judge(
                f"{many} descent steps a level answer better than {few} on {task}, {split} problems",
                lower=skills[few],
                higher=skills[many],
                names=(f"{few} steps", f"{many} steps"),
                unit="skill",
                expected="yes, above all on harder problems (IRED, section 4)",
            )
        )
    return verdicts


def _by_problems(scores: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The rows of each task, in order of appearance, and of each kind of problems within it."""
    for task in scores["task"].unique():
        for split, part in scores[scores["task"] == task].groupby("split", sort=False):
            yield str(task), str(split), part
