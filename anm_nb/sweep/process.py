"""What runs in a case's own process: papermill, for as long as the sweep that started it lives."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

from anm_nb.sweep.cases import STOP_SECONDS


def main() -> None:
    """Run the notebook that the first line of the standard input names; what papermill raises ends the process."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    from papermill import execute_notebook

    execute_notebook(**request, kernel_name="python3", language="python", progress_bar=False)


def _end_with_the_sweep() -> None:
    """Wait for the end of the input, which is the end of whoever held its other side, however that came about."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)  # which closes the kernel
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
