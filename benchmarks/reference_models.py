"""Train the small models that come with the project and export them to outputs/reference/models.

`python benchmarks/reference_models.py` takes about five minutes of one core, or seconds if the store has the runs.
Run it again when a config's fields or a family's version change: explorers show these models before any training.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from anm_nb import store
from anm_nb.analysis.kept import kept_root
from anm_nb.cli import export
from anm_nb.energy.negatives import get_negatives
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.train import RankingConfig

INVERSE = {
    "task": "inverse", "size": 4, "width": 18, "batch": 128, "steps": 2000, "lr": 8e-3, "ema_decay": 0.99, "records": 3,
    "dev_examples": 96, "keep_weights": True, "seeds": [0],
}  # fmt: skip
BOARD = {
    "task": "sudoku", "size": 4, "task_options": {"pool": 2000}, "network": "mlp", "width": 48, "batch": 64,
    "steps": 3000, "lr": 4e-3, "ema_decay": 0.99, "records": 6, "dev_examples": 64, "seeds": [0],
}  # fmt: skip
ROUTING = {
    "task": "hinted_sort", "size": 10, "width": 32, "n_heads": 4, "max_inner_iters": 6, "hrm_period": 3, "epochs": 24,
    "warmup_epochs": 1, "entropy_every": 2, "encoder_lr": 2e-3, "controller_lr": 1e-3, "train_samples": 1000,
    "dev_samples": 60, "test_samples": 50, "seeds": [1],
}  # fmt: skip

configs = [EnergyConfig(**INVERSE, negatives=get_negatives(name)) for name in ("stock", "anm_orthogonal")]
runs = [store.get_or_train(config) for config in (*configs, EnergyConfig(**BOARD), RankingConfig(**ROUTING))]
folder = kept_root() / "models"
shutil.rmtree(folder, ignore_errors=True)
with tempfile.TemporaryDirectory() as place:
    export([run.key for run in runs], archive := Path(place) / "models.zip")
    shutil.unpack_archive(archive, folder)
for path in sorted(folder.iterdir()):
    print(path.name, sum(file.stat().st_size for file in path.iterdir()) // 1024, "KiB")
