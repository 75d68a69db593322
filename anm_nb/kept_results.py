"""Train or read the runs of a kept result, keep its tables, and write them to docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pandas as pd

from anm_nb import files, store
from anm_nb.analysis import hrm_grid
from anm_nb.analysis import reference as kept_results
from anm_nb.config import ParameterError, unknown_name
from anm_nb.store import RunConfig
from anm_nb.studies.energy_settings import AnmVsCorruption
from anm_nb.studies.iteration_study import WhereIterationHelps
from anm_nb.studies.ranking_settings import HrmVsBaseline, KendallForensics, RankingExperiment
from anm_nb.sweep.parameters import settings_class
from anm_nb.sweep.plan import find_sweep, plan, profile_values

FAMILIES = (KendallForensics, AnmVsCorruption, HrmVsBaseline, WhereIterationHelps)
NOTEBOOKS = {each.notebook: each for each in FAMILIES}
SWEEPS = ("hrm", "hrm_hinted")
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
    configs, experiment = _of_sweep(name, profile) if name in SWEEPS else _of_notebook(name, profile or PROFILE)
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
        raise ParameterError(unknown_name("result to keep", name, [*NOTEBOOKS, *SWEEPS]))
    values = profile_values(profile, name)
    try:
        settings = NOTEBOOKS[name].from_mapping(values)
        return settings.configs(), settings
    except ParameterError as error:
        raise error.within(f"{name}.yaml") from None


def _of_sweep(name: str, profile: str | None) -> tuple[Mapping[str, RunConfig], Experiment]:
    """The distinct runs of all cases of a sweep over ranking experiments."""
    experiments = []
    for case in plan(find_sweep(name), profile).cases:
        settings = settings_class(case.notebook)
        assert settings is not None
        assert issubclass(settings, RankingExperiment)
        experiments.append(settings.from_mapping(case.values))
    return hrm_grid.grid_configs(experiments), experiments[0]
