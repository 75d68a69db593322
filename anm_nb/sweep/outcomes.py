"""How cases ended, kept beside their executed notebooks, and the tables over all of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anm_nb.analysis import VERDICT_MIME
from anm_nb.files import replace_whole, sha256_of
from anm_nb.sweep.cases import Case, differing

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES_FILE, TABLE_FILE, SCORES_FILE = "outcomes.json", "table.parquet", "table.csv"
STATES = ("supported", "refuted", "equivalent", "undecided", "not trained long enough", "not measured")
HEAD = ("case", "notebook", "status")
TEXTS = ("claim", "verdict", "measured", "metric", "section", "expects", "unit")
NUMBERS = ("estimate", "low", "high", "p", "detectable", "seeds")


@dataclass(frozen=True)
class Outcome:
    """How a case ended: wall-clock seconds with the kernel's start, peak resident memory in MiB, and why it failed.

    The peak is that of the largest process of the case, papermill's or the kernel's. Both are 0 where the machine that
    ran it was lost. `digest` is the case's; `runs` are the keys of the stored runs that the notebook was served;
    `notebook` is the SHA-256 of the executed notebook, None where there is none. `killed`: it died of a signal.
    """

    name: str
    status: Literal["done", "failed"]
    seconds: float
    peak_mib: float
    error: str | None = None
    digest: str | None = None
    runs: tuple[str, ...] = ()
    notebook: str | None = None
    killed: bool = False


def write_outcomes(outcomes: Iterable[Outcome], folder: Path) -> None:
    """Write the outcomes, by name, each with a checksum of itself, atomically. Raises OSError on a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(json.dumps(asdict(each))) for each in sorted(outcomes, key=lambda each: each.name)]
    signed = [row | {"checksum": _checksum(row)} for row in rows]
    replace_whole(folder / OUTCOMES_FILE, f"{json.dumps(signed, indent=1)}\n".encode())


def read_outcomes(folder: Path) -> tuple[list[Outcome], list[str]]:
    """The outcomes stored in a folder that are as they were written, and a sentence for each that is not."""
    path = folder / OUTCOMES_FILE
    try:
        rows = json.loads(path.read_bytes())
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError) as error:
        return [], [f"{path} cannot be read ({error})"]
    outcomes, problems = [], []
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        try:
            rest = {name: value for name, value in row.items() if name != "checksum"}
            if row["checksum"] != _checksum(rest):
                raise ValueError("its checksum is another")
            outcomes.append(Outcome(**rest | {"runs": tuple(rest["runs"])}))
        except (ValueError, TypeError, AttributeError, KeyError):
            name = row.get("name") if isinstance(row, Mapping) else None
            problems.append(f"{path}: the entry of {name or f'case {number}'} is not as it was written")
    return outcomes, problems


def _checksum(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]


def valid_outcomes(cases: Sequence[Case], folder: Path) -> tuple[dict[str, Outcome], list[str]]:
    """The stored outcomes, by name, of the same parameters, code and result; and what is not as it was written."""
    found, problems = read_outcomes(folder)
    stored, valid = {outcome.name: outcome for outcome in found}, {}
    for case in cases:
        outcome = stored.get(case.name)
        if outcome is not None and outcome.digest == case.digest:
            if outcome.notebook == (sha256_of(case.output) if case.output.is_file() else None):
                valid[case.name] = outcome
            else:
                problems.append(f"{case.output} is not the notebook that was written")
    return valid, problems


def read_verdicts(notebook: Path) -> list[dict[str, Any]]:
    """The judged claims in an executed notebook's outputs, one mapping each; none where there is no notebook."""
    if not notebook.exists():
        return []
    return verdicts_in(json.loads(notebook.read_text(encoding="utf-8")))


def verdicts_in(notebook: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The judged claims in a notebook's outputs. What is no mapping with a known verdict is left out."""
    rows: list[dict[str, Any]] = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            said = output.get("data", {}).get(VERDICT_MIME)
            for row in said.get("verdicts", [said]) if isinstance(said, Mapping) else []:
                if "state" in row:  # a single verdict, as notebooks that do not use `judge` show it
                    low, high = row.get("interval") or (None, None)
                    renamed = {"verdict": row["state"], "low": low, "high": high}
                    row = row | renamed | {"p": row.get("p_value"), "expects": row.get("expected")}
                if row.get("verdict") in STATES and row.get("claim"):
                    rows.append(dict(row))
    return rows


def tally(verdicts: Iterable[Mapping[str, Any]]) -> str:
    """How many verdicts there are of each kind, such as `2 supported, 1 undecided`; empty where there are none."""
    counts = Counter(row["verdict"] for row in verdicts)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def write_tables(cases: Sequence[Case], outcomes: Mapping[str, Outcome], folder: Path) -> None:
    """Write `table.parquet`, a row for each verdict, and `table.csv`, one for each seed of each run, each atomically.

    Both begin with `case`, `notebook`, `status` and every differing parameter under its own name (as `parameter_<name>`
    where a column has that name already; lists as JSON), in the order of the sweep; a case that ended without verdicts
    or runs is one row. Then come the verdict's texts and numbers; or how many of each kind the case has, `run`, `task`,
    `method`, and the run's last record. There are no times in them: the same results make the same tables, to the byte.
    """
    import pandas as pd

    verdicts, scores = [], []
    for case in (case for case in cases if case.name in outcomes):
        outcome, found = outcomes[case.name], read_verdicts(case.output)
        head: dict[str, Any] = dict(zip(HEAD, (case.name, case.notebook.stem, outcome.status), strict=True))
        head |= {_column(name): case.values.get(name) for name in differing(cases)}
        verdicts += [head | {name: row.get(name) for name in TEXTS + NUMBERS} for row in found or [{}]]
        records = [record for key in outcome.runs for record in _last_record(key)] or [{"run": None}]
        scores += [head | {"verdicts": tally(found)} | record for record in records]
    columns = [*HEAD, *map(_column, differing(cases))]
    table = pd.DataFrame(verdicts, columns=[*columns, *TEXTS, *NUMBERS])
    for name in columns[len(HEAD) :]:
        table[name] = _one_type([row[name] for row in verdicts])
    numeric = {name: pd.to_numeric(table[name]).astype("float64") for name in NUMBERS}
    table = table.assign(**numeric, **{name: table[name].astype("string") for name in HEAD + TEXTS})
    frame = pd.DataFrame(scores) if scores else pd.DataFrame(columns=columns)
    replace_whole(folder / SCORES_FILE, frame.to_csv(index=False).encode())
    replace_whole(folder / TABLE_FILE, table.to_parquet(path=None, index=False))


def _last_record(key: str) -> list[dict[str, Any]]:
    """The last record of each seed of a stored run, with what the run is; its key alone where it cannot be read."""
    from anm_nb.run import CorruptRun, Run
    from anm_nb.store import store_root

    try:
        run = Run(store_root() / key)
        metrics, summary = run.metrics, run.summary
    except (CorruptRun, OSError):
        return [{"run": key}]
    facts = {"run": key, "task": summary["task"], "method": summary["method"]}
    last = metrics.loc[metrics.groupby("seed")["step"].idxmax()]
    return [facts | {str(name): value for name, value in row.items()} for row in last.to_dict("records")]


def _column(parameter: str) -> str:
    return f"parameter_{parameter}" if parameter in (*HEAD, *TEXTS, *NUMBERS, "verdicts") else parameter


def _one_type(values: Sequence[Any]) -> pd.Series[Any]:
    """A column as it is where all its values are of one plain type, numbers as floats if any is, else each as JSON."""
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    if kinds in ({int}, {float}, {int, float}):
        return pd.Series(values, dtype="int64" if kinds == {int} and None not in values else "float64")
    if kinds in ({bool}, {str}):
        return pd.Series(values, dtype="boolean" if kinds == {bool} else "string")
    return pd.Series([None if value is None else json.dumps(value) for value in values], dtype="string")
