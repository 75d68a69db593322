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
from anm_nb.runs import differences, import_runs, remove, score
from anm_nb.runs import export as export_runs
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
stored = typer.Typer(no_args_is_help=True, help="List, show, compare, verify, remove, export and import stored runs.")
app.add_typer(stored, name="runs")

Jobs = Annotated[int | None, typer.Option(min=1, help="Notebooks at a time; as many as there are cores if not given.")]
Only = Annotated[list[str] | None, typer.Option(metavar="NN|NAME", help="Only this notebook; repeatable.")]
Out = Annotated[Path | None, typer.Option(file_okay=False, help="Where results go; in outputs/ if not given.")]
One = Annotated[str, typer.Argument(metavar="RUN", help="A run's key, the beginning of one, or its folder.")]
Some = Annotated[list[str], typer.Argument(metavar="RUN...", help="Keys or beginnings of keys.")]


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
    typer.echo(f"Gallery: {gallery.write_gallery(folder)}")
    if code:
        refuse(said, code)


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


@stored.command()
def ls(
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV instead of a table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON instead of a table.")] = False,
) -> None:
    """List finished runs, the newest last, with their score and the values in which they differ."""
    import pandas as pd

    runs, broken = store.scan()
    apart, scores = differences(runs), [score(run) or ("–", math.nan) for run in runs]
    table = pd.DataFrame(
        {"key": run.key, **run.summary, "score": name, "value": value, **own}
        for run, (name, value), own in zip(runs, scores, apart, strict=True)
    )
    if as_csv or as_json:
        typer.echo(table.to_csv(index=False).rstrip() if as_csv else table.to_json(orient="records"))
    elif runs:
        shown = table[["key", "task", "method", "seeds", "steps", "finished", "score", "value"]].assign(
            seeds=table["seeds"].map(len),
            differs=[", ".join(f"{name}={value}"[:40] for name, value in own.items()) for own in apart],
        )
        typer.echo(shown.to_string(index=False, float_format="%.4g"))
    typer.echo(f"{len(runs)} runs", err=as_csv or as_json)
    if broken:
        refuse(f"{len(broken)} more are no finished runs: anm-nb runs verify names them", code=0)


@stored.command()
def show(run: One) -> None:
    """Print a run's config, provenance, files and last row of metrics."""
    import yaml

    found = store.find(run)
    parts = {"config": found.settings, "provenance": found.provenance, "files": found.manifest["files"]}
    typer.echo(f"run {found.key}: {found.title}\n{found.path}\n")
    typer.echo(yaml.safe_dump(parts, sort_keys=False, allow_unicode=True, width=110))
    typer.echo(f"last row of metrics, by seed\n{found.metrics.groupby('seed').last().T.to_string()}")


@stored.command()
def compare(
    a: One,
    b: One,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The figure: .png, .pdf or .svg.")] = Path("compare.png"),
) -> None:
    """Print the values in which two runs differ, and draw their curves of all that both record in one figure."""
    import pandas as pd
    import seaborn as sns

    runs = [store.find(a), store.find(b)]
    apart = [", ".join(f"{name}={value}" for name, value in own.items()) for own in differences(runs)]
    names = [f"{run.key[:6]} {own}" for run, own in zip(runs, apart, strict=True)]
    typer.echo("\n".join(names))
    frames = [run.metrics.melt(["seed", "step"]).dropna().assign(run=n) for run, n in zip(runs, names, strict=True)]
    curves = pd.concat(frames, ignore_index=True)
    curves = curves[curves.groupby("variable")["run"].transform("nunique") == 2]
    band: Any = {"errorbar": ("pi", 100), "facet_kws": {"sharey": False}}  # from the least seed to the greatest
    panels: Any = {"col": "variable", "col_wrap": 4, "height": 2} | band
    grid = sns.relplot(curves, x="step", y="value", hue="run", kind="line", **panels)
    grid.set_titles("{col_name}")
    sns.move_legend(grid, "lower center", bbox_to_anchor=(0.5, 1), title=None)
    grid.savefig(out)
    typer.echo(out)


@stored.command()
def verify(runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="All if none.")] = None) -> None:
    """Read every byte of stored runs, and name what is corrupted or missing. Exit code 1 if anything is."""
    places = {path.name: path for path in store.run_folders()}
    names = {store.nearest_key(each, places) for each in runs} if runs else set(places)
    wrong = {name: faults for name in sorted(names) if (faults := store.Run(places[name]).faults())}
    for name, faults in wrong.items():
        typer.echo("\n".join(f"{name}  {fault}" for fault in faults))
    typer.echo(f"{len(names) - len(wrong)} of {len(names)} runs are as they were written")
    raise typer.Exit(int(bool(wrong)))


@stored.command()
def rm(runs: Some) -> None:
    """Remove runs and unfinished trainings; never one that is being trained."""
    for each in runs:
        typer.echo(f"removed {remove(each)}")


@stored.command()
def export(
    runs: Some, out: Annotated[Path, typer.Option(metavar="FILE.zip", help="The zip file to write; a new one.")]
) -> None:
    """Write runs with their manifests into a zip file, for `anm-nb runs import` on another machine."""
    export_runs(list({run.path: run for run in map(store.find, runs)}.values()), out)
    typer.echo(out)


@stored.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE.zip", help="What `anm-nb runs export` has written.")],
) -> None:
    """Take exported runs into the store, every byte checked; runs it has already stay as they are."""
    for run in import_runs(source):
        typer.echo(run.path)


if __name__ == "__main__":
    app()
