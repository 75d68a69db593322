"""`anm-nb runs`: what is in the run store, whether it is as it was written, and what may go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anm_nb import terminal
from anm_nb.terminal import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from anm_nb.runs.listing import Listed

COLUMNS = ("key", "family", "task", "method", "seeds", "steps", "size", "when", "wall time", "commit")

app = typer.Typer(no_args_is_help=True, help="List, show, verify, clean and export stored runs.", rich_markup_mode=None)

Keys = Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Keys or beginnings of keys; all if none.")]


@app.command()
def ls(
    family: Annotated[str | None, typer.Option(help="Only runs of this family: energy or ranking.")] = None,
    task: Annotated[str | None, typer.Option(help="Only runs on this task.")] = None,
    method: Annotated[str | None, typer.Option(help="Only runs of this negative strategy or routing.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Only where the config has it, such as loop.steps=300; repeatable."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only finished since a date, or a span of time such as 7d.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many of the newest are shown as a table.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="All of them as JSON instead.")] = False,
) -> None:
    """List finished runs, the newest last."""
    from anm_nb.runs.finding import Filter, moment_from
    from anm_nb.runs.listing import scan

    runs, broken = scan()
    found = Filter(family, task, method, where or (), moment_from(since) if since else None).of(runs)
    if as_json:
        say(json.dumps([_plain(run) for run in found], indent=1))
    else:
        _print_list(found, len(runs), limit)
    if broken:
        several = "folders are no finished runs" if len(broken) > 1 else "folder is no finished run"
        say(f"anm-nb: {len(broken)} {several}; anm-nb runs verify says why", err=True)


@app.command()
def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A key, the beginning of one, or a run's folder.")],
) -> None:
    """Print a run's config, provenance, files and last row of metrics."""
    import yaml

    from anm_nb.runs.finding import described, find_run

    found = find_run(run)
    settings, provenance, metrics = found.settings, found.provenance, found.metrics
    console = _console()
    console.print(f"run {found.key}: {described(found.manifest.summary)}\n{found.path}\n", soft_wrap=True)
    for title, values in (("config", settings), ("provenance", provenance)):
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
        console.print(f"{title}\n{_indented(text)}", soft_wrap=True)
    files = _table("file", "size", "sha256", right=("size",))
    for name, file in found.manifest.files.items():
        files.add_row(name, _size(file.size), file.sha256)
    console.print(files)
    last = metrics.loc[metrics.groupby("seed")["step"].idxmax()].set_index("seed").T
    console.print(f"\nlast row of metrics, by seed\n{_indented(last.to_string())}", soft_wrap=True)


@app.command()
def verify(runs: Keys = None) -> None:
    """Read every byte of stored runs, and name what is corrupted, missing or not theirs. Exit code 1 if anything is."""
    from anm_nb.runs.finding import find_folder
    from anm_nb.runs.listing import run_folders
    from anm_nb.runs.manifest import faults, strangers

    folders = list(dict.fromkeys(find_folder(each) for each in runs)) if runs else run_folders()
    spoiled = 0
    for folder in folders:
        wrong = faults(folder)
        if not wrong:
            wrong = [f"{folder / name} is not in the run's manifest" for name in strangers(folder)]
        for fault in wrong:
            say(f"{folder.name}  {fault}")
        spoiled += bool(wrong)
    say(f"{len(folders) - spoiled} of {len(folders)} runs are as they were written")
    if spoiled:
        raise typer.Exit(1)


@app.command()
def gc(
    older_than: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Also whatever is older, such as 30d, 12h or 2w.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
) -> None:
    """Remove runs whose training sources have changed, and remains; never what a reference or a sweep names."""
    from anm_nb.runs.cleaning import candidates, remove
    from anm_nb.runs.finding import duration_from

    found = candidates(duration_from(older_than) if older_than else None)
    gone = []
    for each in found:
        kept = each.kept or (None if dry_run else remove(each))
        if kept is None:
            gone.append(each)
        verb = "kept" if kept else "would remove" if dry_run else "removed"
        because = f"{each.reason}, but {kept}" if kept else each.reason
        say(f"{verb} {each.kind} {each.path.name} ({_size(each.size)}): {because}")
    verb = "would free" if dry_run else "freed"
    say(
        f"{verb} {_size(sum(each.size for each in gone))}: {len(gone)} folders; kept {len(found) - len(gone)} named"
    )


@app.command()
def export(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Keys or beginnings of keys.")],
    out: Annotated[Path, typer.Option(metavar="DIR|FILE.zip", help="A folder for theirs, or one zip file.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Copy runs with their manifests: what is put into outputs/runs of another machine is read there."""
    from anm_nb.runs.exporting import export as copy
    from anm_nb.runs.finding import find_run

    found = {run.path: run for run in map(find_run, runs)}
    written = copy(list(found.values()), out, overwrite)
    for path in written:
        say(path)


def _plain(run: Listed) -> dict[str, Any]:
    return {"key": run.key, "path": str(run.path), "bytes": run.size, **run.summary}


def _print_list(found: Sequence[Listed], of: int, limit: int) -> None:
    from anm_nb.gallery import duration
    from anm_nb.runs.listing import shown

    table = _table(*COLUMNS, right=("steps", "size", "wall time"))
    for run in found[-limit:]:
        facts, texts = run.summary, shown(run.summary)
        wall = ("≥ " if facts["resumed"] else "") + duration(facts["wall_seconds"])
        named = (texts[name] for name in ("family", "task", "method", "seeds"))
        table.add_row(run.key, *named, f"{facts['steps']}", _size(run.size), facts["finished"], wall, texts["commit"])
    console = _console()
    if found:
        console.print(table)
    hidden = f", the newest {limit} of them shown (--limit)" if len(found) > limit else ""
    total = _size(sum(run.size for run in found))
    console.print(f"{len(found)} of {of} runs, {total}{hidden}", soft_wrap=True)


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    return table


def _console() -> Console:
    """Where people look, as wide as they have it; where nobody does, wide enough to cut nothing off."""
    console = terminal.console()
    return console if console.is_terminal else terminal.console(width=200)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _size(count: int) -> str:
    """Bytes as a person reads them: `412 B`, `3.3 MiB`."""
    from anm_nb.gallery import memory

    if count < 1000:
        return f"{count} B"
    return f"{count / 1024:.0f} KiB" if count < 1000 * 1024 else memory(count / 1024**2)
