"""The `anm-nb` command: run notebooks once or in sweeps, show their results, and manage stored runs."""

import math
import os
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from anm_nb import files, gallery, store
from anm_nb.cases import Case, named, open_sweep
from anm_nb.config import ParameterError, read_yaml, unknown_name
from anm_nb.sweep import run_sweep


class Commands(TyperGroup):
    """Commands that report expected errors in one line on stderr, with exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (ParameterError, store.CorruptRun, files.DiskFull, ModuleNotFoundError) as error:
            refuse(error)


# Plain help and errors, without boxes, so that an error is one line in a terminal and in a log.
app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
runs_app = typer.Typer(no_args_is_help=True, help="List, verify, export and import stored runs.")
app.add_typer(runs_app, name="runs")

Jobs = Annotated[int | None, typer.Option(min=1, help="Notebooks at a time; by default, one per core.")]
Only = Annotated[list[str] | None, typer.Option(metavar="NN|NAME", help="Only this notebook; repeatable.")]
Out = Annotated[Path | None, typer.Option(file_okay=False, help="The folder for results; by default in outputs/.")]
Profile = Annotated[str | None, typer.Option(help="A profile of params/ instead of the values of file or notebook.")]
One = Annotated[str, typer.Argument(metavar="RUN", help="A run's key, its first characters, or its folder.")]


def refuse(message: object, code: int = 2) -> NoReturn:
    """Print an error to stderr and exit with a code."""
    typer.echo(f"anm-nb: {message}", err=True)
    raise typer.Exit(code)


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A sweep file, or its name in params/sweeps.")],
    jobs: Jobs = None,
    profile: Profile = None,
    scheduler: Annotated[str | None, typer.Option(metavar="ADDRESS", help="The Dask scheduler to run on.")] = None,
    budget: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Start no case after that; exit code 75 if any are left.")
    ] = math.inf,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cases without running them.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed cases again.")] = False,
    out: Out = None,
) -> None:
    """Run all cases of a sweep file; the same command again continues with the unfinished ones."""
    place: Any = {"jobs": jobs, "until": time.time() + budget, "scheduler": scheduler}
    code, reason = run_sweep(open_sweep(file, profile, out), retry_failed=retry_failed, dry_run=dry_run, **place)
    if code:
        refuse(reason, code)


@app.command()
def demo(jobs: Jobs = None, only: Only = None, out: Out = None) -> None:
    """Run every notebook's quick profile and write a gallery."""
    folder = out or files.outputs_root() / "quick"
    code, reason = run_sweep(_notebook_cases(folder, only, "quick"), jobs=jobs)
    if code:
        typer.echo(f"anm-nb: {reason}", err=True)
    typer.echo(f"Gallery: {gallery.write_gallery(folder)}")
    raise typer.Exit(code)


@app.command()
def figures(
    venue: Annotated[str, typer.Option(metavar="VENUE", help="The page format: icml, neurips or thesis.")],
    notebook: Only = None,
    profile: Profile = None,
    jobs: Jobs = None,
    out: Out = None,
) -> None:
    """Run the notebooks that publish figures, and write figures and tables at a venue's width."""
    from anm_nb.analysis import plots, style

    if venue not in style.VENUES:
        raise ParameterError(unknown_name("venue", venue, style.VENUES))
    folder = (out or files.outputs_root() / "figures" / venue).absolute()
    if (present := plots.published(folder)[0]) not in ("", venue):
        refuse(f"--out {folder} holds figures for {present}; choose another folder")
    cases = _notebook_cases(folder / "notebooks", notebook, profile)
    cases = [case for case in cases if "publish(" in case.notebook.read_text("utf-8")]
    if not cases:
        refuse("none of these notebooks publishes a figure by publish(figure, name) of anm_nb.analysis.plots")
    code, reason = run_sweep(cases, jobs=jobs, env={style.VENUE: venue, plots.FIGURES: str(folder)})
    if code:
        refuse(reason, code)
    typer.echo(folder / plots.MANIFEST)


def _notebook_cases(folder: Path, only: Sequence[str] | None, profile: str | None) -> list[Case]:
    """The numbered notebooks, or only those with given names or numbers, with the values of a profile if it has any.

    They always run, because their digests contain the current time.
    """
    root = files.project_root()
    notebooks = {path.stem: path for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    numbers = {name[:2]: name for name in notebooks}
    chosen = [named("notebook", numbers.get(name, name), notebooks) for name in only or notebooks]
    profiles = {path.name: path for path in (root / "params").glob("*") if path.name != "sweeps"}
    values = named("profile", profile, profiles) if profile else root / "none"
    given = {path: read_yaml(file) if (file := values / f"{path.stem}.yaml").is_file() else {} for path in chosen}
    return [Case(path, folder.absolute() / path.name, each, digest=f"{time.time()}") for path, each in given.items()]


@app.command()
def index(folder: Annotated[Path, typer.Argument(help="A folder of executed notebooks.")]) -> None:
    """Rebuild the gallery of executed notebooks."""
    typer.echo(gallery.write_gallery(folder))


@app.command()
def doctor(run: One) -> None:
    """Report what is wrong with a run, by the failure signatures of the ANM checklist, and what to change."""
    from anm_nb.analysis.doctor import examine, summary

    found = store.find(run)
    metrics, findings = found.metrics, examine(found.metrics, found.settings)
    typer.echo(f"run {found.key}: {found.title}, {metrics['seed'].nunique()} seeds, {metrics['step'].max():g} steps\n")
    typer.echo("\n\n".join([*map(str, findings), summary(findings, metrics)]))


@runs_app.command()
def ls() -> None:
    """List finished runs, newest last, with their scores and the settings in which they differ."""
    import pandas as pd

    from anm_nb.analysis.tables import differences, score

    runs, broken = store.scan()
    rows = []
    for run, different in zip(runs, differences(runs), strict=True):
        row = {"key": run.key, **{name: run.summary[name] for name in ("task", "method", "steps", "finished")}}
        row |= dict(zip(("score", "value"), score(run) or ("–", math.nan), strict=True))
        differs = ", ".join(f"{name}={value}"[:40] for name, value in different.items())
        rows.append(row | {"seeds": len(run.summary["seeds"]), "differs": differs})
    if rows:
        typer.echo(pd.DataFrame(rows).to_string(index=False, float_format="%.4g"))
    typer.echo(f"{len(runs)} runs")
    if broken:
        typer.echo(f"anm-nb: {len(broken)} more are not finished runs; anm-nb runs verify names them", err=True)


@runs_app.command()
def verify() -> None:
    """Read every byte of the stored runs and name corrupted or missing files. Exit code 1 if there are any."""
    faults = [store.Run(path).faults() for path in store.run_folders()]
    for fault in chain(*faults):
        typer.echo(fault)
    typer.echo(f"{faults.count([])} of {len(faults)} runs are intact")
    raise typer.Exit(int(any(faults)))


def _check(runs: Iterable[store.Run]) -> None:
    """Read every byte of runs. Raises `CorruptRun`, which names all files that have changed."""
    if faults := [fault for run in runs for fault in run.faults()]:
        raise store.CorruptRun("; ".join(faults))


@runs_app.command()
def export(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Keys, or their first characters.")],
    out: Annotated[Path, typer.Option(metavar="FILE.zip", help="The zip file to write; it must not exist.")],
) -> None:
    """Check every byte of some runs and write them to a zip file, for `anm-nb runs import` on another machine."""
    if out.exists():
        raise ParameterError(f"{out} already exists; choose another name")
    found = {run.key: run for run in map(store.find, runs)}
    _check(found.values())
    with (
        files.full_disk_named(out, "no archive was written"),
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder,
    ):
        with zipfile.ZipFile(partial := Path(folder, out.name), "w") as file:
            for run in found.values():
                for name in (*run.manifest["files"], store.MANIFEST):
                    file.write(run.path / name, f"{run.key}/{name}")
        os.replace(partial, out)
    typer.echo(out)


@runs_app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE.zip", exists=True, help="Written by `anm-nb runs export`.")],
) -> None:
    """Check every byte of exported runs and add them to the store; runs that it already has stay as they are."""
    store.partial_root().mkdir(parents=True, exist_ok=True)
    with (
        files.full_disk_named(store.store_root(), "earlier runs of the archive are in the store"),
        tempfile.TemporaryDirectory(prefix="import-", dir=store.partial_root()) as folder,
    ):
        try:
            zipfile.ZipFile(source).extractall(folder)
        except zipfile.BadZipFile as error:
            raise ParameterError(f"{source} cannot be read as a zip file ({error})") from None
        runs = [store.Run(each.parent) for each in sorted(Path(folder).glob(f"*/{store.MANIFEST}"))]
        if not runs:
            raise ParameterError(f"{source} contains no exported runs")
        _check(runs)
        for run in runs:
            path = store.store_root() / run.key
            if not os.path.lexists(path):
                os.replace(run.path, path)
            typer.echo(path)


if __name__ == "__main__":
    app()
