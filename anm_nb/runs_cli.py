"""`anm-nb runs`: list, show, verify, remove, export and import stored runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anm_nb import terminal
from anm_nb.terminal import duration, memory, say

if TYPE_CHECKING:
    from anm_nb.store import Run

FAULTS = 5  # named by a list; `verify` names all
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
SCORES = ("tau_all", "board_accuracy", "balanced_accuracy", "accuracy", "mse")  # on dev; the first that a run has
LONGEST = 40  # characters of a value in the table

app = typer.Typer(
    no_args_is_help=True, help="List, show, verify, remove, export and import stored runs.", rich_markup_mode=None
)
Some = Annotated[list[str], typer.Argument(metavar="RUN...", help="Keys or beginnings of keys.")]
Keys = Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Keys or beginnings of keys; all if none.")]


@app.command()
def ls(
    family: Annotated[str | None, typer.Option(help="Only runs of this family: energy or ranking.")] = None,
    task: Annotated[str | None, typer.Option(help="Only runs on this task.")] = None,
    method: Annotated[str | None, typer.Option(help="Only runs of this negative strategy or routing.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Only where the config has it, such as steps=300; repeatable."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only finished since a date, or a span of time such as 7d.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many of the newest are shown as a table.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="All of them as JSON instead.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="All of them as CSV instead.")] = False,
) -> None:
    """List finished runs, the newest last, with their score and the values in which they differ."""
    import pandas as pd

    from anm_nb import store

    runs, broken = store.scan()
    found = _named(runs, {"family": family, "task": task, "method": method})
    if since:
        earliest = _moment(since).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        found = [run for run in found if run.summary["finished"] >= earliest]
    found = _where(found, where or [])
    if as_json or as_csv:
        rows = [_facts(run) | differing for run, differing in zip(found, _differing(found), strict=True)]
        say(json.dumps(rows, indent=1) if as_json else pd.DataFrame(rows).to_csv(index=False).rstrip())
    else:
        _print_list(found, limit, len(runs))
    for path, reason in list(broken.items())[:FAULTS]:
        say(f"anm-nb: {path.name[:40]!r} is no finished run: {reason}", err=True)
    if len(broken) > FAULTS:
        say(f"anm-nb: {len(broken) - FAULTS} more are none; anm-nb runs verify names them all", err=True)


@app.command()
def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A key, the beginning of one, or a run's folder.")],
) -> None:
    """Print a run's config, provenance, files and last row of metrics."""
    import yaml

    from anm_nb import store

    found = store.find(run)
    metrics = found.metrics
    last = metrics.loc[metrics.groupby("seed")["step"].idxmax()].set_index("seed").T
    parts = {"config": found.settings, "provenance": found.provenance}
    texts = {
        title: yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
        for title, values in parts.items()
    }
    files = found.manifest.files.items()
    texts["files"] = "\n".join(f"{name:24}{_size(file.size):>9}  {file.sha256}" for name, file in files)
    texts["last row of metrics, by seed"] = last.to_string()
    say(f"run {found.key}: {found.title}\n{found.path}")
    for title, text in texts.items():
        say(f"\n{title}\n" + "\n".join(f"  {line}" for line in text.splitlines()))


@app.command()
def verify(runs: Keys = None) -> None:
    """Read every byte of stored runs, and name what is corrupted or missing. Exit code 1 if anything is."""
    from anm_nb import run, store

    places = {path.name: path for path in store.run_folders()}
    names = {store.nearest_key(each, dict.fromkeys(places, "")) for each in runs} if runs else places
    spoiled = 0
    for name in sorted(names):
        wrong = run.faults(places[name])
        for fault in wrong:
            say(f"{name}  {fault}")
        spoiled += bool(wrong)
    say(f"{len(names) - spoiled} of {len(names)} runs are as they were written")
    if spoiled:
        raise typer.Exit(1)


@app.command()
def rm(runs: Some) -> None:
    """Remove runs and unfinished trainings; never one that a kept result or a sweep names, or that is being trained."""
    from anm_nb import store

    for each in runs:
        say(f"removed {store.remove(each)}")


@app.command()
def export(
    runs: Some, out: Annotated[Path, typer.Option(metavar="FILE.zip", help="The zip file to write; a new one.")]
) -> None:
    """Write runs with their manifests into a zip file, for `anm-nb runs import` on another machine."""
    from anm_nb import store

    store.export(list({run.path: run for run in map(store.find, runs)}.values()), out)
    say(out)


@app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE.zip", help="What `anm-nb runs export` has written.")],
) -> None:
    """Take exported runs into the store, every byte checked; runs it has already stay as they are."""
    from anm_nb import store

    for run in store.import_runs(source):
        say(run.path)


def _named(runs: Sequence[Run], asked: Mapping[str, str | None]) -> list[Run]:
    """The runs of these names. Raises `ParameterError` for a name that neither a run nor the package has."""
    from anm_nb.config import ParameterError, unknown_name
    from anm_nb.run import FAMILIES

    for kind, name in asked.items():
        if name is None:
            continue
        known = {run.summary[kind] for run in runs if run.summary[kind]}
        if name not in known and kind == "task":
            from anm_nb.tasks import task_names  # not before it is needed: it may bring torch along

            known |= set(task_names())
        known |= set(FAMILIES) if kind == "family" else set()
        if name not in known:
            raise ParameterError(unknown_name(kind, name, known))
        runs = [run for run in runs if run.summary[kind] == name]
    return list(runs)


def _where(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    """Runs whose config has these values. Raises `ParameterError` for a name that no config has."""
    from anm_nb.config import ParameterError, stands_for, unknown_name
    from anm_nb.run import flat

    settings = {run.key: flat(run.settings) for run in runs} if conditions else {}
    for condition in conditions:
        name, equals, text = condition.partition("=")
        if not equals:
            raise ParameterError(f"--where {condition}: needs name=value, such as width=128")
        names = {each for values in settings.values() for each in values}
        if runs and name not in names:
            raise ParameterError(unknown_name("config value", name, names))
        runs = [run for run in runs if name in settings[run.key] and stands_for(text, settings[run.key][name])]
    return list(runs)


def _moment(text: str) -> datetime:
    """A date (`2026-11-01`, with a time of day or without) or a span of time before now. Raises `ParameterError`."""
    from anm_nb.config import ParameterError

    if span := re.fullmatch(r"(\d{1,6})\s*([mhdw])", text.strip()):
        return datetime.now(UTC) - timedelta(**{UNITS[span[2]]: int(span[1])})
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ParameterError(
            f"--since '{text}' is neither a date, such as 2026-11-01, nor a span of time, such as 7d"
        ) from None


def _facts(run: Run) -> dict[str, Any]:
    return {"key": run.key, "path": str(run.path), "bytes": run.size, **run.summary, **_score(run)}


def _score(run: Run) -> dict[str, Any]:
    """The name of a run's score on dev and its mean over seeds at the last record; empty where it has none."""
    from anm_nb.run import CorruptRun

    try:
        metrics = run.metrics
    except (CorruptRun, OSError):
        return {}
    for name in SCORES:
        if name in metrics and metrics[name].notna().any():
            return {"score": name, "value": float(metrics.dropna(subset=[name]).groupby("seed")[name].last().mean())}
    return {}


def _differing(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each run the config values in which the runs of its family differ, but those that lists show anyway."""
    from anm_nb.run import flat

    values, different = [], dict[tuple[str, str], set[str]]()
    for run in runs:
        known = {run.summary["task"], run.summary["method"], None}
        own = {n: v for n, v in flat(run.settings).items() if not isinstance(v, dict) and n != "seeds"}
        values.append({n: v for n, v in own.items() if not isinstance(v, str) or v not in known})
        for name, value in own.items():
            different.setdefault((run.summary["family"], name), set()).add(repr(value))
    return [
        {n: v for n, v in own.items() if len(different[run.summary["family"], n]) > 1}
        for run, own in zip(runs, values, strict=True)
    ]


def _print_list(every: Sequence[Run], limit: int, of: int) -> None:
    from rich.table import Table
    from rich.text import Text

    found, table = every[-limit:], Table(box=None, pad_edge=False, header_style="bold")
    for column in ("key", "task", "method", "seeds", "steps", "score", "finished", "wall time", "commit", "differs in"):
        right = column in ("steps", "wall time")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "differs in")
    for run, differing in zip(found, _differing(found), strict=True):
        facts, score = run.summary, _score(run)
        seeds = ", ".join(map(str, facts["seeds"])) if len(facts["seeds"]) < 5 else f"{len(facts['seeds'])} of them"
        cells = (
            run.key,
            facts["task"] or facts["family"],
            facts["method"] or "–",
            seeds,
            f"{facts['steps']}",
            f"{score['score']} {score['value']:.4g}" if score else "–",
            facts["finished"],
            ("≥ " if facts["resumed"] else "") + duration(facts["wall_seconds"]),
            (facts["commit"] or "–")[:8] + (", dirty" if facts["dirty"] else ""),
            ", ".join(f"{name}={value}"[:LONGEST] for name, value in differing.items()),
        )
        table.add_row(*(Text(terminal.printable(cell)) for cell in cells))  # as text: a method's name may be anything
    console = terminal.console()
    if not console.is_terminal:  # nobody looks: wide enough to cut nothing off
        console = terminal.console(width=240)
    if found:
        console.print(table)
    hidden = f", the newest {limit} of them shown (--limit)" if len(every) > limit else ""
    console.print(f"{len(every)} of {of} runs, {_size(sum(run.size for run in every))}{hidden}", soft_wrap=True)


def _size(count: int) -> str:
    return memory(count / 2**20)
