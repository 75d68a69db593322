"""The command `anm-nb sweep`."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anm_nb.terminal import refuse, say

if TYPE_CHECKING:
    from rich.console import Console

    from anm_nb.sweep.cases import Case
    from anm_nb.sweep.outcomes import Outcome
    from anm_nb.sweep.restart import Sweep

INTERRUPTED = 130  # a shell's exit code for Ctrl-C


class Backend(StrEnum):
    """Where cases run."""

    local = "local"
    dask = "dask"


def sweep(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A sweep file, or the name of one in params/sweeps.")],
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cases at a time; as many as there are cores if not given.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="A profile of params/ instead of the file's own.")] = None,
    backend: Annotated[Backend, typer.Option(help="On this machine, or on a Dask cluster.")] = Backend.local,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of the Dask scheduler; a cluster is made here if not given.")
    ] = None,
    resource: Annotated[
        list[str] | None, typer.Option(metavar="NAME=N", help="What a case takes of its Dask worker, such as GPU=1.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which cases there are, and run none.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run again what failed before.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only cases with this value of a parameter.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where results go; outputs/<sweep> if not given.")
    ] = None,
) -> None:
    """Run a notebook at every case of a sweep file; started again, it goes on with the cases that are not finished."""
    from anm_nb import terminal
    from anm_nb.sweep.files import find_sweep
    from anm_nb.sweep.restart import open_sweep

    console = terminal.console(soft_wrap=True)
    needed = _resources(resource or [])
    _check_backend(backend, scheduler, jobs, needed)
    opened = open_sweep(find_sweep(file), profile, out)
    chosen = opened.only(only or [])
    for problem in opened.problems:
        say(f"anm-nb: {problem}; its case runs again", err=True)
    _say_what_there_is(console, opened, chosen, retry_failed, dry_run)
    if not dry_run:
        _run(console, opened, chosen, retry_failed, jobs, backend, scheduler, needed)


def _check_backend(backend: Backend, scheduler: str | None, jobs: int | None, needed: dict[str, float]) -> None:
    from anm_nb.config import ParameterError

    if backend == Backend.local and (scheduler or needed):
        raise ParameterError(f"--{'scheduler' if scheduler else 'resource'} needs --backend dask")
    if scheduler and jobs:
        raise ParameterError("--jobs is for cases on this machine; with --scheduler its workers say how many they run")
    if scheduler:
        from anm_nb.sweep.cluster import check_address

        check_address(scheduler)


def _resources(given: list[str]) -> dict[str, float]:
    from anm_nb.config import ParameterError

    needed = {}
    for text in given:
        name, _, amount = text.partition("=")
        try:
            needed[name] = float(amount)
        except ValueError:
            raise ParameterError(f"--resource {text}: write NAME=NUMBER, such as GPU=1") from None
    return needed


def _waiting(opened: Sweep, chosen: list[Case], retry_failed: bool) -> list[Case]:
    again = ("new", "failed") if retry_failed else ("new",)
    return [case for case in chosen if opened.status(case) in again]


def _say_what_there_is(console: Console, opened: Sweep, chosen: list[Case], retry_failed: bool, each: bool) -> None:
    from anm_nb.sweep.display import counted

    waiting = {case.name for case in _waiting(opened, chosen, retry_failed)}
    states = {case.name: "to run" if case.name in waiting else opened.status(case) for case in chosen}
    for name, state in states.items() if each else ():
        console.print(f"{state:6} {name}")
    counts = Counter(states.values())
    named = {"to run": counts["to run"], "done before": counts["done"], "failed before": counts["failed"]}
    console.print(f"{len(chosen)} cases: {counted(named)}; results in {opened.folder}")
    if opened.plan.folded:
        console.print(f"{opened.plan.folded} more in the file are the same as one of its cases, and run once")
    if counts["failed"]:
        console.print("What failed before is not run again unless its inputs change, or with --retry-failed")


def _run(
    console: Console,
    opened: Sweep,
    chosen: list[Case],
    retry_failed: bool,
    jobs: int | None,
    backend: Backend,
    scheduler: str | None,
    needed: dict[str, float],
) -> None:
    """Run what has to run, write the table over all, and exit with 1 if anything failed, with 130 if interrupted."""
    from joblib import cpu_count

    from anm_nb.sweep import batch, cluster
    from anm_nb.sweep.table import SCORES_FILE, TABLE_FILE

    try:
        with batch.folder_of_results(opened.folder):
            opened.read_again()  # read again, now that nobody else writes them
            waiting = _waiting(opened, chosen, retry_failed)
            names = {case.name for case in waiting}
            kept = [outcome for name, outcome in opened.outcomes.items() if name not in names]
            workers = None if scheduler else jobs or max(1, min(cpu_count(), len(waiting)))
            place = cluster.connected(scheduler, workers) if backend == Backend.dask and waiting else nullcontext()
            try:
                if waiting:
                    for name in (TABLE_FILE, SCORES_FILE):  # they would be of other cases than the rest
                        (opened.folder / name).unlink(missing_ok=True)
                with place as client:
                    batch.run_into(opened.folder, waiting, kept, workers, console, client, needed)
            except BaseException:
                batch.wait_for_workers_to_stop(opened.folder)
                raise
            finally:
                opened.read_again()
            _conclude(console, opened, chosen)
    except KeyboardInterrupt:
        refuse(f"stopped: {_told(opened, chosen)}; the same command goes on from there", INTERRUPTED)
    except OSError as error:
        refuse(f"{error}; {_told(opened, chosen)}, which are kept; the same command goes on from there", 1)


def _conclude(console: Console, opened: Sweep, chosen: list[Case]) -> None:
    from anm_nb.sweep.display import summary
    from anm_nb.sweep.table import SCORES_FILE, score_table, tally, verdict_table, write_tables

    outcomes: dict[str, Outcome] = opened.outcomes
    outputs = {case.name: case.output for case in chosen}
    ended = opened.plan.cases, opened.cases, outcomes
    table = write_tables(verdict_table(*ended), score_table(*ended), opened.folder)
    summary(console, [outcomes[name] for name in outputs], lambda name: tally(outputs[name]), "case")
    pages = f"Table: {table}, with scores: {SCORES_FILE}; a page: anm-nb index {opened.folder}"
    console.print(f"{_told(opened, chosen)}. {pages}")
    failed = [name for name in outputs if outcomes[name].status == "failed"]
    if failed:
        refuse(f"{len(failed)} of {len(chosen)} cases failed: {', '.join(failed)}", 1)


def _told(opened: Sweep, chosen: list[Case]) -> str:
    from anm_nb.sweep.display import counted

    counts = Counter(opened.status(case) for case in chosen)
    return counted({"done": counts["done"], "failed": counts["failed"], "not finished": counts["new"]})
