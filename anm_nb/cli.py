"""The `anm-nb` command: run the notebooks, once or in sweeps, show what they found, and see what ails a run."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from anm_nb import runs_cli
from anm_nb.terminal import refuse, replace_what_cannot_be_shown, say

if TYPE_CHECKING:
    from anm_nb.sweep.cases import Case
    from anm_nb.sweep.outcomes import Outcome

NUMBERED = "[0-9][0-9]_*.ipynb"


class Commands(TyperGroup):
    """Commands that end with one line on stderr and exit code 2 where what they are asked for cannot be done."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        replace_what_cannot_be_shown()
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


@app.callback()
def anm_nb() -> None:
    """Run the notebooks, and build the page over what they found."""


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A sweep file, or the name of one in params/sweeps.")],
    jobs: Jobs = None,
    profile: Annotated[str | None, typer.Option(help="A profile of params/ instead of the file's own.")] = None,
    backend: Annotated[Literal["local", "dask"], typer.Option(help="This machine, or a Dask cluster.")] = "local",
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of the Dask scheduler; a cluster is made here if not given.")
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
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only cases with this value of a parameter.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where results go; outputs/<sweep> if not given.")
    ] = None,
) -> None:
    """Run a notebook at every case of a sweep file; started again, it goes on with the cases that are not finished."""
    from anm_nb import terminal
    from anm_nb.sweep import cases, run, workers

    until = math.inf if budget is None else time.time() + budget
    if budget is not None and not budget > 0:
        refuse(f"--budget {budget:g}: seconds, more than 0")
    resources = workers.check_options(backend, scheduler, jobs, resource or [])
    opened = cases.open_sweep(file, profile, out)
    place = run.Place(jobs, backend, scheduler, resources, until)
    run.run_sweep(opened, opened.only(only or []), terminal.console(soft_wrap=True), retry_failed, dry_run, place)


@app.command()
def demo(
    jobs: Jobs = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this notebook; may be given several times.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where results go; outputs/quick if not given.")
    ] = None,
) -> None:
    """Run every notebook's quick profile and write a gallery."""
    from anm_nb import files, gallery
    from anm_nb.sweep.outcomes import read_outcomes

    folder = (out or files.outputs_root() / "quick").absolute()
    cases = _notebook_cases(folder, only or [], "quick")
    names = {case.name for case in cases}
    kept = [outcome for outcome in read_outcomes(folder)[0] if only and outcome.name not in names]
    failed = _run_notebooks(folder, cases, kept, jobs)
    say(f"Gallery: {gallery.write_gallery(folder)}")
    if failed:
        refuse(f"{len(failed)} of {len(cases)} notebooks failed: {', '.join(failed)}", 1)


@app.command()
def figures(
    venue: Annotated[str, typer.Option(metavar="VENUE", help="Whose page they are for: icml, neurips or thesis.")],
    notebook: Annotated[
        list[str] | None, typer.Option(metavar="NN|NAME", help="Only this notebook's; may be given several times.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="A profile of params/; the notebooks' own values if none.")
    ] = None,
    jobs: Jobs = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where they go; outputs/figures/VENUE if not given.")
    ] = None,
) -> None:
    """Run the notebooks that publish figures, and write those and their tables at a venue's width."""
    import shutil
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
    own = {case.name: folder / "notebooks" / case.name for case in cases}
    for each in own.values():
        shutil.rmtree(each, ignore_errors=True)
    environment = {name: {VENUE: venue, plots.FIGURES: str(path)} for name, path in own.items()}
    cases = [replace(case, env=environment[case.name]) for case in cases]
    failed = _run_notebooks(folder / "notebooks", cases, [], jobs)
    if failed:
        refuse(f"{len(failed)} of {len(cases)} notebooks failed: {', '.join(failed)}; figures are as they were", 1)
    for path in plots.write_manifest(venue, folder, before, own):
        say(path)
    for each in own.values():
        shutil.rmtree(each, ignore_errors=True)


@app.command()
def index(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A folder of executed notebooks, such as outputs/quick; docs/results.md if none."),
    ] = None,
) -> None:
    """Build the gallery of executed notebooks anew, or docs/results.md from the answers that the notebooks show."""
    from anm_nb import files, gallery, results_page

    if folder is not None:
        say(gallery.write_gallery(folder))
        return
    root = files.project_root()
    say(results_page.write_results(root / "notebooks", root / "docs" / "results.md"))


@app.command()
def doctor(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's key, the beginning of one, or the path of its folder.")
    ],
) -> None:
    """Say what is wrong with a run, by the signatures of the ANM checklist, and what to change."""
    from anm_nb import store, terminal
    from anm_nb.analysis.doctor import examine, summary

    found, console = store.find(run), terminal.console(soft_wrap=True)
    metrics = found.metrics
    findings = examine(metrics, found.settings)
    steps, count = metrics["step"].max(), metrics["seed"].nunique()
    console.print(f"run {found.key}: {found.title}, {count} seed{'s' * (count != 1)}, {steps:g} steps")
    for finding in findings:
        console.print(f"\n{finding.signature}", style="bold red")
        said = {"found in": f"section {finding.section}; confidence {finding.confidence}"}
        said |= {"evidence": finding.evidence, "remedy": finding.remedy}
        said |= {"change": finding.changes or "no parameter of this run mends it"}
        for label, text in said.items():
            console.print(f"{label:9} {text}")
    console.print(f"\n{summary(findings, metrics)}")


def _notebook_cases(folder: Path, only: Sequence[str], profile: str | None) -> list[Case]:
    """The numbered notebooks, or those asked for by name or number, with a profile's values where it has them."""
    from anm_nb import files
    from anm_nb.config import read_yaml, unknown_name
    from anm_nb.sweep.cases import Case, check_folder

    root = files.project_root()
    notebooks = {path.stem: path for path in sorted((root / "notebooks").glob(NUMBERED))}
    if not notebooks:
        refuse(f"no notebooks named {NUMBERED} in {root / 'notebooks'}")
    profiles = {path.name for path in (root / "params").glob("*") if path.is_dir()} - {"sweeps"} | {"quick"}
    if profile is not None and profile not in profiles:
        refuse(unknown_name("profile", profile, profiles))
    names = {name[:2]: name for name in notebooks} | {name: name for name in notebooks}
    for name in only:
        if name not in names:
            refuse(unknown_name("notebook", name, notebooks))
    check_folder(folder, notebooks.values())
    cases = []
    for name in dict.fromkeys(names[each] for each in only or notebooks):
        values = root / "params" / (profile or "") / f"{name}.yaml"
        cases.append(Case(notebooks[name], folder / f"{name}.ipynb", read_yaml(values) if values.is_file() else {}))
    return cases


def _run_notebooks(folder: Path, cases: Sequence[Case], kept: Sequence[Outcome], jobs: int | None) -> list[str]:
    """Run notebooks into a folder, beside kept outcomes, with a summary at the end; the names of those that failed."""
    from anm_nb import terminal
    from anm_nb.sweep.run import Place, folder_of_results, run_into, summary

    console = terminal.console()
    with folder_of_results(folder):
        outcomes = run_into(folder, cases, kept, console, Place(jobs))
    summary(console, outcomes, folder, "notebook")
    return [outcome.name for outcome in outcomes if outcome.status == "failed"]


if __name__ == "__main__":
    app()
