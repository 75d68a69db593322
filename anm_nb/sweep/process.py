"""What runs beside a sweep: a process with papermill loaded, which forks one of its own for each case.

Loading papermill takes longer than a small notebook does, so it is done once, not for every case. The parent is
`anm_nb.sweep.processes`: it writes a case as a line of JSON and reads back how that ended, `{"status", "peak_mib"}`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from importlib import import_module
from typing import Any

STOP_SECONDS = 5.0  # how long an interrupted notebook may take to close its kernel before it is killed


def main() -> None:
    """Run the cases that the standard input names, one after the other, until it ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is for the case; this process ends with its input
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)  # which no kernel inherits
    _load_papermill()
    for line in sys.stdin.buffer:
        case = os.fork()
        if case == 0:
            replies.close()
            _become(json.loads(line))
        _, status, usage = os.wait4(case, 0)
        ended = {"status": os.waitstatus_to_exitcode(status), "peak_mib": _mebibytes(usage)}
        try:
            replies.write(json.dumps(ended).encode() + b"\n")
        except BrokenPipeError:  # nobody is left to read it
            return


def _load_papermill() -> None:
    """Load it with what it would load, and compile, for every case's first notebook, which is its only one."""
    for module in ("papermill", "ipykernel.kernelspec", "IPython.core.ultratb"):
        import_module(module)
    import nbformat

    nbformat.validate(nbformat.v4.new_notebook())


def _become(case: Mapping[str, Any]) -> None:
    """Be the process of a case: its environment, its log, its notebook, and its end."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(case["env"])
    log = os.open(case["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    status = 1
    try:
        from papermill import execute_notebook

        execute_notebook(**case["request"], kernel_name="python3", language="python", progress_bar=False)
        status = 0
    except BaseException:  # said in the log, which the sweep reads
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # no further turn of the loop above is this process's


def _end_with_the_sweep() -> None:
    """Wait for the end of the input, which is the end of whoever held its other side, however that came about."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # which closes the kernel
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _mebibytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
