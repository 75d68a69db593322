"""Running the bench, and its results as they are kept: everything measured, and on what machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from anm_nb.bench import memory
from anm_nb.bench.grid import evaluation_seconds, projected, stacked_seconds, trained_to_ceiling
from anm_nb.bench.measure import Measured, measured
from anm_nb.bench.ranking import document_config
from anm_nb.bench.workloads import WORKLOADS, chosen
from anm_nb.config import ParameterError
from anm_nb.files import project_root
from anm_nb.provenance import checkout_state, describe_environment

NAME = "bench_cpu"
TITLES = {name: workload.title for name, workload in WORKLOADS.items()} | {
    "memory": "memory of a ranking step against iterations",
    "grid": "the document's whole grid, projected",
    "grid_to_ceiling": "the same grid, trained until each seed is at the ceiling",
    "gpu_grid": "the same grid on one GPU",
    "gpu_paper_run": "one IRED paper run on one GPU",
}
GPU = ("gpu_grid", "gpu_paper_run")
NO_GPU = "no GPU here"
LONG = ("grid_to_ceiling",)
LEFT_OUT = "a training of some minutes, with --only grid_to_ceiling or --keep"


@dataclass(frozen=True)
class Bench:
    """Results by name, as plain data: measurements, or {"not_measured": why}."""

    environment: dict[str, Any]
    results: dict[str, dict[str, Any]]

    def measurement(self, name: str) -> dict[str, Any] | None:
        """One of the results; None where it was not measured."""
        result = self.results.get(name)
        return None if result is None or "not_measured" in result else result

    @property
    def failed(self) -> list[str]:
        """What was tried and could not be measured."""
        return [
            name
            for name, result in self.results.items()
            if result.get("not_measured", NO_GPU) not in (NO_GPU, LEFT_OUT)
        ]


def run_bench(
    names: Iterable[str] = (),
    tiny: bool = False,
    seconds: float = 8.0,
    tell: Callable[[str], None] = lambda _: None,
    whole: bool = False,
) -> Bench:
    """Measure what is named, or everything, about `seconds` of rounds each; `tell` is told what comes next.

    What takes long is left out unless it is named, or the `whole` bench is asked for, or all is tiny. A workload that
    fails does not keep the others from being measured. Raises `ParameterError` for unknown names.
    """
    about = environment()
    results: dict[str, dict[str, Any]] = {}
    named = list(names)
    for name in chosen(named, TITLES):
        if name in LONG and not (name in named or whole or tiny):
            results[name] = {"not_measured": LEFT_OUT}
            continue
        tell(TITLES[name])
        try:
            results[name] = _result(name, tiny, seconds, results)
        except ParameterError:
            raise
        except Exception as error:
            results[name] = {"not_measured": f"{type(error).__name__}: {error}"}
    return Bench(about, results)


def _result(name: str, tiny: bool, seconds: float, so_far: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if name in GPU and not torch.cuda.is_available():
        return {"not_measured": NO_GPU}
    if name in WORKLOADS:
        return asdict(measured(name, "cpu", tiny, seconds, WORKLOADS[name].processes))
    if name == "memory":
        kept = memory.by_iterations(tiny)
        return {"mib": kept, "growth": {gradient: memory.growth(by_count) for gradient, by_count in kept.items()}}
    if name == "grid":
        known = so_far.get("ranking_two_seeds", {})
        two = Measured(**known) if "seconds" in known else measured("ranking_two_seeds", "cpu", tiny, seconds, 2)
        return projected(two.seconds, evaluation_seconds(tiny=tiny), two.processes)
    if name == "grid_to_ceiling":
        return trained_to_ceiling(tiny)
    if name == "gpu_grid":
        config = document_config(tiny, "cuda").changed(compiled=True)
        count = len(config.seeds)
        found = projected(stacked_seconds(config), count * evaluation_seconds("cuda", tiny), count)
        return found | {"device": torch.cuda.get_device_name()}
    step = measured("ired_stock", "cuda", tiny, seconds)
    return asdict(step) | {"run_seconds": 50_000 * step.seconds, "device": torch.cuda.get_device_name()}


def environment() -> dict[str, Any]:
    """Versions, commit, machine, and its load before the bench adds its own: the first thing to know of a time."""
    described = describe_environment("cpu") | checkout_state()
    kept = {name: described[name] for name in ("versions", "commit", "dirty", "cpu_count", "platform", "command")}
    return kept | {"started": described["finished"], "cpu": _cpu_model(), "load_average": list(os.getloadavg())}


def _cpu_model() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def kept_path() -> Path:
    """Where the kept result is."""
    return project_root() / "outputs" / "reference" / f"{NAME}.json"


def keep(bench: Bench) -> Path:
    """Write a result for README to quote. Raises `ParameterError` unless everything that can be measured here is."""
    no_gpu = {"not_measured": NO_GPU}
    missing = [name for name in TITLES if bench.measurement(name) is None and bench.results.get(name) != no_gpu]
    if missing:
        raise ParameterError(f"only a whole bench is kept; missing: {', '.join(missing)}")
    path = kept_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(bench), indent=1) + "\n", encoding="utf-8")
    return path


def load_bench(path: Path | None = None) -> Bench:
    """A kept result."""
    return Bench(**json.loads((path or kept_path()).read_text(encoding="utf-8")))
