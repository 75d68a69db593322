"""Run notebooks in batch: cases through papermill, each in a process of its own, here or on a Dask cluster."""

from __future__ import annotations

from anm_nb.sweep.cases import Case, Interrupted, run_case
from anm_nb.sweep.outcomes import Outcome, read_outcomes, write_outcomes
from anm_nb.sweep.parallel import run_cases

__all__ = ["Case", "Interrupted", "Outcome", "read_outcomes", "run_case", "run_cases", "write_outcomes"]
