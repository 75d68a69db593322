"""`anm-nb runs`: list, show, compare, verify, remove, export and import stored runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from anm_nb.store import Run

app = typer.Typer(no_args_is_help=True, help="List, show, compare, verify, remove, export and import stored runs.")
One = Annotated[str, typer.Argument(metavar="RUN", help="A key, the beginning of one, or a run's folder.")]
Some = Annotated[list[str], typer.Argument(metavar="RUN...", help="Keys or beginnings of keys.")]
All = Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Keys or beginnings of keys; all if none.")]


def say(text: object, err: bool = False) -> None:
    """Print text, without the control sequences that a file may have brought, to stdout or stderr."""
    from anm_nb.execution import plain

    typer.echo(plain(str(text)), err=err)


def refuse(message: object, code: int = 2) -> NoReturn:
    """Print one error to stderr and end the command with an exit code."""
    say(f"anm-nb: {message}", err=True)
    raise typer.Exit(code)


@app.command()
def ls(
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Only runs with this, such as task=inverse or steps=300; repeatable."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many of the newest.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON instead of a table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV instead of a table.")] = False,
) -> None:
    """List finished runs, the newest last, with their score and the values in which they differ."""
    import pandas as pd

    from anm_nb import store
    from anm_nb.execution import duration
    from anm_nb.run import differences

    every, broken = store.scan()
    runs = _where(every, where or [])[-limit:]
    facts, apart = list(map(_facts, runs)), differences(runs)
    rows = [fact | own for fact, own in zip(facts, apart, strict=True)]
    if as_json:
        say(json.dumps(rows, indent=1))
    elif as_csv:
        say(pd.DataFrame(rows).to_csv(index=False).rstrip())
    else:
        table = pd.DataFrame(facts).reindex(columns=["key", "task", "method", "seeds", "steps", "finished"])
        table["seeds"] = table["seeds"].map(len)
        table["time"] = [duration(fact["wall_seconds"]) for fact in facts]
        table["score"] = [f"{fact['score']} {fact['value']:.4g}" if "score" in fact else "–" for fact in facts]
        table["differs in"] = [", ".join(f"{name}={value}"[:40] for name, value in own.items()) for own in apart]
        say(table.map(lambda each: " ".join(f"{each}".split())).to_string(index=False, justify="left") if rows else "")
        say(f"{len(runs)} of {len(every)} runs")
    for path, reason in list(broken.items())[:5]:
        say(f"anm-nb: {path.name[:40]!r} is no finished run: {reason}; anm-nb runs verify names all", err=True)


@app.command()
def show(run: One) -> None:
    """Print a run's config, provenance, files and last row of metrics."""
    import yaml

    from anm_nb import store

    found = store.find(run)
    last = found.metrics.groupby("seed").last().T
    files = {name: f"{file.size} bytes, {file.sha256}" for name, file in found.manifest.files.items()}
    say(f"run {found.key}: {found.title}\n{found.path}\n")
    parts = {"config": found.settings, "provenance": found.provenance, "files": files}
    say(yaml.safe_dump(parts, sort_keys=False, allow_unicode=True, width=110))
    say(f"last row of metrics, by seed\n{last.to_string()}")


@app.command()
def compare(
    a: One,
    b: One,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The figure: .png, .pdf or .svg.")] = Path("compare.png"),
) -> None:
    """Print the values in which two runs differ, and draw their curves of all that both record in one figure."""
    import pandas as pd
    import seaborn as sns

    from anm_nb import store
    from anm_nb.run import differences

    runs = [store.find(a), store.find(b)]
    apart = [", ".join(f"{name}={value}" for name, value in own.items()) for own in differences(runs)]
    names = [f"{run.key[:6]} {own}" for run, own in zip(runs, apart, strict=True)]
    say("\n".join(names))
    frames = [run.metrics.melt(["seed", "step"]).dropna().assign(run=n) for run, n in zip(runs, names, strict=True)]
    curves = pd.concat(frames, ignore_index=True)
    curves = curves[curves.groupby("variable")["run"].transform("nunique") == 2]
    band: Any = {"errorbar": ("pi", 100), "facet_kws": {"sharey": False}}  # from the least seed to the greatest
    panels: Any = {"col": "variable", "col_wrap": 4, "height": 2} | band
    grid = sns.relplot(curves, x="step", y="value", hue="run", kind="line", **panels)
    grid.set_titles("{col_name}")
    sns.move_legend(grid, "lower center", bbox_to_anchor=(0.5, 1), title=None)
    grid.savefig(out)
    say(out)


@app.command()
def verify(runs: All = None) -> None:
    """Read every byte of stored runs, and name what is corrupted or missing. Exit code 1 if anything is."""
    from anm_nb import store

    places = {path.name: path for path in store.run_folders()}
    names = {store.nearest_key(each, dict.fromkeys(places, "")) for each in runs} if runs else set(places)
    wrong = {name: faults for name in sorted(names) if (faults := store.Run(places[name]).faults())}
    for name, faults in wrong.items():
        say("\n".join(f"{name}  {fault}" for fault in faults))
    say(f"{len(names) - len(wrong)} of {len(names)} runs are as they were written")
    raise typer.Exit(int(bool(wrong)))


@app.command()
def rm(runs: Some) -> None:
    """Remove runs and unfinished trainings; never one that a kept result or a sweep names, or that is being trained."""
    from anm_nb import store

    for each in runs:
        say(f"removed {store.remove(each)}")


@app.command()
def export(
    runs: Some, out: Annotated[Path, typer.Option(metavar="FILE.zip", help="The zip file to write; a new one.")]
) -> None:
    """Write runs with their manifests into a zip file, for `anm-nb runs import` on another machine."""
    from anm_nb import store

    store.export(list({run.path: run for run in map(store.find, runs)}.values()), out)
    say(out)


@app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE.zip", help="What `anm-nb runs export` has written.")],
) -> None:
    """Take exported runs into the store, every byte checked; runs it has already stay as they are."""
    from anm_nb import store

    for run in store.import_runs(source):
        say(run.path)


def stands_for(text: str, value: Any) -> bool:
    """Whether a text, as a person writes it in YAML, means a value: 1e-3 is 0.001, and true is not 1."""
    from anm_nb.config import from_yaml

    read = from_yaml(text)
    return text == str(value) or (bool(read == value) and isinstance(read, bool) == isinstance(value, bool))


def _where(runs: Iterable[Run], conditions: Sequence[str]) -> list[Run]:
    """Runs whose summary or config has these values. Raises `ParameterError` for a name that none has."""
    from anm_nb.config import ParameterError, unknown_name
    from anm_nb.run import flat

    found = [(run, run.summary | flat(run.settings)) for run in runs] if conditions else [(run, {}) for run in runs]
    known = {name for _, values in found for name in values}
    for condition in conditions:
        name, _, text = condition.partition("=")
        if found and name not in known:
            raise ParameterError(unknown_name("name in --where", name, known))
        found = [(run, values) for run, values in found if name in values and stands_for(text, values[name])]
    return [run for run, _ in found]


def _facts(run: Run) -> dict[str, Any]:
    """What lists show of a run: its summary, and its mean score over seeds at their last records."""
    from anm_nb.run import CorruptRun

    facts = {"key": run.key, "path": str(run.path), **run.summary}
    try:
        return facts | dict(zip(("score", "value"), run.score or (), strict=False))
    except (CorruptRun, OSError):
        return facts
