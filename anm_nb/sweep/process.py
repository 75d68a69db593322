"""The process of one case: papermill, which ends when the sweep that started it does.

The first line of the standard input is a JSON mapping of arguments for papermill's `execute_notebook`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import threading
import time
import traceback

STOP_SECONDS = 5.0  # how long an interrupted notebook may take to close its kernel before it is killed
DISK_FULL = 74  # the exit status where there was no room for the executed notebook


def main() -> None:
    """Run the case and exit: with 0, with `DISK_FULL`, or with 1 and a traceback on stderr."""
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    try:
        from papermill import execute_notebook

        execute_notebook(**request, kernel_name="python3", language="python", progress_bar=False)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the log is on the same disk
            traceback.print_exc()
        os._exit(DISK_FULL if _is_of_a_full_disk(error) else 1)


def _is_of_a_full_disk(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _end_with_the_sweep() -> None:
    """Wait for the end of the input, which is the end of whoever held its other side, however that came about."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # which closes the kernel
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
