"""`anm-nb bench`: every workload beside its plain reference, and what was reached of every target."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anm_nb.terminal import refuse, say

if TYPE_CHECKING:
    from anm_nb.bench.results import Bench


def bench(
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this workload; may be given several times.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything measured, as JSON, instead of tables.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Measure all, keep it in outputs/reference, quote it.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time for the rounds of each workload, in s.")] = 8.0,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Tiny sizes: shows that all runs; no figure means much.")
    ] = False,
) -> None:
    """Time every workload beside a plain reference, in about five minutes on a quiet machine (--keep: twenty).

    Each row: time of one call, floating-point operations as torch counts them, the share of the machine's
    matrix-product rate that this makes, peak resident memory of the process, the plain reference's time and
    operations, and how many times as fast the package is. Medians over rounds in which both take turns.
    """
    from anm_nb.bench import report, results

    if keep and (tiny or only):
        refuse("--keep keeps a whole bench at full size; leave out --only and --tiny")
    found = results.run_bench(only or (), tiny, seconds, lambda title: say(f"measuring {title} …", err=True), keep)
    kept = keep_and_quote(found) if keep else None
    if as_json:
        shown = asdict(found) | {"targets": [asdict(target) for target in report.targets(found)]}
        say(json.dumps(shown, indent=1))
    else:
        show(found)
    if kept is not None:
        say(f"kept: {kept}", err=True)
    if found.failed:
        for name in found.failed:
            say(f"anm-nb: {name} {found.results[name]['not_measured']}", err=True)
        raise typer.Exit(1)


def keep_and_quote(found: Bench) -> Path:
    """Store a bench and put its tables into README. Raises `ParameterError` where README has no place for them."""
    from anm_nb.analysis.reference import place_in, write_between
    from anm_nb.bench import report, results
    from anm_nb.files import project_root

    readme = project_root() / "README.md"
    place_in(readme, results.NAME)
    path = results.keep(found)
    write_between(readme, results.NAME, report.markdown(results.load_bench()))
    return path


def show(found: Bench) -> None:
    """Print both tables."""
    from rich.table import Table

    from anm_nb import terminal
    from anm_nb.bench import report

    console = terminal.console(width=None if sys.stdout.isatty() else 160)
    for title, columns, rows in (
        ("Workloads", report.WORKLOAD_COLUMNS, report.workload_rows(found)),
        ("Targets", report.TARGET_COLUMNS, [target.cells() for target in report.targets(found)]),
    ):
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(report.measured_on(found).replace("**", ""), soft_wrap=True)
    if report.no_gpu(found):
        console.print("The rows of a GPU are measured by the same command where torch finds one.")
