"""A sweep's verdicts as one table: a row for each verdict of each case, beside the parameters that differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anm_nb.analysis import VERDICT_MIME
from anm_nb.files import replace_whole
from anm_nb.sweep.cases import Case
from anm_nb.sweep.files import PlannedCase
from anm_nb.sweep.naming import differing
from anm_nb.sweep.outcomes import Outcome

if TYPE_CHECKING:
    import pandas as pd

TABLE_FILE, SCORES_FILE = "table.parquet", "table.csv"
NUMBERS = ("estimate", "low", "high", "p_value", "detectable", "seeds")
TEXTS = ("claim", "state", "measured", "unit", "expected", "power")


def read_verdicts(notebook: Path) -> list[dict[str, Any]]:
    """The verdicts in an executed notebook's outputs, as the notebook stored them; none where there is no notebook."""
    if not notebook.exists():
        return []
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    found = [data.get(VERDICT_MIME) for data in outputs]
    return [verdict for verdict in found if isinstance(verdict, dict)]


def tally(notebook: Path) -> str:
    """How many of a notebook's verdicts are in each state, such as `2 supported, 1 undecided`."""
    from anm_nb.gallery import STATES

    counts = Counter(verdict.get("state") for verdict in read_verdicts(notebook))
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def verdict_table(
    planned: Sequence[PlannedCase], cases: Sequence[Case], outcomes: Mapping[str, Outcome]
) -> pd.DataFrame:
    """The table of all cases that ended, in the order of the sweep.

    Columns: `case`, `notebook`, `status` (done or failed), every differing parameter under its own name (as
    `parameter_<name>` where a column has that name already; lists as JSON), then of the verdict `claim`, `state`
    (supported, refuted, undecided), `measured`, `unit`, `expected`, `power`, and as numbers `estimate`, `low`, `high`
    (its 95 % interval), `p_value`, `detectable`, `seeds`. A case without a verdict is one row with these empty. There
    are no times in it: the same results make the same table, to the byte.
    """
    import pandas as pd

    varied, rows = differing(planned), []
    for plan, case in zip(planned, cases, strict=True):
        if case.name in outcomes:
            head = {"case": case.name, "notebook": plan.notebook.stem, "status": outcomes[case.name].status}
            own = {_column(name): plan.values.get(name) for name in varied}
            rows += [head | own | _flat(verdict) for verdict in read_verdicts(case.output) or [{}]]
    names = ["case", "notebook", "status", *map(_column, varied), *TEXTS, *NUMBERS]
    table = pd.DataFrame(rows, columns=names)
    for name in map(_column, varied):
        table[name] = _one_type([row[name] for row in rows])
    numeric = {name: pd.to_numeric(table[name]).astype("float64") for name in NUMBERS}
    text = {name: table[name].astype("string") for name in ("case", "notebook", "status", *TEXTS)}
    return table.assign(**numeric, **text)


def score_table(
    planned: Sequence[PlannedCase], cases: Sequence[Case], outcomes: Mapping[str, Outcome]
) -> pd.DataFrame:
    """The scores of all cases that ended, beside their verdicts: a row for each seed of each run a case was served.

    Columns: as of `verdict_table` up to the parameters, then how many verdicts of the case are in each state, `run`,
    `task`, `method`, `seed`, and the run's metrics at its last record, under their own names. A case without runs, or
    whose runs the store has no more, is one row with these empty.
    """
    import pandas as pd

    from anm_nb.gallery import STATES

    varied, parts = differing(planned), []
    for plan, case in zip(planned, cases, strict=True):
        if (outcome := outcomes.get(case.name)) is None:
            continue
        states = Counter(verdict.get("state") for verdict in read_verdicts(case.output))
        head: dict[str, Any] = {"case": case.name, "notebook": plan.notebook.stem, "status": outcome.status}
        head |= {_column(name): json.dumps(plan.values.get(name)) for name in varied}
        head |= {state: states[state] for state in STATES}
        for scores in [_last_record(key) for key in outcome.runs] or [pd.DataFrame([{"run": None}])]:
            parts.append(pd.DataFrame([head] * len(scores)).join(scores))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["case", "notebook", "status"])


def _last_record(key: str) -> pd.DataFrame:
    """The last record of each seed of a stored run, with what the run is; its key alone where it cannot be read."""
    import pandas as pd

    from anm_nb.run import CorruptRun, Run
    from anm_nb.store import store_root

    try:
        run = Run(store_root() / key)
        metrics, summary = run.metrics, run.manifest.summary
    except (CorruptRun, OSError):
        return pd.DataFrame([{"run": key}])
    last = metrics.loc[metrics.groupby("seed")["step"].idxmax()].reset_index(drop=True)
    facts = {"run": key, "task": summary.get("task"), "method": summary.get("method")}
    return pd.DataFrame([facts] * len(last)).join(last)


def write_tables(verdicts: pd.DataFrame, scores: pd.DataFrame, folder: Path) -> Path:
    """Write both tables into the folder, each in one step; returns the path of the verdicts'."""
    replace_whole(folder / SCORES_FILE, scores.to_csv(index=False).encode())
    replace_whole(folder / TABLE_FILE, verdicts.to_parquet(path=None, index=False))
    return folder / TABLE_FILE


def _column(parameter: str) -> str:
    taken = {"case", "notebook", "status", *TEXTS, *NUMBERS}
    return f"parameter_{parameter}" if parameter in taken else parameter


def _flat(verdict: Mapping[str, Any]) -> dict[str, Any]:
    low, high = verdict.get("interval") or (None, None)
    return {name: verdict.get(name) for name in (*TEXTS, *NUMBERS)} | {"low": low, "high": high}


def _one_type(values: Sequence[Any]) -> pd.Series[Any]:
    """A column as it is where all its values are of one plain type, numbers as floats if any is, else each as JSON."""
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    if kinds in ({int}, {float}, {int, float}):
        whole = kinds == {int} and None not in values
        return pd.Series(values, dtype="int64" if whole else "float64")
    if kinds in ({bool}, {str}):
        return pd.Series(values, dtype="boolean" if kinds == {bool} else "string")
    texts = [None if value is None else json.dumps(value) for value in values]
    return pd.Series(texts, dtype="string")
