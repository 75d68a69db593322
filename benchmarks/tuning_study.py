"""The tuning study of notebook 16, in one process on whatever device there is, within a given time.

    python benchmarks/tuning_study.py --budget SECONDS --out FOLDER [--task inverse] [--size 5] [--commit ID] [--tiny]

FOLDER gets a kept result, to be copied to outputs/reference/16_anm_verdict: metrics.parquet (curves on fresh seeds),
tuning.parquet (all runs on the tuning seeds), choices.parquet, reference_scores.parquet, provenance.json, and beside
them study.json and log.txt. FOLDER/work holds finished stacks and checkpoints, so that the same command goes on where
time was up (exit status 3). Only torch and the package's light dependencies are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from campaign_log import Log

ROOT = Path(__file__).resolve().parents[1]
UNFINISHED = 3
TINY: dict[str, Any] = {
    "size": 3,
    "width": 16,
    "batch": 16,
    "steps": 8,
    "methods": ("none", "anm_orthogonal"),
    "lrs": (0.01, 0.02),
    "tuning_seeds": (100, 101),
    "growth": 0,
    "seeds": (200, 201, 202),
    "records": 4,
    "dev_examples": 16,
    "test_examples": 16,
}


def main() -> int:
    """Run the study, or go on with it."""
    asked = _arguments()
    os.environ |= {"ANM_NB_SHAPES": "off", "PYTHONUNBUFFERED": "1"}
    sys.path.insert(0, str(ROOT))
    work = asked.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    import pandas as pd
    import torch

    from anm_nb import store
    from anm_nb.energy.tuning import Tuning, choices, confirm, confirmation, settings_of, tune
    from anm_nb.tasks.base import reference_scores
    from anm_nb.training import OutOfTime, time_limit

    log, started = Log(asked.out / "log.txt"), time.time()
    values = {"task": asked.task, "size": asked.size} | (TINY if asked.tiny else {})
    study = Tuning(**values | ({"methods": asked.methods} if asked.methods else {}))
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    log(f"{study.task}, size {study.size}, on {card}, torch {torch.__version__}, for {asked.budget:g} s")
    facts = partial(_provenance, asked, card, torch.__version__)
    (asked.out / "study.json").write_text(study.model_dump_json(indent=1) + "\n", encoding="utf-8")
    try:
        with time_limit(asked.budget):
            if asked.choices:  # of an earlier run of this study; nothing but the learning rates is tuned again
                chosen = pd.read_parquet(asked.choices)
            else:
                tuning = tune(study, work, log)
                tuning.to_parquet(asked.out / "tuning.parquet")
                chosen = choices(tuning)
            chosen.to_parquet(asked.out / "choices.parquet")
            log(f"chosen:\n{chosen.to_string()}")
            runs = confirmation(study, settings_of(chosen))
            confirmed = confirm(study, runs, work, log)
            if asked.choices:
                grid = study.model_copy(update={"n_options": 0, "growth": 0})
                tune(grid, work, log).to_parquet(asked.out / "tuning.parquet")
    except OutOfTime as error:
        log(f"goes on next time: {error}")
        return UNFINISHED
    confirmed.to_parquet(asked.out / "metrics.parquet")
    task = runs[0][1].make_task()
    reference_scores({study.task: task}, 2000, seed=0).to_parquet(asked.out / "reference_scores.parquet")
    kept = {
        named["method"]: {
            "key": store.run_key(config),
            "config": config.model_dump(mode="json"),
            "provenance": facts(time.time() - started),
        }
        for named, config in runs
    }
    text = json.dumps(kept, indent=1, sort_keys=True, ensure_ascii=False)
    (asked.out / "provenance.json").write_text(text + "\n", encoding="utf-8")
    last = confirmed.groupby(["method", "seed"], sort=False).last()
    shown = last.groupby("method", sort=False)[["step", "multiply_adds", "step_ms", "dev", "test_same"]].mean()
    log(f"confirmed:\n{shown.to_string()}")
    log(f"finished after {time.time() - started:.0f} s")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, required=True, help="seconds of training")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables and the log")
    parser.add_argument("--task", default="inverse", help="inverse, addition or lowrank")
    parser.add_argument("--size", type=int, default=5, help="side of the matrices")
    parser.add_argument("--methods", type=lambda text: tuple(text.split(",")), help="some of METHODS, by comma")
    parser.add_argument("--choices", type=Path, help="choices.parquet of an earlier run: only confirm these")
    parser.add_argument("--commit", default="", help="of the code, where there is no git history to ask")
    parser.add_argument("--tiny", action="store_true", help="a few steps of a small network: shows that it works")
    return parser.parse_args()


def _provenance(asked: argparse.Namespace, card: str, version: str, seconds: float) -> dict[str, Any]:
    """What `store` keeps of a run, as far as one process can say it of all of them."""
    commit = asked.commit
    if not commit:
        from anm_nb.provenance import checkout_state

        commit = checkout_state()["commit"] or ""
    return {
        "command": " ".join(["tuning_study.py", *(Path(word).name for word in sys.argv[1:])]),
        "commit": commit,
        "device": card,
        "versions": {"torch": version, "python": sys.version.split()[0]},
        "wall_seconds": round(seconds, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


if __name__ == "__main__":
    sys.exit(main())
