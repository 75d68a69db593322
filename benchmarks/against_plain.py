"""Time the package against plain references of the same mathematics, alternating, in one process with one thread.

    python benchmarks/against_plain.py [--only NAME …] [--seconds 8] [--json FILE] [--tiny]

One row per pair of `pairs.py`: median seconds of both, the package's speed-up (geometric mean over rounds, 95 %
t-interval), and operations in matrix products. On a busy machine the ratios hold, because both run in each round; the
seconds do not. Takes about five minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pairs import PAIRS, Pair
from torch.utils.benchmark import Timer

from anm_nb.analysis.stats import mean_interval
from anm_nb.files import checkout_state, describe_environment, replace_whole
from anm_nb.training.run import counted_flops

ROUNDS = (5, 20)  # least and most
SHORTEST = 0.05  # seconds; shorter work is repeated within a round


def main() -> None:
    """Measure the requested pairs, print a table, and write the results to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PAIRS), metavar="NAME", help=", ".join(PAIRS))
    parser.add_argument("--seconds", type=float, default=8.0, help="of rounds per pair, at least five rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all results, with commit and machine")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to test the script; the numbers mean little")
    args = parser.parse_args()
    environment = describe_environment("cpu", threads=1) | checkout_state() | {"load_average": os.getloadavg()}
    results = {}
    torch.set_num_threads(1)
    for name in args.only or PAIRS:
        title, make = PAIRS[name]
        print(f"{title} …", flush=True)
        results[name] = measured(make(args.tiny), args.seconds)
    print(table(results).to_string(index=False))
    if args.json:
        kept = {"environment": environment, "tiny": args.tiny, "results": results}
        replace_whole(args.json, (json.dumps(kept, indent=1) + "\n").encode())
        print(f"written: {args.json}")


def measured(pair: Pair, seconds: float) -> dict[str, Any]:
    """Medians, speed-up and operations of a pair, from about this many seconds of rounds."""
    ours, plain = timed(pair.ours), timed(pair.plain)
    flops, plain_flops = counted_flops(pair.ours), counted_flops(pair.plain)
    began, rows = time.perf_counter(), []
    while len(rows) < ROUNDS[0] or (len(rows) < ROUNDS[1] and time.perf_counter() - began < seconds):
        if len(rows) % 2:
            rows.append((ours(), plain()))
        else:
            rows.append((plain(), ours())[::-1])
    of_ours, of_plain = np.array(rows).T
    speedup, low, high = np.exp(mean_interval(np.log(of_plain / of_ours)))
    return {
        "seconds": float(np.median(of_ours)),
        "plain_seconds": float(np.median(of_plain)),
        "speedup": float(speedup),
        "low": float(low),
        "high": float(high),
        "flops": flops,
        "plain_flops": plain_flops,
        "rounds": len(rows),
    }


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """A function that repeats the work often enough to time it, and returns the seconds of one repetition."""
    timer = Timer("work()", globals={"work": work}, num_threads=1)
    times = max(1, round(SHORTEST / timer.timeit(1).mean))
    return lambda: timer.timeit(times).mean


def table(results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """The results as a table of text."""
    rows = [
        {
            "work": PAIRS[name][0],
            "ours, ms": f"{1e3 * each['seconds']:.3g}",
            "plain, ms": f"{1e3 * each['plain_seconds']:.3g}",
            "times as fast [95 %]": f"{each['speedup']:.2f} [{each['low']:.2f}, {each['high']:.2f}]",
            "GFLOP": f"{each['flops'] / 1e9:.3g}" if each["flops"] else "–",
            "plain GFLOP": f"{each['plain_flops'] / 1e9:.3g}" if each["plain_flops"] else "–",
        }
        for name, each in results.items()
    ]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
