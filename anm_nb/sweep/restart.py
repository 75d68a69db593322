"""A sweep file and what is already there of it: which of its cases are finished, failed, or have to run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from anm_nb import files, store
from anm_nb.config import ParameterError, unknown_name
from anm_nb.files import sha256_of
from anm_nb.sweep.cases import Case
from anm_nb.sweep.digests import case_digest, code_digest
from anm_nb.sweep.files import Plan, plan
from anm_nb.sweep.naming import case_names
from anm_nb.sweep.outcomes import Outcome, read_outcomes

OTHERS_FOLDERS = ("check", "figures", "quick", "reference", "runs")  # in outputs/


@dataclass(frozen=True)
class Sweep:
    """The cases of a plan, in its order, with the folder of their results."""

    plan: Plan
    folder: Path
    cases: tuple[Case, ...]

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """The stored outcomes, by case, that still hold: of the same parameters, notebook, sources and result."""
        return self._stored[0]

    @property
    def problems(self) -> list[str]:
        """A sentence for each stored outcome, or executed notebook, that is not as it was written."""
        return self._stored[1]

    @cached_property
    def _stored(self) -> tuple[dict[str, Outcome], list[str]]:
        found, problems = read_outcomes(self.folder)
        stored = {outcome.name: outcome for outcome in found}
        holding = {}
        for case in self.cases:
            outcome = stored.get(case.name)
            if outcome is None or outcome.digest != case.digest:
                continue
            if outcome.notebook == (sha256_of(case.output) if case.output.is_file() else None):
                holding[case.name] = outcome
            else:
                problems.append(f"{case.output} is not the notebook that was written")
        return holding, problems

    def read_again(self) -> None:
        """Forget what was stored when it was last looked at."""
        self.__dict__.pop("_stored", None)

    def status(self, case: Case) -> Literal["done", "failed", "new"]:
        """How a case ended, if it did as it is now."""
        return self.outcomes[case.name].status if case.name in self.outcomes else "new"

    def only(self, asked: Sequence[str]) -> list[Case]:
        """The cases whose parameters have the values asked for by `name=value`; a name given twice may have either.

        `notebook` is a name too. Raises ParameterError for a name that no case has, and where no case is left.
        """
        wanted: dict[str, list[str]] = {}
        for condition in asked:
            name, equals, value = condition.partition("=")
            if not equals:
                raise ParameterError(f"--only {condition}: write NAME=VALUE")
            wanted.setdefault(name, []).append(value)
        values = [{"notebook": case.notebook.stem, **case.values} for case in self.plan.cases]
        for name in wanted:
            if not any(name in each for each in values):
                raise ParameterError(unknown_name("parameter in --only", name, {n for each in values for n in each}))
        chosen = [
            case
            for case, each in zip(self.cases, values, strict=True)
            if all(name in each and any(_means(t, each[name]) for t in texts) for name, texts in wanted.items())
        ]
        if not chosen:
            raise ParameterError(f"--only {' --only '.join(asked)}: none of the {len(self.cases)} cases is like that")
        return chosen


def open_sweep(file: Path, profile: str | None = None, folder: Path | None = None) -> Sweep:
    """The sweep of a file, checked, with its results in a folder: `outputs/<sweep>` if none is given.

    Another profile than the file's own has a folder of its own, `outputs/<sweep>-<profile>`, so that a quick look costs
    nobody a long result. Raises ParameterError as `plan` and `check_folder` do.
    """
    planned = plan(file, profile)
    if folder is None:
        if planned.name.startswith(".") or planned.name in OTHERS_FOLDERS:
            raise ParameterError(
                f"{file}: a sweep of the name '{planned.name}' would write into outputs/{planned.name}, which is not "
                "its to fill; give the file another name, or the results a folder with --out"
            )
        folder = files.outputs_root() / (f"{planned.name}-{profile}" if profile else planned.name)
    folder = Path(os.path.abspath(folder))
    check_folder(folder, {case.notebook for case in planned.cases})
    codes = {notebook: code_digest(notebook) for notebook in {case.notebook for case in planned.cases}}
    cases = [
        Case(case.notebook, folder / f"{name}.ipynb", case.given, case_digest(case, code), code)
        for name, case in zip(case_names(planned.cases), planned.cases, strict=True)
        for code in [codes[case.notebook]]
    ]
    return Sweep(planned, folder, tuple(cases))


def check_folder(folder: Path, notebooks: Iterable[Path]) -> None:
    """Refuse, by ParameterError, a folder of results that holds the notebooks themselves or lies in the run store."""
    where = folder.resolve()
    if any(where == notebook.resolve().parent for notebook in notebooks):
        raise ParameterError(f"--out {folder} holds the notebooks themselves; choose another folder")
    if where.is_relative_to(store.store_root()):
        raise ParameterError(f"--out {folder} is the run store's; choose another folder")


def _means(text: str, value: Any) -> bool:
    """Whether what a person typed is a value: as text, as YAML, or as a number YAML does not see, such as 1e-3."""
    if text == str(value) or yaml.safe_load(text) == value:
        return True
    try:
        return not isinstance(value, str) and float(text) == value
    except ValueError:
        return False
