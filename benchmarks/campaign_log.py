"""The campaign's log: each line to the terminal and to `log.txt`, at once, by whichever of its processes."""

from __future__ import annotations

import time
import traceback
from pathlib import Path


class Log:
    """Lines with the time of day; `failure` adds the traceback of the exception that is being handled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {text}"
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def failure(self, what: str) -> None:
        """Log what failed, and where."""
        self(f"FAILED {what}\n{traceback.format_exc().rstrip()}")
