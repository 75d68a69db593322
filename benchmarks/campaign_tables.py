"""A campaign's results: tidy tables of its runs, and the runs themselves in archives of limited size."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from campaign_log import Log
from campaign_runs import Stack, is_finished
from safetensors.torch import save
from torch import Tensor

from anm_nb import store
from anm_nb.training.checkpoint import good_checkpoints

ARCHIVES = 4  # with log.txt, steps.csv, runs.csv and curves.parquet, 8 files in all
ARCHIVE_BYTES = 14 * 2**20
ARRAY_BYTES = 2**18  # larger arrays of the trace are not exported
FIELDS = ("task", "size", "width", "batch", "precision", "max_inner_iters", "hrm_period", "temperature")
FIELDS += ("entropy_weight", "lr", "encoder_lr")


def labels(name: str, config: Any) -> dict[str, Any]:
    """The columns that identify a run."""
    method = getattr(config, "method", None) or getattr(config, "routing", None)
    values = {"name": name, "family": getattr(config, "family", None), "method": method}
    return values | {field: getattr(config, field, None) for field in FIELDS} | {"steps": config.total_steps()}


def write_tables(stacks: Sequence[Stack], out: Path, commit: str, log: Log) -> None:
    """Write `runs.csv`, one row per seed of the finished runs, and `curves.parquet`, all records of all runs."""
    finals, curves = [], []
    for name, config in ((name, config) for stack in stacks for name, config in stack.configs.items()):
        try:
            key = store.run_key(config)
            identity = {"key": key} | labels(name, config)
            if is_finished(config):
                run = store.Run(store.store_root() / key)
                finals.append(_finals(run, identity, commit))
                curves.append(run.metrics.assign(**identity, finished=True))
            elif rows := _unfinished(store.partial_root() / key):
                curves.append(pd.DataFrame(rows).assign(**identity, finished=False))
        except Exception:
            log.failure(f"to tabulate {name}")
    if finals:
        _replace(out / "runs.csv", pd.concat(finals, ignore_index=True).to_csv(index=False).encode())
    if curves:
        _replace(out / "curves.parquet", pd.concat(curves, ignore_index=True).to_parquet(index=False))


def _finals(run: Any, identity: Mapping[str, Any], commit: str) -> pd.DataFrame:
    """The last row of each seed: final scores, the references' scores, seconds, and provenance."""
    last = run.metrics.groupby("seed").last().reset_index()
    shown = [
        name for name in last if "/" in name or name.startswith(("test_", "tau_", "mse", "selected_step", "loss_"))
    ]
    seconds = run.provenance.get("training_seconds") or {}
    table = last[["seed"]].assign(**identity, seconds=[(seconds.get(str(seed)) or [None])[-1] for seed in last["seed"]])
    environment = {"card": run.provenance["device"], "torch": run.provenance["versions"]["torch"]}
    environment |= {"commit": run.provenance.get("commit") or commit, "finished": run.provenance["finished"]}
    return pd.concat([table.assign(**environment), last[shown]], axis=1)


def _unfinished(folder: Path) -> list[dict[str, Any]]:
    """The records in an unfinished run's checkpoints."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("seed-*.pt")):
        rows += [row for state in good_checkpoints(path)[:1] for row in state["record"]["rows"]]
    return rows


def write_archives(stacks: Sequence[Stack], out: Path, weights: bool, log: Log) -> None:
    """Write the finished runs to `runs_1.zip` …, each run into one archive, in the order of the list.

    The evaluated weights are added in half precision while there is room: every run's first seed, then every second,
    and so on. The run's provenance names what was left out.
    """
    configs = [config for stack in stacks for config in stack.configs.values() if is_finished(config)]
    runs, sizes = [], {}
    for run in (store.Run(store.store_root() / store.run_key(config)) for config in configs):
        try:
            sizes[run.key] = sum(map(len, _contents(run, {}).values()))
            _ = run.weights  # may be corrupt too, and are read here first
            runs.append(run)
        except Exception:
            log.failure(f"to export run {run.key}")
    kept: dict[str, dict[str, Tensor]] = {run.key: {} for run in runs}
    full = sum(sizes.values()) + sum(
        _size(_half(run.weights, seed)) for run in runs for seed in run.config.seeds if weights
    )
    place, used = {}, [0] * min(ARCHIVES, 1 + full // ARCHIVE_BYTES)
    for run in runs:
        size, emptiest = sizes[run.key], used.index(min(used))
        if used[emptiest] + size > ARCHIVE_BYTES:
            log(f"no room in the archives for run {run.key}")
            continue
        place[run.key], used[emptiest] = emptiest, used[emptiest] + size
    runs = [run for run in runs if run.key in place]
    for turn in range(max((len(run.config.seeds) for run in runs), default=0) if weights else 0):
        for run in (run for run in runs if turn < len(run.config.seeds)):
            weights_of_seed = _half(run.weights, run.config.seeds[turn])
            if used[place[run.key]] + _size(weights_of_seed) <= ARCHIVE_BYTES:
                kept[run.key] |= weights_of_seed
                used[place[run.key]] += _size(weights_of_seed)
    for archive in range(ARCHIVES):
        inside = [run for run in runs if place[run.key] == archive]
        path = out / f"runs_{archive + 1}.zip"
        if not inside:
            path.unlink(missing_ok=True)
            continue
        _write_archive(path, {run: _contents(run, kept[run.key]) for run in inside})
        seeds = sum(len({name.split(".")[0] for name in kept[run.key]}) for run in inside)
        log(f"{path.name}: {len(inside)} runs, weights of {seeds} seeds, {path.stat().st_size / 2**20:.1f} MiB")


def _half(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """One seed's selected weights, or its averaged ones without a selection, in half precision."""
    for kind in ("selected", "averaged"):
        if found := {name: each for name, each in weights.items() if name.startswith(f"seed{seed}.{kind}.")}:
            return {name: each.half() if each.is_floating_point() else each for name, each in found.items()}
    return {}


def _size(weights: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes + 256 for tensor in weights.values())  # with the file's entry for each tensor


def _contents(run: Any, weights: Mapping[str, Tensor]) -> dict[str, bytes]:
    """The files of a run as exported, by name."""
    trace = {name: each for name, each in run.trace.items() if each.nbytes <= ARRAY_BYTES}
    behind = [*sorted(run.trace.keys() - trace.keys()), *([] if weights else ["weights"])]
    provenance = run.provenance | {"export": {"weights": "float16" if weights else None, "left_out": behind}}
    return {name: run.file(name).read_bytes() for name in ("config.json", "metrics.parquet")} | {
        "trace.safetensors": save({name: each.contiguous() for name, each in trace.items()}),
        "checkpoint.safetensors": save(dict(weights)),
        "provenance.json": json.dumps(provenance, indent=1).encode(),
    }


def _write_archive(path: Path, runs: Mapping[Any, Mapping[str, bytes]]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for run, contents in runs.items():
            for name, data in contents.items():
                file.writestr(f"{run.key}/{name}", data)
            file.writestr(f"{run.key}/manifest.json", _manifest(run, contents))
    os.replace(partial, path)


def _manifest(run: Any, contents: Mapping[str, bytes]) -> bytes:
    """The run's manifest with the sizes and checksums of these files."""
    with tempfile.TemporaryDirectory() as folder:
        store.write_manifest(Path(folder), contents, run.manifest["identity"], run.summary)
        return Path(folder, "manifest.json").read_bytes()


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)
