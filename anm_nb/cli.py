"""The `anm-nb` command: run the notebooks, once or in sweeps, show what they found, and see what ails a run."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from anm_nb import runs_cli
from anm_nb.runs_cli import refuse, say

if TYPE_CHECKING:
    from rich.console import Console

    from anm_nb.cases import Case

NUMBERED = "[0-9][0-9]_*.ipynb"


class Commands(TyperGroup):
    """Commands that end with one line on stderr and exit code 2 where what they are asked for cannot be done."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # `?` for a character that the terminal's encoding lacks
        try:
            return super().invoke(ctx)
        except Exception as error:
            from anm_nb.config import ParameterError
            from anm_nb.files import DiskFull
            from anm_nb.run import CorruptRun

            if isinstance(error, ParameterError | CorruptRun | DiskFull):
                refuse(error)
            raise


# Plain help and errors: a person sees one line, a log no boxes.
app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
app.add_typer(runs_cli.app, name="runs")

Jobs = Annotated[int | None, typer.Option(min=1, help="Notebooks at a time; as many as there are cores if not given.")]
Only = Annotated[list[str] | None, typer.Option(metavar="NN|NAME", help="Only this notebook; repeatable.")]


def folder_option(default: str) -> Any:
    """An option for a folder of results."""
    return typer.Option(file_okay=False, help=f"Where results go; {default} if not given.")


def console() -> Console:
    """A rich console to which texts are text: no markup, no emoji codes."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False)


@app.callback()
def anm_nb() -> None:
    """Run the notebooks, and build the page over what they found."""


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A sweep file, or the name of one in params/sweeps.")],
    jobs: Jobs = None,
    profile: Annotated[str | None, typer.Option(help="A profile of params/ instead of the file's own.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on the workers of this Dask scheduler.")
    ] = None,
    resource: Annotated[
        list[str] | None, typer.Option(metavar="NAME=N", help="What a case takes of its Dask worker, such as GPU=1.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Start no case after that; exit code 75 where cases are left."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which cases there are, and run none.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run again what failed before.")] = False,
    out: Annotated[Path | None, folder_option("outputs/<sweep>")] = None,
) -> None:
    """Run a notebook at every case of a sweep file; started again, it goes on with the cases that are not finished."""
    from anm_nb.cases import open_sweep
    from anm_nb.sweep import run_sweep

    if budget is not None and not budget > 0:
        refuse(f"--budget {budget:g}: seconds, more than 0")
    if resource and not scheduler:
        refuse("--resource needs --scheduler")
    try:
        resources = {name: float(amount) for name, _, amount in (each.partition("=") for each in resource or ())}
    except ValueError:
        refuse(f"--resource {' '.join(resource or ())}: write NAME=NUMBER, such as GPU=1")
    until = math.inf if budget is None else time.time() + budget
    place: Any = {"jobs": jobs, "until": until, "scheduler": scheduler, "resources": resources or None}
    code, said = run_sweep(open_sweep(file, profile, out), console(), retry_failed, dry_run, **place)
    if code:
        refuse(said, code)


@app.command()
def demo(
    jobs: Jobs = None, only: Only = None, out: Annotated[Path | None, folder_option("outputs/quick")] = None
) -> None:
    """Run every notebook's quick profile and write a gallery."""
    from anm_nb import files, gallery

    folder = out or files.outputs_root() / "quick"
    failed = _run_notebooks(_notebook_cases(folder, only or [], "quick"), jobs)
    say(f"Gallery: {gallery.write_gallery(folder)}")
    if failed:
        refuse(failed, 1)


@app.command()
def figures(
    venue: Annotated[str, typer.Option(metavar="VENUE", help="Whose page they are for: icml, neurips or thesis.")],
    notebook: Only = None,
    profile: Annotated[str | None, typer.Option(help="A profile of params/; notebooks' own values if none.")] = None,
    jobs: Jobs = None,
    out: Annotated[Path | None, folder_option("outputs/figures/VENUE")] = None,
) -> None:
    """Run the notebooks that publish figures, and write those and their tables at a venue's width."""
    from dataclasses import replace

    from anm_nb import files
    from anm_nb.analysis import plots
    from anm_nb.analysis.style import VENUE

    folder = (out or files.outputs_root() / "figures" / venue).absolute()
    before = plots.check_venue(venue, folder)
    cases = _notebook_cases(folder / "notebooks", notebook or [], profile)
    cases = [case for case in cases if "publish(" in case.notebook.read_text("utf-8")]
    if not cases:
        refuse("none of these notebooks publishes a figure: publish(figure, name) of anm_nb.analysis.plots does")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as parts:
        own = {case.name: Path(parts, case.name) for case in cases}
        cases = [replace(case, env={VENUE: venue, plots.FIGURES: str(own[case.name])}) for case in cases]
        if failed := _run_notebooks(cases, jobs):
            refuse(f"{failed}; figures are as they were", 1)
        for path in plots.write_manifest(venue, folder, before, own):
            say(path)


@app.command()
def index(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of executed notebooks, as outputs/quick; docs/results.md if none.")
    ] = None,
) -> None:
    """Build the gallery of executed notebooks anew, or docs/results.md from the answers that the notebooks show."""
    from anm_nb import files, gallery

    if folder is not None:
        say(gallery.write_gallery(folder))
    else:
        root = files.project_root()
        say(gallery.write_results(root / "notebooks", root / "docs" / "results.md"))


@app.command()
def doctor(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's key, the beginning of one, or its folder.")],
) -> None:
    """Say what is wrong with a run, by the signatures of the ANM checklist, and what to change."""
    from anm_nb import store
    from anm_nb.analysis.doctor import examine, summary

    found = store.find(run)
    metrics, findings = found.metrics, examine(found.metrics, found.settings)
    say(f"run {found.key}: {found.title}, {metrics['seed'].nunique()} seeds, {metrics['step'].max():g} steps\n")
    say("\n\n".join([*map(str, findings), summary(findings, metrics)]))


def _notebook_cases(folder: Path, only: Sequence[str], profile: str | None) -> list[Case]:
    """The numbered notebooks, or those asked for by name or number, with a profile's values where it has them."""
    from anm_nb.cases import Case, check_folder
    from anm_nb.config import read_yaml, unknown_name
    from anm_nb.files import project_root

    root = project_root()
    notebooks = {path.stem: path for path in sorted((root / "notebooks").glob(NUMBERED))}
    if not notebooks:
        refuse(f"no notebooks named {NUMBERED} in {root / 'notebooks'}")
    profiles = {path.name for path in (root / "params").glob("*") if path.is_dir()} - {"sweeps"} | {"quick"}
    if profile is not None and profile not in profiles:
        refuse(unknown_name("profile", profile, profiles))
    names = {name[:2]: name for name in notebooks} | {name: name for name in notebooks}
    if unknown := [name for name in only if name not in names]:
        refuse(unknown_name("notebook", unknown[0], notebooks))
    check_folder(folder, notebooks.values())
    chosen = dict.fromkeys(names[each] for each in only or notebooks)
    values = {name: root / "params" / (profile or "") / f"{name}.yaml" for name in chosen}
    given = {name: read_yaml(path) if path.is_file() else {} for name, path in values.items()}
    return [Case(notebooks[name], folder.absolute() / f"{name}.ipynb", given[name]) for name in chosen]


def _run_notebooks(cases: Sequence[Case], jobs: int | None) -> str:
    """Run notebooks; which of them failed, in words."""
    from anm_nb.sweep import own_folder, run_cases

    outcomes: dict[str, Any] = {}
    with own_folder(cases[0].output.parent):
        run_cases(cases, console(), outcomes, jobs=jobs)
    failed = [case.name for case in cases if outcomes[case.name].error]
    return f"{len(failed)} of {len(cases)} notebooks failed: {', '.join(failed)}" if failed else ""


if __name__ == "__main__":
    app()
