"""A sweep's results as two tables: its verdicts, and the scores of every seed, beside the parameters that differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anm_nb.analysis import VERDICT_MIME
from anm_nb.files import replace_whole
from anm_nb.sweep.case import Case, Outcome
from anm_nb.sweep.parameters import differing

if TYPE_CHECKING:
    import pandas as pd

TABLE_FILE, SCORES_FILE = "table.parquet", "table.csv"
NUMBERS = ("estimate", "low", "high", "p_value", "detectable", "seeds")
TEXTS = ("claim", "state", "measured", "unit", "expected", "power")
HEAD = ("case", "notebook", "status")


def read_verdicts(notebook: Path) -> list[dict[str, Any]]:
    """The verdicts in an executed notebook's outputs, as the notebook stored them; none where there is no notebook."""
    if not notebook.exists():
        return []
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    found = [output.get("data", {}).get(VERDICT_MIME) for cell in cells for output in cell.get("outputs", [])]
    return [verdict for verdict in found if isinstance(verdict, dict)]


def states(notebook: Path) -> dict[str, int]:
    """How many of a notebook's verdicts are in each state: supported, refuted, undecided."""
    from anm_nb.gallery import STATES

    counts = Counter(verdict.get("state") for verdict in read_verdicts(notebook))
    return {state: counts[state] for state in STATES}


def verdict_table(cases: Sequence[Case], outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """The table of all cases that ended, in the order of the sweep.

    Columns: `case`, `notebook`, `status` (done or failed), every differing parameter under its own name (as
    `parameter_<name>` where a column has that name already; lists as JSON), then of the verdict `claim`, `state`
    (supported, refuted, undecided), `measured`, `unit`, `expected`, `power`, and as numbers `estimate`, `low`, `high`
    (its 95 % interval), `p_value`, `detectable`, `seeds`. A case without a verdict is one row with these empty. There
    are no times in it: the same results make the same table, to the byte.
    """
    import pandas as pd

    varied, rows = {name: _column(name) for name in differing(cases)}, []
    for case in cases:
        if case.name in outcomes:
            head = dict(zip(HEAD, (case.name, case.notebook.stem, outcomes[case.name].status), strict=True))
            own = {column: case.values.get(name) for name, column in varied.items()}
            for verdict in read_verdicts(case.output) or [{}]:
                low, high = verdict.get("interval") or (None, None)
                said = {name: verdict.get(name) for name in TEXTS + NUMBERS}
                rows.append(head | own | said | {"low": low, "high": high})
    table = pd.DataFrame(rows, columns=[*HEAD, *varied.values(), *TEXTS, *NUMBERS])
    for column in varied.values():
        table[column] = _one_type([row[column] for row in rows])
    numeric = {name: pd.to_numeric(table[name]).astype("float64") for name in NUMBERS}
    return table.assign(**numeric, **{name: table[name].astype("string") for name in HEAD + TEXTS})


def score_table(cases: Sequence[Case], outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """The scores of all cases that ended, beside their verdicts: a row for each seed of each run a case was served.

    Columns: as of `verdict_table` up to the parameters (as JSON), then how many verdicts of the case are in each state,
    `run`, `task`, `method`, `seed`, and the run's metrics at its last record, under their own names. A case without
    runs, or whose runs the store has no more, is one row with these empty.
    """
    import pandas as pd

    varied, parts = differing(cases), []
    for case in cases:
        if (outcome := outcomes.get(case.name)) is None:
            continue
        head: dict[str, Any] = dict(zip(HEAD, (case.name, case.notebook.stem, outcome.status), strict=True))
        head |= {_column(name): json.dumps(case.values.get(name)) for name in varied}
        head |= states(case.output)
        for scores in [_last_record(key) for key in outcome.runs] or [pd.DataFrame([{"run": None}])]:
            parts.append(pd.DataFrame([head] * len(scores)).join(scores))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=HEAD)


def write_tables(cases: Sequence[Case], outcomes: Mapping[str, Outcome], folder: Path) -> Path:
    """Write both tables into the folder, each in one step; returns the path of the verdicts'."""
    verdicts, scores = verdict_table(cases, outcomes), score_table(cases, outcomes)
    replace_whole(folder / SCORES_FILE, scores.to_csv(index=False).encode())
    replace_whole(folder / TABLE_FILE, verdicts.to_parquet(path=None, index=False))
    return folder / TABLE_FILE


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


def _column(parameter: str) -> str:
    return f"parameter_{parameter}" if parameter in HEAD + TEXTS + NUMBERS else parameter


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
