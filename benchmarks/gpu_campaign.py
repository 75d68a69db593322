"""One command for a GPU that is available for a limited time: GPU tests, a table of steps, runs by priority, tables.

    python benchmarks/gpu_campaign.py --budget SECONDS --out FOLDER [--no-weights] [--commit ID]

In order: (a) `pytest -m gpu`; (b) steps.csv, the cost of a training step; (c) as many runs of params/sweeps/gpu.yaml
as time allows; (d) runs.csv, curves.parquet and the finished runs in runs_1.zip … runs_4.zip, each under 15 MiB.
FOLDER gets at most 8 files, including log.txt. Work that an earlier campaign left there is not repeated: rows of
steps.csv from the same card, torch and commit; finished runs, also those in the archives; and the steps up to the
checkpoints of unfinished runs, if the folder of --work (default: FOLDER/work) still exists.

Without a GPU all sizes are tiny, which only tests the campaign itself. It needs only torch and the package's light
dependencies. The work runs in a separate process, which is restarted after a failure, because an error can leave a GPU
in an unusable state.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from campaign_log import Log

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "params" / "sweeps" / "gpu.yaml"
TESTS_SHARE, TESTS_MOST = 0.2, 150.0  # share of the budget, and seconds
STEPS_SHARE = 0.35
EXPORT_SHARE, EXPORT_LEAST, EXPORT_MOST = 0.08, 6.0, 30.0  # reserved for the export: share of the budget, seconds
FAILED = 3  # exit status of the working process after a failure


def main() -> int:
    """Run the campaign, or, with --until, its work in this process."""
    args = _arguments()
    if args.until is not None:
        return work(args)
    started = time.time()
    args.out.mkdir(parents=True, exist_ok=True)
    args.work = (args.work or args.out / "work").resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    os.environ |= {"ANM_NB_OUTPUTS": str(args.work), "ANM_NB_SHAPES": "off", "PYTHONUNBUFFERED": "1"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    args.commit = args.commit or _commit()
    log, until = Log(args.out / "log.txt"), started + args.budget
    log(f"campaign of {args.budget:g} s, commit {args.commit or 'unknown'}, Python {sys.version.split()[0]}")
    if "tests" in args.parts:
        gpu_tests(args, min(TESTS_MOST, TESTS_SHARE * args.budget), log)
    attempted = args.work / "attempted.txt"
    attempted.unlink(missing_ok=True)
    reserve = min(EXPORT_MOST, max(EXPORT_LEAST, EXPORT_SHARE * args.budget))
    parts, exported = [part for part in ("steps", "runs", "export") if part in args.parts], False
    while parts and not exported and time.time() < until - reserve:
        before = attempted.stat().st_size if attempted.exists() else 0
        status = _worker(args, parts, until - reserve, until + 5, log)
        exported = status == 0
        if not exported and (attempted.stat().st_size if attempted.exists() else 0) == before:
            break  # it failed before starting anything, and would fail again
    if "export" in parts and not exported:
        exported = _worker(args, ["export"], until, until + 45, log) == 0
    log(f"campaign ended after {time.time() - started:.0f} s")
    return 0 if exported or "export" not in parts else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, help="seconds in all")
    parser.add_argument("--out", type=Path, required=True, help="folder of the log, the tables and the archives")
    parser.add_argument("--work", type=Path, help="folder of the run store and the checkpoints; default: OUT/work")
    parser.add_argument("--list", type=Path, default=LIST, help="runs by priority; default: params/sweeps/gpu.yaml")
    parser.add_argument("--no-weights", action="store_true", help="leave weights out of the archives")
    parser.add_argument("--commit", default="", help="of the code, if there is no git history")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, as without a GPU")
    parser.add_argument(
        "--parts", type=_parts, default=("tests", "steps", "runs", "export"), help="only some, separated by commas"
    )
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # Unix time; marks the working process
    args = parser.parse_args()
    if args.until is None and (args.budget is None or not args.budget > 0):
        parser.error(f"--budget {args.budget}: seconds, more than 0")
    if not args.list.is_file():
        parser.error(f"--list {args.list}: there is no such file")
    return args


def _parts(text: str) -> tuple[str, ...]:
    known, parts = ("tests", "steps", "runs", "export"), tuple(text.split(","))
    if unknown := [part for part in parts if part not in known]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: allowed are {', '.join(known)}")
    return parts


def _commit() -> str:
    """The commit of this checkout; a repository that merely surrounds a copy of the tree does not count."""
    from anm_nb.files import checkout_state

    return checkout_state()["commit"] or ""


def gpu_tests(args: argparse.Namespace, seconds: float, log: Log) -> None:
    """Run the tests that need a GPU; log their result and the end of their output."""
    note = args.work / "tests.json"
    if args.commit and note.exists() and json.loads(note.read_text()) == {"passed": args.commit}:
        log("tests: passed before at this commit")
        return
    files = [
        path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text("utf-8")
    ]
    if not files:
        log("tests: none is marked gpu")
        return
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "--durations=5"]
    log(f"tests: {len(files)} files, for at most {seconds:.0f} s")
    began = time.time()
    try:
        answer = subprocess.run(
            [*command, *map(str, files)],
            cwd=ROOT,
            timeout=seconds,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        status, output = str(answer.returncode), answer.stdout
    except subprocess.TimeoutExpired as error:
        status, output = "out of time", (error.stdout or b"").decode(errors="replace")
    except OSError as error:
        status, output = "not started", str(error)
    log(f"tests: status {status} after {time.time() - began:.0f} s\n" + "\n".join(output.splitlines()[-60:]))
    if status == "0" and " passed" in output and args.commit:
        note.write_text(json.dumps({"passed": args.commit}))


def _worker(args: argparse.Namespace, parts: list[str], until: float, killed_at: float, log: Log) -> int:
    """Run some parts in another process; return its exit status, or `FAILED` if it had to be killed."""
    command = [sys.executable, str(Path(__file__).resolve()), "--out", str(args.out), "--work", str(args.work)]
    command += ["--list", str(args.list), "--parts", ",".join(parts), "--until", str(until), "--commit", args.commit]
    command += [option for option, on in (("--no-weights", args.no_weights), ("--tiny", args.tiny)) if on]
    command += ["--budget", str(args.budget)]
    try:
        status = subprocess.run(command, timeout=max(1.0, killed_at - time.time()), check=False).returncode
    except subprocess.TimeoutExpired:
        log(f"{', '.join(parts)}: killed, because it did not end in time")
        return FAILED
    if status:
        log(f"{', '.join(parts)}: ended with status {status}")
    return status


def work(args: argparse.Namespace) -> int:
    """Run steps, runs and export in this process; return `FAILED` if a failure may have left the GPU unusable."""
    log = Log(args.out / "log.txt")
    try:
        import torch

        tiny = args.tiny or not torch.cuda.is_available()
        card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        log(f"{', '.join(args.parts)}: {card}, torch {torch.__version__}{', tiny' if tiny else ''}")
        until = min(args.until, time.time() + STEPS_SHARE * args.budget)
        if "steps" in args.parts and not measure_steps(args, tiny, card, until, log):
            return FAILED
        return train_and_export(args, tiny, log)
    except Exception:
        log.failure(", ".join(args.parts))
        return FAILED


def train_and_export(args: argparse.Namespace, tiny: bool, log: Log) -> int:
    """Train runs by priority, writing their tables after each stack, and write the archives."""
    from campaign_runs import plan, train, unpack
    from campaign_tables import write_archives, write_tables

    unpack(sorted(args.out.glob("runs_*.zip")), log)
    stacks = plan(args.list, tiny, log)
    for stack in stacks if "runs" in args.parts else ():
        outcome = train(stack, args.until - time.time(), lambda name: _attempt(args, name), log)
        if outcome != "kept":
            write_tables(stacks, args.out, args.commit, log)
        if outcome == "failed":
            return FAILED
    if "export" in args.parts:
        write_tables(stacks, args.out, args.commit, log)
        write_archives(stacks, args.out, not args.no_weights, log)
    return 0


def _attempt(args: argparse.Namespace, name: str) -> bool:
    """Note that this was attempted; return whether it was the first time, so that no failure repeats."""
    attempted = args.work / "attempted.txt"
    if attempted.exists() and name in attempted.read_text("utf-8").splitlines():
        return False
    with attempted.open("a", encoding="utf-8") as file:
        file.write(f"{name}\n")
    return True


def measure_steps(args: argparse.Namespace, tiny: bool, card: str, until: float, log: Log) -> bool:
    """Measure the missing rows of steps.csv, starting none after `until`; return False if one failed."""
    import pandas as pd
    import torch
    from campaign_steps import TINY_WINDOW_S, WINDOW_S, cases, clear_memory, measure, with_targets

    path = args.out / "steps.csv"
    rows: list[dict[str, Any]] = []
    if path.exists():
        rows = pd.read_csv(path, dtype={"commit": str}, keep_default_na=True).fillna({"commit": ""}).to_dict("records")
    where = {"card": card, "torch": torch.__version__, "commit": args.commit, "tiny": tiny}
    known = {row["case"] for row in rows if all(row[name] == value for name, value in where.items())}
    for case in cases(tiny):
        if case.name in known or not _attempt(args, case.name):
            continue
        if time.time() > until:
            log(f"no time left for step {case.name}")
            continue
        row = {"case": case.name, "family": case.family, "method": case.method, "seeds": case.seeds}
        row |= {"precision": case.precision, "graph": case.graph}
        try:
            config = case.config(tiny)
        except Exception as error:
            log(f"skipped step {case.name}: {type(error).__name__}: {error}")
            continue
        try:
            row |= measure(config, TINY_WINDOW_S if tiny else WINDOW_S)
        except Exception:
            log.failure(f"step {case.name}")
            return False
        finally:
            clear_memory()
        rows.append(row | where | {"measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        table = with_targets(rows)
        table.to_csv(path, index=False, float_format="%.5g")
        shown = ("ms", "replay_ms", "wall_ms", "share", "setup_s", "start_s", "peak_mib")
        values = ", ".join(f"{name} {row[name]:.3g}" for name in shown)
        log(f"step {case.name}: {values}, target {table['target_ms'].iloc[-1]:.3g}, met {table['met'].iloc[-1]}")
    return True


if __name__ == "__main__":
    sys.exit(main())
