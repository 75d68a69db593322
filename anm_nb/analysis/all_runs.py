"""The settings of notebook 30: where the runs that it reads are."""

from __future__ import annotations

from typing import ClassVar

from anm_nb.analysis.collecting import Source
from anm_nb.config import Parameters


class AllRuns(Parameters):
    """What the analysis is of: the results kept in `outputs/reference`, or every finished run in the store."""

    notebook: ClassVar[str] = "30_analysis"

    source: Source = "reference"
