"""The files of a run as they lie on disk, read without the package's own reader."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from safetensors.numpy import load_file

from anm_nb.run import Manifest
from anm_nb.store import Run


@dataclass(frozen=True)
class Files:
    folder: Path

    def array(self, name):
        return load_file(self.folder / "trace.safetensors")[name]

    @property
    def metrics(self):
        return pd.read_parquet(self.folder / "metrics.parquet")


SUMMARY = {
    "family": "energy", "task": "inverse", "method": "anm", "seeds": [0], "steps": 20,
    "finished": "2026-01-02T03:04:05Z", "finished_ns": 0, "wall_seconds": 1.0,
    "resumed": False, "commit": None, "dirty": None,
}  # fmt: skip


def write_manifest(folder: Path, **facts) -> None:
    """Make a run of a folder's files, under any name."""
    contents = {file.name: file.read_bytes() for file in folder.iterdir()}
    manifest = Manifest.of(contents, json.loads(contents["config.json"]), SUMMARY | facts)
    manifest.model_copy(update={"key": folder.name}).write(folder)


def files(run: Run) -> Files:
    return Files(run.path)
