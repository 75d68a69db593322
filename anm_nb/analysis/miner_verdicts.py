"""What the ANM checklist expects of its miner (sections B and H), judged over the tables of `miner_study.MinerStudy`.

Three of its wishes contradict a perfect score, as its energy E* shows (`SharedNoise.optimal_margin`): that p_hard drops
(a free miner always finds Δ ∝ −ε, where m* < 0), that every negative keeps its distance from the truth (orthogonal
to ε, the truth is the minimum), and that margins grow without end (a perfect score has the margin m*).
"""

from __future__ import annotations

from math import inf

import pandas as pd

from anm_nb.analysis.figures import label
from anm_nb.analysis.verdicts import Verdict, judge, judge_band

CANNOT = "it cannot hold: see the derivation"
FEASIBLE = 1e-6
STATIONARY = 1e-4  # the looser end of the document's tolerances for gm_norm


def descent_verdicts(armijo: pd.DataFrame, paths: pd.DataFrame, mined: pd.DataFrame) -> list[Verdict]:
    """Section B on the trained networks: Armijo, stationarity, feasibility, distance from the truth."""
    defaults = mined[mined["energy"] == "trained"]
    trained = paths[paths["energy"] == "trained"]
    verdicts = [
        judge_band(
            "no accepted step ends above Armijo's bound, re-evaluated in float64",
            armijo.groupby("seed")["violations"].sum(),
            low=0,
            high=0,
            unit="steps",
            expected="none (section B.1)",
        )
    ]
    for method in trained["method"].unique():
        norms = trained[trained["method"] == method].pivot(index="seed", columns="evaluations", values="gm_norm")
        verdicts.append(
            judge(
                f"the gradient mapping norm of {label(method)} falls along the inner path",
                lower=norms.iloc[:, -1],
                higher=norms.iloc[:, 0],
                names=("last", "first"),
                unit="‖y⁺‖",
                expected="→ 0 (section B.2)",
            )
        )
        verdicts.append(
            judge_band(
                f"the default miner of {label(method)} ends stationary",
                defaults[defaults["method"] == method].groupby("seed")["gm_norm"].mean(),
                low=-inf,
                high=STATIONARY,
                unit="‖y⁺‖",
                expected=f"below {STATIONARY:g} (section B.2)",
            )
        )
    verdicts.append(
        judge_band(
            f"no mined point lies further than {FEASIBLE:g}·‖y⁺‖ from its set",
            (defaults["feasibility_residual"] > FEASIBLE).groupby(defaults["seed"]).mean(),
            low=0,
            high=0,
            unit="of points",
            expected="about 0 (section B.3)",
        )
    )
    return verdicts + [_distance(mined, method) for method in mined["method"].unique()]


def legitimacy_verdicts(paths: pd.DataFrame, mined: pd.DataFrame) -> list[Verdict]:
    """What a perfect energy has to say to p_hard, and where the trained networks' miners go (sections A.1 and B)."""
    share = mined.groupby(["energy", "method", "seed"])[["p_hard", "illegitimate"]].mean()
    ends = paths[paths["evaluations"] == paths["evaluations"].max()]
    cosine = ends.groupby(["energy", "method", "seed"])["cosine"].mean()
    free, orthogonal = label("anm"), label("anm_orthogonal")
    return [
        judge_band(
            f"{free} finds few hard negatives on a perfect energy",
            share["p_hard"]["optimal", "anm"],
            low=-inf,
            high=0.5,
            unit="of negatives",
            expected=f"p_hard drops as the model learns (section A.1); {CANNOT}",
        ),
        judge_band(
            f"{orthogonal} finds no hard negative on a perfect energy",
            share["p_hard"]["optimal", "anm_orthogonal"],
            low=0,
            high=0,
            unit="of negatives",
            expected="p_hard drops as the model learns (section A.1)",
        ),
        judge_band(
            f"on trained networks {free} walks along −ε (cosine above 0.5)",
            cosine["trained", "anm"],
            low=0.5,
            high=1,
            unit="cosine",
        ),
        judge_band(
            f"most negatives of {free} on trained networks are legitimate",
            share["illegitimate"]["trained", "anm"],
            low=-inf,
            high=0.5,
            unit="illegitimate",
            expected="hard negatives, “plausible but wrong” (section A.1)",
        ),
        judge_band(
            f"no negative of {orthogonal} on trained networks is illegitimate",
            share["illegitimate"]["trained", "anm_orthogonal"],
            low=0,
            high=0,
            unit="illegitimate",
        ),
    ]


def step_size_verdicts(by_step_size: pd.DataFrame, rules: pd.DataFrame) -> list[Verdict]:
    """Section B.1's remedy for backtracks, and the step-size rules against one another at equal evaluations."""
    hits = by_step_size.groupby(["step_size", "seed"])["miner_limit_hits"].mean().unstack("step_size")
    area = rules.groupby(["rule", "seed"])["energy_left"].mean()
    short, long = hits.columns[0], hits.columns[-1]
    return [
        judge(
            f"a first step of {short:g}·‖y⁺‖ hits the backtrack limit less often than one of {long:g}·‖y⁺‖",
            lower=hits.iloc[:, 0],
            higher=hits.iloc[:, -1],
            names=("short", "long"),
            unit="of examples",
            expected="yes (section B.1)",
        ),
        judge(
            "Armijo leaves less energy than a fixed step after equally many evaluations",
            lower=area["armijo"],
            higher=area["fixed"],
            names=("Armijo", "fixed"),
            unit="of the energy, mean over the path",
        ),
        judge(
            "Barzilai–Borwein leaves less energy than Armijo after equally many evaluations",
            lower=area["barzilai_borwein"],
            higher=area["armijo"],
            names=("Barzilai–Borwein", "Armijo"),
            unit="of the energy, mean over the path",
        ),
    ]


def training_verdicts(trained: pd.DataFrame) -> list[Verdict]:
    """Section H: inner steps, EMA, learning rate, and margins on held-out pairs."""
    scores = {
        column: trained.dropna(subset=["value"]).pivot(index="seed", columns=["factor", "value"], values=column)
        for column in ("mse", "dev_margin", "oscillation")
    }
    steps = sorted(scores["mse"]["inner_steps"].columns)
    few = [count for count in steps if 2 <= count <= 5] or steps[:1]
    verdicts = []
    if steps[-1] > few[0]:
        for column, what in (("mse", "a lower held-out MSE"), ("oscillation", "less oscillating margins")):
            verdicts.append(
                judge(
                    f"{few[0]:g} inner steps end with {what} than {steps[-1]:g}",
                    lower=scores[column]["inner_steps", few[0]],
                    higher=scores[column]["inner_steps", steps[-1]],
                    names=(f"{few[0]:g} steps", f"{steps[-1]:g} steps"),
                    expected="more than 2–5 can destabilize (section H)",
                )
            )
    verdicts += _extremes(scores["oscillation"], "ema_decay", "an EMA decay of", "mine with the EMA (section H)")
    verdicts += _extremes(scores["oscillation"], "lr_divisor", "a learning rate divided by", "smoother (section H)")
    return verdicts + _dev_margins(trained, steps)


def _extremes(table: pd.DataFrame, factor: str, phrase: str, expected: str) -> list[Verdict]:
    """Whether the largest value of a factor makes margins oscillate less than the smallest."""
    values = sorted(table[factor].columns)
    if len(values) < 2:
        return []
    low, high = values[0], values[-1]
    return [
        judge(
            f"margins oscillate less with {phrase} {high:g} than {low:g}",
            lower=table[factor, high],
            higher=table[factor, low],
            names=(f"{high:g}", f"{low:g}"),
            expected=expected,
        )
    ]


def _dev_margins(trained: pd.DataFrame, steps: list[float]) -> list[Verdict]:
    """Held-out margins of mining, with the allowed inner steps nearest to the default 3, against each baseline."""
    usual = min(steps, key=lambda count: abs(count - 3))
    rows = trained[(trained["factor"] == "inner_steps") & (trained["value"] == usual)].set_index("seed")
    method = label(rows["method"].iloc[0])
    verdicts = []
    for name in trained.loc[trained["value"].isna(), "method"].unique():
        baseline = trained[trained["value"].isna() & (trained["method"] == name)].set_index("seed")["dev_margin"]
        verdicts.append(
            judge(
                f"{method} ends with larger held-out margins than {label(name)}",
                lower=baseline.reindex(rows.index),
                higher=rows["dev_margin"],
                names=(label(name), method),
                unit="nats",
                expected="yes (section H)" if name == "stock" else None,
            )
        )
    verdicts.append(
        judge(
            f"the held-out margins of {method} are still below those of a perfect score",
            lower=rows["dev_margin"],
            higher=rows["dev_margin_optimal"],
            names=(method, "perfect score"),
            unit="nats",
            expected="margins only grow (sections A.2, H); beyond m* that cannot be wanted: see the derivation",
        )
    )
    return verdicts


def _distance(mined: pd.DataFrame, method: str) -> Verdict:
    """Section B.4 on the optimal energy: who had to be given up within δ of the truth."""
    rows = mined[(mined["method"] == method) & (mined["energy"] == "optimal")]
    orthogonal = method == "anm_orthogonal"
    return judge_band(
        f"on a perfect energy every negative of {label(method)} keeps its distance δ from the truth",
        rows.groupby("seed")["too_close"].mean(),
        low=0,
        high=0,
        unit="given up",
        expected="yes (section B.4)" + (f"; {CANNOT}" if orthogonal else ""),
    )
