"""The `anm-nb` command: run the notebooks, once or in sweeps, show what they found, and look after stored runs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from anm_nb import files, gallery, store
from anm_nb.cases import Case, named, open_sweep
from anm_nb.config import ParameterError, read_yaml, unknown_name
from anm_nb.runs import One, stored
from anm_nb.sweep import run_sweep


class Commands(TyperGroup):
    """Commands that end with one line on stderr and exit code 2 where what they are asked for cannot be done."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (ParameterError, store.CorruptRun, files.DiskFull, ModuleNotFoundError) as error:
            refuse(error)


# Plain help and errors: a person sees one line, a log no boxes.
app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
app.add_typer(stored, name="runs")

Jobs = Annotated[int | None, typer.Option(min=1, help="Notebooks at a time; as many as there are cores if not given.")]
Only = Annotated[list[str] | None, typer.Option(metavar="NN|NAME", help="Only this notebook; repeatable.")]
Out = Annotated[Path | None, typer.Option(file_okay=False, help="Where results go; in outputs/ if not given.")]


def refuse(message: object, code: int = 2) -> NoReturn:
    """Print one error to stderr and end the command with an exit code."""
    typer.echo(f"anm-nb: {message}", err=True)
    raise typer.Exit(code)


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A sweep file, or the name of one in params/sweeps.")],
    jobs: Jobs = None,
    profile: Annotated[str | None, typer.Option(help="A profile of params/ instead of the file's own.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on this Dask scheduler's workers.")
    ] = None,
    budget: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Start no case after that; exit code 75 where any are left.")
    ] = math.inf,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which cases there are, and run none.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run again what failed before.")] = False,
    out: Out = None,
) -> None:
    """Run a notebook at every case of a sweep file; started again, it goes on with the cases that are not finished."""
    rerun = {"retry_failed": retry_failed, "dry_run": dry_run}
    place: Any = {"jobs": jobs, "until": time.time() + budget, "scheduler": scheduler}
    code, said = run_sweep(open_sweep(file, profile, out), **rerun, **place)
    if code:
        refuse(said, code)


@app.command()
def demo(jobs: Jobs = None, only: Only = None, out: Out = None) -> None:
    """Run every notebook's quick profile and write a gallery."""
    folder = out or files.outputs_root() / "quick"
    code, said = run_sweep(_notebook_cases(folder, only, "quick"), resume=False, jobs=jobs)
    if code:
        typer.echo(f"anm-nb: {said}", err=True)
    typer.echo(f"Gallery: {gallery.write_gallery(folder)}")
    raise typer.Exit(code)


@app.command()
def figures(
    venue: Annotated[str, typer.Option(metavar="VENUE", help="Whose page they are for: icml, neurips or thesis.")],
    notebook: Only = None,
    profile: Annotated[str | None, typer.Option(help="A profile of params/; notebooks' own values if none.")] = None,
    jobs: Jobs = None,
    out: Out = None,
) -> None:
    """Run the notebooks that publish figures, and write those and their tables at a venue's width."""
    from anm_nb.analysis import plots, style

    if venue not in style.VENUES:
        raise ParameterError(unknown_name("venue", venue, style.VENUES))
    folder = (out or files.outputs_root() / "figures" / venue).absolute()
    if (before := plots.published(folder)[0]) not in ("", venue):
        refuse(f"--out {folder} holds the figures of {before}; choose another folder")
    env = {style.VENUE: venue, plots.FIGURES: str(folder)}
    cases = [
        replace(case, env=env | {plots.NOTEBOOK: case.name})
        for case in _notebook_cases(folder / "notebooks", notebook, profile)
        if "publish(" in case.notebook.read_text("utf-8")
    ]
    if not cases:
        refuse("none of these notebooks publishes a figure: publish(figure, name) of anm_nb.analysis.plots does")
    code, said = run_sweep(cases, resume=False, jobs=jobs)
    if code:
        refuse(said, code)
    typer.echo(folder / plots.MANIFEST)


@app.command()
def index(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of executed notebooks, as outputs/quick; docs/results.md if none.")
    ] = None,
) -> None:
    """Build the gallery of executed notebooks anew, or docs/results.md from the answers that the notebooks show."""
    root = files.project_root()
    page = root / "docs" / "results.md"
    typer.echo(gallery.write_gallery(folder) if folder else gallery.write_results(root / "notebooks", page))


@app.command()
def doctor(run: One) -> None:
    """Say what is wrong with a run, by the signatures of the ANM checklist, and what to change."""
    from anm_nb.analysis.doctor import examine, summary

    found = store.find(run)
    metrics, findings = found.metrics, examine(found.metrics, found.settings)
    typer.echo(f"run {found.key}: {found.title}, {metrics['seed'].nunique()} seeds, {metrics['step'].max():g} steps\n")
    typer.echo("\n\n".join([*map(str, findings), summary(findings, metrics)]))


def _notebook_cases(folder: Path, only: Sequence[str] | None, profile: str | None) -> list[Case]:
    """The numbered notebooks, or those asked for by name or number, with a profile's values where it has them."""
    root = files.project_root()
    notebooks = {path.stem: path for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    numbers = {name[:2]: name for name in notebooks}
    chosen = [named("notebook", numbers.get(name, name), notebooks) for name in only or notebooks]
    profiles = {path.name: path for path in (root / "params").glob("*") if path.name != "sweeps"}
    values = named("profile", profile, profiles) if profile else root / "none"
    given = {path: read_yaml(own) if (own := values / f"{path.stem}.yaml").is_file() else {} for path in chosen}
    return [Case(path, folder.absolute() / path.name, own) for path, own in given.items()]


if __name__ == "__main__":
    app()
