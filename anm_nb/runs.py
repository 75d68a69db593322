"""The commands `anm-nb runs …`, which look after stored runs."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer
from filelock import FileLock, Timeout

from anm_nb import files, store
from anm_nb.config import ParameterError

One = Annotated[str, typer.Argument(metavar="RUN", help="A run's key, the beginning of one, or its folder.")]
Some = Annotated[list[str], typer.Argument(metavar="RUN...", help="Keys or beginnings of keys.")]
stored = typer.Typer(no_args_is_help=True, help="List, show, compare, verify, remove, export and import stored runs.")


@stored.command()
def ls(
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV instead of a table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON instead of a table.")] = False,
) -> None:
    """List finished runs, the newest last, with their score and the values in which they differ."""
    import pandas as pd

    from anm_nb.analysis.tables import differences, score

    runs, broken = store.scan()
    apart, scores = differences(runs), [score(run) or ("–", math.nan) for run in runs]
    table = pd.DataFrame(
        {"key": run.key, **own, **run.summary, "score": name, "value": value}
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
        typer.echo(f"anm-nb: {len(broken)} more are no finished runs: anm-nb runs verify names them", err=True)


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

    from anm_nb.analysis.tables import differences

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
    """Remove runs, unfinished trainings and what was set aside; never a run that is being trained."""
    for each in runs:
        found = [*store.partial_root().glob("*"), *store.store_root().glob(".corrupt/*"), *store.run_folders()]
        places = {path.name: path for path in found if ".lock" not in path.name}
        path = places[store.nearest_key(each, places)]
        try:
            with FileLock(store.partial_root() / f"{path.name.partition('-')[0]}.lock", blocking=False):
                shutil.rmtree(path)
        except Timeout:
            raise ParameterError(f"run {path.name} is being trained by another process, and stays") from None
        typer.echo(f"removed {path}")


@stored.command()
def export(
    runs: Some, out: Annotated[Path, typer.Option(metavar="FILE.zip", help="The zip file to write; a new one.")]
) -> None:
    """Write runs, every byte checked, into a zip file, for `anm-nb runs import` on another machine."""
    if out.exists():
        raise ParameterError(f"{out} exists already; choose another place")
    with (
        files.full_disk_named(out, "nothing of it is in its place"),
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder,
    ):
        with zipfile.ZipFile(partial := Path(folder, out.name), "w") as file:
            for run in {run.key: run for run in map(store.find, runs)}.values():
                check(run)
                for name in (*run.manifest["files"], store.MANIFEST):
                    file.write(run.path / name, f"{run.key}/{name}")
        os.replace(partial, out)
    typer.echo(out)


@stored.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE.zip", help="What `anm-nb runs export` has written.")],
) -> None:
    """Take exported runs into the store, every byte checked; runs it has already stay as they are."""
    store.partial_root().mkdir(parents=True, exist_ok=True)
    with (
        files.full_disk_named(store.store_root(), "runs before it are in the store"),
        tempfile.TemporaryDirectory(prefix="import-", dir=store.partial_root()) as folder,
    ):
        try:
            zipfile.ZipFile(source).extractall(folder)
        except (FileNotFoundError, zipfile.BadZipFile) as error:
            raise ParameterError(f"{source} cannot be read as a zip file ({error})") from None
        runs = [store.Run(each.parent) for each in sorted(Path(folder).glob(f"*/{store.MANIFEST}"))]
        if not runs:
            raise ParameterError(f"{source} holds no exported runs")
        for run in runs:
            check(run)
        for run in runs:
            path = store.store_root() / run.key
            if not os.path.lexists(path):
                os.replace(run.path, path)
            typer.echo(path)


def check(run: store.Run) -> None:
    """Read every byte of a run. Raises `CorruptRun` that names what is not as it was written."""
    if faults := run.faults():
        raise store.CorruptRun("; ".join(faults))
