"""The files of a run as they lie on disk, read without the package's own reader."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from safetensors.numpy import load_file

from anm_nb.store import Run


@dataclass(frozen=True)
class Files:
    folder: Path

    def array(self, name):
        return load_file(self.folder / "trace.safetensors")[name]

    @property
    def metrics(self):
        return pd.read_parquet(self.folder / "metrics.parquet")


def files(run: Run) -> Files:
    return Files(run.path)
