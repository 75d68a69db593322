"""The campaign's log: all its processes write each line at once to the terminal and to `log.txt`."""

from __future__ import annotations

import time
import traceback
from pathlib import Path


class Log:
    """Writes lines with the time of day; `failure` adds the traceback of the exception being handled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {text}"
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def failure(self, what: str) -> None:
        """Log what failed, with the traceback."""
        self(f"FAILED {what}\n{traceback.format_exc().rstrip()}")
