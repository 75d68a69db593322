"""`anm-nb reference`: train what a kept result needs or read it from the store, keep its tables, quote it in README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pandas as pd
import yaml

from anm_nb import runs
from anm_nb.analysis import hrm_grid
from anm_nb.analysis import reference as kept_results
from anm_nb.energy.experiments import AnmVsCorruption, IredTable
from anm_nb.parameters import ParameterError, unknown_name
from anm_nb.ranking.experiments import HrmVsBaseline, KendallForensics, RankingExperiment
from anm_nb.ranking.iteration_study import WhereIterationHelps
from anm_nb.runs.keys import RunConfig
from anm_nb.sweep.files import find_sweep, plan
from anm_nb.sweep.settings import settings_class

FAMILIES = (KendallForensics, AnmVsCorruption, IredTable, HrmVsBaseline, WhereIterationHelps)
NOTEBOOKS = {each.notebook: each for each in FAMILIES}
SWEEPS = ("hrm_ceiling", "hrm_hinted")
PROFILE = "mid"


class Experiment(Protocol):
    """What a kept result comes from: runs by name, and scores of the task to stand beside them."""

    def configs(self) -> Mapping[str, RunConfig]: ...

    def reference_scores(self) -> pd.DataFrame: ...


def keep(name: str, profile: str | None, only: Sequence[str] = ()) -> Path:
    """Keep the result of that name; the folder it is kept in.

    With `only`, of these runs. Raises `ParameterError` for a name, profile or run that does not exist, and for values
    that cannot be used, before any work starts.
    """
    readme = runs.project_root() / "README.md"
    configs, experiment = _of_sweep(name, profile) if name in SWEEPS else _of_notebook(name, profile or PROFILE)
    for one in only:
        if one not in configs:
            raise ParameterError(unknown_name("run", one, configs))
    make_tables = kept_results.DISPLAYS[name].tables
    if only and make_tables:
        raise ParameterError(f"--run {only[0]}: what is kept of {name} is made of all its runs together")
    kept_results.place_in(readme, name)
    finished = {one: runs.get_or_train(configs[one]) for one in only or configs}
    tables = make_tables(experiment, finished) if make_tables else {}
    kept = kept_results.keep_reference(name, finished, experiment.reference_scores(), tables)
    kept_results.quote(kept, readme)
    return kept.path


def _of_notebook(name: str, profile: str) -> tuple[Mapping[str, RunConfig], Experiment]:
    """A notebook's runs at a profile."""
    params = runs.project_root() / "params"
    if name not in NOTEBOOKS:
        raise ParameterError(unknown_name("result to keep", name, [*NOTEBOOKS, *SWEEPS]))
    values = params / profile / f"{name}.yaml"
    if not values.exists():
        raise ParameterError(unknown_name("profile", profile, [p.parent.name for p in params.glob(f"*/{name}.yaml")]))
    try:
        settings = NOTEBOOKS[name].from_mapping(yaml.safe_load(values.read_text(encoding="utf-8")))
        return settings.configs(), settings
    except ParameterError as error:
        raise ParameterError(f"{values.name}: {error}") from None


def _of_sweep(name: str, profile: str | None) -> tuple[Mapping[str, RunConfig], Experiment]:
    """The distinct runs of all cases of a sweep over ranking experiments."""
    experiments = []
    for case in plan(find_sweep(name), profile).cases:
        settings = settings_class(case.notebook)
        assert settings is not None
        assert issubclass(settings, RankingExperiment)
        experiments.append(settings.from_mapping(case.values))
    return hrm_grid.grid_configs(experiments), experiments[0]
