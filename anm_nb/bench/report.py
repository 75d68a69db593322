"""The bench as tables: each workload, and each target with what was reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anm_nb.bench.results import GPU, NO_GPU, TITLES, Bench
from anm_nb.bench.workloads import WORKLOADS

WORKLOAD_COLUMNS = ("workload", "time", "GFLOP", "share of the machine's rate", "peak memory", "plain", "speed-up")
TARGET_COLUMNS = ("workload", "target", "measured", "met")
# Timed once, not by this bench: a training step of each in turn, in CPU time.
OVER_PUBLIC = "one process and one thread each, in turn, 1.05× [0.99, 1.11] the public implementation"


@dataclass(frozen=True)
class Target:
    """One target, what was measured in the same words, and whether it is met; None where it was not measured."""

    workload: str
    target: str
    measured: str
    met: bool | None

    def cells(self) -> tuple[str, ...]:
        """The row of a table."""
        return self.workload, self.target, self.measured, {True: "yes", False: "no", None: "–"}[self.met]


def workload_rows(bench: Bench) -> list[tuple[str, ...]]:
    """A row for each workload of the bench: one line where it was not measured."""
    rows = []
    for name in WORKLOADS:
        found = bench.measurement(name)
        if found is not None:
            rows.append((TITLES[name], *_figures(found)))
        elif name in bench.results:
            rows.append((TITLES[name], "not measured", *[""] * (len(WORKLOAD_COLUMNS) - 2)))
    return rows


def _figures(found: dict[str, Any]) -> tuple[str, ...]:
    share = "–" if found["share"] is None else f"{found['share']:.0%} of {found['rate']:.0f} GFLOP/s"
    return (
        shown_seconds(found["seconds"]),
        f"{found['flops'] / 1e9:.3g}" if found["flops"] else "–",
        share,
        f"{found['peak_mib']:.0f} MiB",
        shown_seconds(found["plain_seconds"]) + (f", {found['plain_flops'] / 1e9:.3g} GFLOP" if found["flops"] else ""),
        f"{found['speedup']:.2f}×",
    )


def shown_seconds(seconds: float) -> str:
    """A time with three digits, in ms, s, min or h."""
    for unit, size, limit in (("ms", 1e-3, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


def targets(bench: Bench) -> list[Target]:
    """Every target of the project, whether it was measured or not."""
    return [
        *_of_two_seeds(bench),
        _of_ired(bench),
        _of_mining(bench),
        *_of_grid(bench),
        *_of_gpu(bench),
        *_of_memory(bench),
    ]


def _unmeasured(bench: Bench, name: str, workload: str, target: str) -> Target:
    why = bench.results.get(name, {}).get("not_measured", "not asked for")
    return Target(workload, target, f"not measured: {why}", None)


def _of_two_seeds(bench: Bench) -> list[Target]:
    name, found = "ranking_two_seeds", bench.measurement("ranking_two_seeds")
    workload = "ranking, 12 iterations, 2 cores, two seeds in two processes"
    rate, times = "≥ 50 % of the matrix-product rate", "≥ 3× the plain reference"
    if found is None:
        return [_unmeasured(bench, name, workload, target) for target in (rate, times)]
    plain_share = found["plain_flops"] / 1e9 / found["plain_seconds"] / found["rate"]
    needed = 3 * found["flops"] / 1e9 / found["plain_seconds"] / found["rate"]
    speedup = (
        f"{found['speedup']:.2f}× (plain: one process of two threads, one seed after the other, the same operations at "
        f"{plain_share:.0%} of the rate, so that 3× would take {needed:.0%} of it); {OVER_PUBLIC}"
    )
    return [
        Target(workload, rate, f"{found['share']:.0%}", found["share"] >= 0.5),
        Target(workload, times, speedup, found["speedup"] >= 3),
    ]


def _of_ired(bench: Bench) -> Target:
    workload, target = "IRED step, 20×20, batch 2048, landscape supervision", "≤ 0.55× the plain reference's time"
    found = bench.measurement("ired_stock")
    if found is None:
        return _unmeasured(bench, "ired_stock", workload, target)
    operations = found["flops"] / found["plain_flops"]
    return Target(
        workload, target, f"{1 / found['speedup']:.2f}× (FLOPs: {operations:.2f}×)", 1 / found["speedup"] <= 0.55
    )


def _of_mining(bench: Bench) -> Target:
    """Both times in matrix products of their own rounds, as the two were measured one after the other."""
    target = "≤ 2× the `stock` step"
    mined, stock = bench.measurement("ired_anm"), bench.measurement("ired_stock")
    if mined is None or stock is None:
        return _unmeasured(bench, "ired_anm" if mined is None else "ired_stock", "`anm` step", target)
    ratio = mined["flops"] / mined["share"] / (stock["flops"] / stock["share"])
    return Target("`anm` step", target, f"{ratio:.2f}× (FLOPs: {mined['flops'] / stock['flops']:.2f}×)", ratio <= 2)


def _of_grid(bench: Bench) -> list[Target]:
    whole = "whole HRM grid, 2 cores, projected from one full config", "under 4 h"
    early = "the same, with early stopping at the ceiling, measured", "under 20 min"
    found, trained = bench.measurement("grid"), bench.measurement("grid_to_ceiling")
    if found is None:
        rows = [_unmeasured(bench, "grid", *whole)]
    else:
        shown = f"{found['hours']:.2f} h ({found['configs']} configs, {found['runs']} runs)"
        rows = [Target(*whole, shown, found["hours"] < 4)]
    if trained is None:
        return [*rows, _unmeasured(bench, "grid_to_ceiling", *early)]
    shown = (
        f"{trained['minutes']:.1f} min ({trained['reached']} of {trained['runs']} runs at τ ≥ {trained['score']}, "
        f"after {trained['epochs_a_run']:.1f} epochs on average; {trained['processes']} at a time)"
    )
    return [*rows, Target(*early, shown, trained["minutes"] < 20)]


def _of_gpu(bench: Bench) -> list[Target]:
    grid, paper = (bench.measurement(name) for name in GPU)
    rows = []
    for_grid = "the same grid on one H100", "under 2 min"
    for_paper = "one IRED paper run, 50k steps, H100", "under 2 min, ≥ 5× the plain reference on the same card"
    if grid is None:
        rows.append(_unmeasured(bench, "gpu_grid", *for_grid))
    else:
        shown = f"{shown_seconds(3600 * grid['hours'])}, projected, {grid['at_a_time']} seeds stacked, {grid['device']}"
        rows.append(Target(*for_grid, shown, grid["hours"] * 60 < 2))
    if paper is None:
        rows.append(_unmeasured(bench, "gpu_paper_run", *for_paper))
    else:
        met = paper["run_seconds"] < 120 and paper["speedup"] >= 5
        shown = f"{shown_seconds(paper['run_seconds'])}, {paper['speedup']:.2f}×, {paper['device']}"
        rows.append(Target(*for_paper, shown, met))
    return rows


LINEAR, FLAT = 0.02, 0.02  # deviation from a line, and growth an iteration, as shares of what one iteration keeps


def _of_memory(bench: Bench) -> list[Target]:
    workload = "memory that a ranking step keeps for backward, 1 … 16 iterations"
    wanted = "linear", "flat with `last` gradients"
    found = bench.measurement("memory")
    if found is None:
        return [_unmeasured(bench, "memory", workload, target) for target in wanted]
    full, last = found["growth"]["full"], found["growth"]["last"]
    one = full["mib_an_iteration"]
    deviation = full["largest_deviation"] / max(found["mib"]["full"].values())
    line = f"{full['mib_at_none']:.1f} + {one:.2f} MiB an iteration, to {deviation:.1%}"
    flat = f"{last['mib_at_none']:.1f} + {last['mib_an_iteration']:.2f} MiB an iteration"
    return [
        Target(workload, wanted[0], line, deviation <= LINEAR),
        Target(workload, wanted[1], flat, last["mib_an_iteration"] <= FLAT * one),
    ]


def markdown(bench: Bench) -> str:
    """Both tables, and what they were measured on, for README."""
    return "\n\n".join(
        [
            markdown_table(TARGET_COLUMNS, [target.cells() for target in targets(bench)]),
            markdown_table(WORKLOAD_COLUMNS, workload_rows(bench)),
            measured_on(bench),
        ]
    )


BUSY = 0.5  # load before the bench from which a machine counts as busy


def measured_on(bench: Bench) -> str:
    """Machine, versions, commit and date, and a warning where the machine was busy with something else."""
    about = bench.environment
    dirty = " with changes" if about["dirty"] else ""
    load = about["load_average"][0]
    where = (
        f"{about['cpu']}, {about['cpu_count']} cores, torch {about['versions']['torch']}, "
        f"commit {(about['commit'] or 'none')[:8]}{dirty}, {about['started']}; load before the bench {load:.1f}."
    )
    if load < BUSY:
        return where
    return (
        f"{where} **The machine was busy:** ratios within one process hold, as all in it take turns; seconds, the "
        "projection made from them, and what needs both cores do not, and want `anm-nb bench --keep` on a quiet one."
    )


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows))


def no_gpu(bench: Bench) -> bool:
    """Whether a row of the bench waits for a GPU."""
    return any(result.get("not_measured") == NO_GPU for result in bench.results.values())
