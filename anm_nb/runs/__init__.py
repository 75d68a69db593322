"""The run store: a config is trained once, and what it left is read from then on.

A run is a folder `outputs/runs/<key>/`. The key covers the config, the device kind and the text of every training
source, so that neither a changed config nor changed code is ever served an older result. A folder is put in its
place by one rename when all of it is written, its manifest last; until then it lives under `.partial/`, where an
interrupted training resumes from. What is not as the manifest says is no run: it is set aside under `.corrupt/`.
"""

from anm_nb.runs.files import DiskFull
from anm_nb.runs.keys import RunConfig, run_key, source_digest
from anm_nb.runs.listing import finished_runs
from anm_nb.runs.manifest import CorruptRun, Manifest
from anm_nb.runs.places import outputs_root, project_root, store_root
from anm_nb.runs.provenance import PROVENANCE_PACKAGES, describe_environment
from anm_nb.runs.store import Run, get_or_train

__all__ = [
    "PROVENANCE_PACKAGES",
    "CorruptRun",
    "DiskFull",
    "Manifest",
    "Run",
    "RunConfig",
    "describe_environment",
    "finished_runs",
    "get_or_train",
    "outputs_root",
    "project_root",
    "run_key",
    "source_digest",
    "store_root",
]
