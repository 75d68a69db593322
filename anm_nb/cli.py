"""The `anm-nb` command: run the notebooks, once or in sweeps, show what they found, and see what ails a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from anm_nb import bench_command, runs_command
from anm_nb.sweep import command as sweep_command

if TYPE_CHECKING:
    from anm_nb.sweep import Case

NUMBERED = "[0-9][0-9]_*.ipynb"

# Plain help and errors: a person sees one line, a log no boxes.
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(runs_command.app, name="runs")


@app.callback()
def anm_nb() -> None:
    """Run the notebooks, and build the page over what they found."""


app.command()(sweep_command.sweep)
app.command()(bench_command.bench)


@app.command()
def demo(
    jobs: Annotated[
        int | None, typer.Option(help="Notebooks at a time; as many as there are cores if not given.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this notebook; may be given several times.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where results go; outputs/quick if not given.")
    ] = None,
) -> None:
    """Run every notebook's quick profile and write a gallery."""
    from rich.console import Console

    from anm_nb import files, gallery, sweep
    from anm_nb.config import ParameterError
    from anm_nb.sweep import batch, display

    if jobs is not None and jobs < 1:
        _refuse(f"--jobs {jobs}: at least 1 notebook must run at a time")
    folder = out or files.outputs_root() / "quick"
    cases = _quick_cases(files.project_root(), folder, only or [])
    names = {case.name for case in cases}
    kept = [outcome for outcome in sweep.read_outcomes(folder) if only and outcome.name not in names]
    console = Console()
    try:
        with batch.folder_of_results(folder):
            outcomes = batch.run_into(folder, cases, kept, jobs or _cores(len(cases)), console)
    except ParameterError as error:
        _refuse(str(error))
    cards = gallery.read_cards(folder)
    page = gallery.write_index(folder, cards)
    verdicts = {card.name: gallery.tally(card.verdicts) for card in cards}
    display.summary(console, outcomes, verdicts.__getitem__, "notebook")
    console.print(f"Gallery: {page}", soft_wrap=True, highlight=False)
    failed = [outcome.name for outcome in outcomes if outcome.status == "failed"]
    if failed:
        typer.echo(f"anm-nb: {len(failed)} of {len(outcomes)} notebooks failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="A folder of executed notebooks, such as outputs/quick.")],
) -> None:
    """Build the gallery of executed notebooks anew."""
    from anm_nb import gallery
    from anm_nb.config import ParameterError

    try:
        page = gallery.write_index(folder, gallery.read_cards(folder))
    except (gallery.NothingToShow, ParameterError) as error:
        _refuse(str(error))
    typer.echo(page)


@app.command()
def reference(
    name: Annotated[
        str, typer.Argument(help="A notebook, such as 10_anm_vs_corruption, or a sweep, such as hrm_hinted.")
    ],
    profile: Annotated[
        str | None, typer.Option(help="The folder of params/ with its values; mid, or the sweep's own, if not given.")
    ] = None,
    run: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Only this run of it; may be given several times.")
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Train only what is not kept of it already, and keep it beside that.")
    ] = False,
) -> None:
    """Train the runs of a notebook, or of a sweep's notebooks, keep their tables in outputs/reference, quote in README.

    What the store has is not trained again: after `anm-nb sweep hrm_hinted` this only keeps what that trained.
    """
    from anm_nb import reference_command
    from anm_nb.config import ParameterError

    try:
        typer.echo(reference_command.keep(name, profile, run or (), add))
    except ParameterError as error:
        _refuse(str(error))


@app.command()
def verdict(
    profile: Annotated[str, typer.Option(help="The folder of params/ with its values.")] = "mid",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trainings at a time; the profile's number if not given.")
    ] = None,
) -> None:
    """Tune and confirm the best honest case for mined negatives, keep the runs' tables, and quote them in README."""
    from anm_nb import verdict_command
    from anm_nb.config import ParameterError

    try:
        typer.echo(verdict_command.keep(profile, jobs))
    except ParameterError as error:
        _refuse(str(error))


@app.command()
def figures(
    venue: Annotated[str, typer.Option(metavar="VENUE", help="Whose page they are for: icml, neurips or thesis.")],
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where they go; outputs/figures/VENUE if not given.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this figure; may be given several times.")
    ] = None,
) -> None:
    """Write the figures and LaTeX tables of the results kept in outputs/reference, at a venue's width."""
    from anm_nb import figures_command, files
    from anm_nb.config import ParameterError

    try:
        folder = out or files.outputs_root() / "figures" / venue
        for path in figures_command.export(venue, folder, only or []):
            typer.echo(path)
    except (ParameterError, files.DiskFull) as error:
        _refuse(str(error))


@app.command()
def doctor(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's key, the beginning of one, or the path of its folder.")
    ],
    apply: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write the parameters with the changes made.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Let --apply replace a file.")] = False,
) -> None:
    """Say what is wrong with a run, by the signatures of the ANM checklist, and what to change."""
    from anm_nb import doctor_command, store
    from anm_nb.config import ParameterError

    if apply is not None and apply.exists() and not overwrite:
        _refuse(f"--apply {apply} exists; choose another name, or add --overwrite")
    try:
        doctor_command.visit(store.find(run), apply)
    except ParameterError as error:
        _refuse(str(error))


def _refuse(message: str) -> NoReturn:
    typer.echo(f"anm-nb: {message}", err=True)
    raise typer.Exit(2)


def _cores(at_most: int) -> int:
    from joblib import cpu_count

    return min(cpu_count(), at_most)


def _quick_cases(root: Path, folder: Path, only: Sequence[str]) -> list[Case]:
    """The numbered notebooks, or those asked for, with the values of params/quick/ where there are any."""
    from anm_nb.config import unknown_name
    from anm_nb.sweep import Case

    notebooks = {path.stem: path for path in sorted((root / "notebooks").glob(NUMBERED))}
    if not notebooks:
        _refuse(f"no notebooks named {NUMBERED} in {root / 'notebooks'}")
    for name in only:
        if name not in notebooks:
            _refuse(unknown_name("notebook", name, notebooks))
    if folder.resolve() == (root / "notebooks").resolve():
        _refuse(f"--out {folder} holds the notebooks themselves; choose another folder")
    chosen = [name for name in notebooks if not only or name in only]
    params = {name: root / "params" / "quick" / f"{name}.yaml" for name in chosen}
    return [
        Case(notebooks[name], folder / f"{name}.ipynb", params[name] if params[name].exists() else None)
        for name in chosen
    ]


if __name__ == "__main__":
    app()
