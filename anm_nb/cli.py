"""The `anm-nb` command: run the notebooks, once or in sweeps, show what they found, and see what ails a run."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from anm_nb import runs_command
from anm_nb.terminal import refuse, replace_what_cannot_be_shown, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from anm_nb.analysis.doctor import Finding
    from anm_nb.sweep.case import Case

NUMBERED = "[0-9][0-9]_*.ipynb"
DOCTORED = "EnergyConfig.model_validate_json(json.dumps(yaml.safe_load(open('{}'))))"  # use of what the doctor writes


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
app.add_typer(runs_command.app, name="runs")


@app.callback()
def anm_nb() -> None:
    """Run the notebooks, and build the page over what they found."""


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A sweep file, or the name of one in params/sweeps.")],
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cases at a time; as many as there are cores if not given.")
    ] = None,
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
    from anm_nb.sweep import cluster, plan, run

    until = math.inf if budget is None else time.time() + budget
    if budget is not None and not budget > 0:
        refuse(f"--budget {budget:g}: seconds, more than 0")
    console = terminal.console(soft_wrap=True)
    resources = cluster.check_options(backend, scheduler, jobs, resource or [])
    opened = plan.open_sweep(plan.find_sweep(file), profile, out)
    chosen = opened.only(only or [])
    run.tell(opened, chosen, console, retry_failed, each=dry_run)
    if not dry_run:
        run.run_sweep(opened, chosen, console, retry_failed, jobs, backend, scheduler, resources, until)


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
    from joblib import cpu_count

    from anm_nb import files, gallery, terminal
    from anm_nb.sweep.case import read_outcomes
    from anm_nb.sweep.run import folder_of_results, run_into, summary

    if jobs is not None and jobs < 1:
        refuse(f"--jobs {jobs}: at least 1 notebook must run at a time")
    folder = (out or files.outputs_root() / "quick").absolute()
    cases = _quick_cases(files.project_root(), folder, only or [])
    names = {case.name for case in cases}
    kept = [outcome for outcome in read_outcomes(folder)[0] if only and outcome.name not in names]
    console = terminal.console()
    with folder_of_results(folder):
        outcomes = run_into(folder, cases, kept, jobs or min(cpu_count(), len(cases)), console)
    cards = gallery.read_cards(folder)
    page = gallery.write_index(folder, cards)
    verdicts = {card.name: gallery.tally(card.verdicts) for card in cards}
    summary(console, outcomes, verdicts.__getitem__, "notebook")
    console.print(f"Gallery: {page}", soft_wrap=True)
    failed = [outcome.name for outcome in outcomes if outcome.status == "failed"]
    if failed:
        refuse(f"{len(failed)} of {len(outcomes)} notebooks failed: {', '.join(failed)}", 1)


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="A folder of executed notebooks, such as outputs/quick.")],
) -> None:
    """Build the gallery of executed notebooks anew."""
    from anm_nb import gallery

    try:
        say(gallery.write_index(folder, gallery.read_cards(folder)))
    except gallery.NothingToShow as error:
        refuse(error)


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
    """Train the runs of a notebook or sweep, keep their tables in outputs/reference, and write docs/results.md.

    What the store has is not trained again: after `anm-nb sweep hrm_hinted` this only keeps what that trained.
    """
    from anm_nb import kept_results

    say(kept_results.keep(name, profile, run or (), add))


@app.command()
def verdict(
    profile: Annotated[str, typer.Option(help="The folder of params/ with its values.")] = "mid",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trainings at a time; the profile's number if not given.")
    ] = None,
) -> None:
    """Tune and confirm mined negatives and their rivals, keep the tables, and write docs/results.md."""
    from anm_nb import kept_results

    say(kept_results.keep_verdict(profile, jobs))


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
    from anm_nb import files, publication

    folder = out or files.outputs_root() / "figures" / venue
    for path in publication.export(venue, folder, only or []):
        say(path)


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
    from anm_nb import store, terminal
    from anm_nb.analysis.doctor import examine, summary

    if apply is not None and apply.exists() and not overwrite:
        refuse(f"--apply {apply} exists; choose another name, or add --overwrite")
    found, console = store.find(run), terminal.console()
    metrics = found.metrics
    findings = examine(metrics, found.settings)
    steps, count = metrics["step"].max(), metrics["seed"].nunique()
    seeds = f"{count} seed" if count == 1 else f"{count} seeds"
    console.print(f"run {found.key}: {found.title}, {seeds}, {steps:g} steps", soft_wrap=True, markup=False)
    for finding in findings:
        console.print()
        console.print(_shown(finding))
    console.print()
    console.print(summary(findings, metrics), soft_wrap=True)
    if apply is not None:
        _write_changed(findings, found.settings, apply, console)


def _shown(finding: Finding) -> Table:
    """A finding as a heading and labelled paragraphs."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.title, grid.title_justify = Text(finding.signature, style="bold red"), "left"
    grid.add_column(style="dim")
    grid.add_column()
    grid.add_row("found in", f"section {finding.section}; confidence {finding.confidence}")
    grid.add_row("evidence", finding.evidence)
    grid.add_row("remedy", finding.remedy)
    grid.add_row("change", finding.changes or "no parameter of this run mends it")
    return grid


def _write_changed(findings: Sequence[Finding], settings: Mapping[str, Any], path: Path, console: Console) -> None:
    """The whole config with all changes made, and what they are."""
    import yaml

    from anm_nb.analysis.doctor import apply, in_full
    from anm_nb.run import flat

    changed = apply(findings, settings)
    before, after = flat(in_full(settings)), flat(changed)
    names = dict.fromkeys(name for finding in findings for name in finding.change)
    if not names:
        console.print(f"nothing to change: {path} is not written", soft_wrap=True)
        return
    verb = "replaced" if path.exists() else "wrote"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
    path.write_text(f"# {DOCTORED.format(path.name)}\n{text}", encoding="utf-8")
    lines = [f"{verb} {path}, the whole config, with"]
    lines += [f"  {name}: {before.get(name, 'the default')} → {after[name]}" for name in names]
    console.print("\n".join([*lines, f"to be used by {DOCTORED.format(path)}"]), soft_wrap=True)


def _quick_cases(root: Path, folder: Path, only: Sequence[str]) -> list[Case]:
    """The numbered notebooks, or those asked for, with the values of params/quick/ where there are any."""
    from anm_nb.config import unknown_name
    from anm_nb.sweep.case import Case
    from anm_nb.sweep.plan import check_folder

    notebooks = {path.stem: path for path in sorted((root / "notebooks").glob(NUMBERED))}
    if not notebooks:
        refuse(f"no notebooks named {NUMBERED} in {root / 'notebooks'}")
    for name in only:
        if name not in notebooks:
            refuse(unknown_name("notebook", name, notebooks))
    check_folder(folder, notebooks.values())
    chosen = [name for name in notebooks if not only or name in only]
    params = {name: root / "params" / "quick" / f"{name}.yaml" for name in chosen}
    return [
        Case(notebooks[name], folder / f"{name}.ipynb", params[name] if params[name].exists() else None)
        for name in chosen
    ]


if __name__ == "__main__":
    app()
