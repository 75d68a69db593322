"""Train or read the runs of a kept result, keep its tables, and write them to docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pandas as pd

from anm_nb import files, store
from anm_nb.analysis import anm_verdict
from anm_nb.analysis import reference as kept_results
from anm_nb.analysis.anm_verdict_figures import forest
from anm_nb.config import ParameterError, unknown_name
from anm_nb.store import RunConfig
from anm_nb.studies.energy_settings import AnmVsCorruption
from anm_nb.studies.verdict_study import AnmVerdict, study
from anm_nb.sweep.plan import profile_values

FAMILIES = (AnmVsCorruption,)
NOTEBOOKS = {each.notebook: each for each in FAMILIES}
PROFILE = "mid"


class Experiment(Protocol):
    """What a kept result comes from: runs by name, and scores of the task to stand beside them."""

    def configs(self) -> Mapping[str, RunConfig]: ...

    def reference_scores(self) -> pd.DataFrame: ...


def keep(name: str, profile: str | None, only: Sequence[str] = (), add: bool = False) -> Path:
    """Keep the result of that name; the folder it is kept in.

    With `only`, of these runs; with `add`, beside those that are kept of it already, which are not trained again.
    Raises `ParameterError` for a name, profile or run that does not exist, for values that cannot be used, and for kept
    runs that are not those of the present configs and sources, before any work starts.
    """
    page = files.project_root() / "docs" / "results.md"
    configs, experiment = _of_notebook(name, profile or PROFILE)
    for one in only:
        if one not in configs:
            raise ParameterError(unknown_name("run", one, configs))
    make_tables = kept_results.DISPLAYS[name].tables
    if make_tables and (only or add):
        asked = "--add" if add else f"--run {only[0]}"
        raise ParameterError(f"{asked}: what is kept of {name} is made of all its runs together")
    kept_results.place_in(page, name)
    already = _kept_runs(name, configs) if add else {}
    trained = {one: store.get_or_train(configs[one]) for one in only or configs if one not in already}
    tables = make_tables(experiment, trained) if make_tables else {}
    every: dict[str, store.Run | kept_results.KeptRun] = {**already, **trained}
    in_order = {one: every[one] for one in configs if one in every}
    kept = kept_results.keep_reference(name, in_order, experiment.reference_scores(), tables)
    kept_results.quote(kept, page)
    return kept.path


def _kept_runs(name: str, configs: Mapping[str, RunConfig]) -> Mapping[str, kept_results.KeptRun]:
    """The runs kept of a result, if any. Raises `ParameterError` for one that would not be trained alike now."""
    folder = kept_results.reference_root() / name
    kept = kept_results.Reference(folder).runs if (folder / "provenance.json").exists() else {}
    for one, run in kept.items():
        now = store.run_key(configs[one]) if one in configs else "none of that name"
        if run.key != now:
            raise ParameterError(
                f"--add: '{one}' is kept of run {run.key}, and with the present config and sources it is {now}; "
                "keep all of them anew, without --add"
            )
    return kept


def _of_notebook(name: str, profile: str) -> tuple[Mapping[str, RunConfig], Experiment]:
    """A notebook's runs at a profile."""
    if name not in NOTEBOOKS:
        raise ParameterError(unknown_name("result to keep", name, NOTEBOOKS))
    values = profile_values(profile, name)
    try:
        settings = NOTEBOOKS[name].from_mapping(values)
        return settings.configs(), settings
    except ParameterError as error:
        raise error.within(f"{name}.yaml") from None


def keep_verdict(profile: str, jobs: int | None) -> Path:
    """Run the study of mined negatives at a profile, or what the store lacks of it; the path of the table that is kept.

    Raises `ParameterError` for a profile that does not exist or values that cannot be used, before any work starts.
    """
    settings = AnmVerdict.from_mapping(profile_values(profile, AnmVerdict.notebook))
    if jobs is not None:
        settings = settings.model_copy(update={"jobs": jobs})
    page, name = files.project_root() / "docs" / "results.md", anm_verdict.NAME
    kept_results.place_in(page, name)
    kept = anm_verdict.keep_verdict(settings, study(settings))
    forest(anm_verdict.comparisons(kept.confirmed)).savefig(kept.folder / f"{name}.png", dpi=160)
    kept_results.write_between(page, name, anm_verdict.summary(kept))
    return kept.folder / f"{name}.parquet"
