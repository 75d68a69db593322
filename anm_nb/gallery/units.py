"""Times and sizes as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds as a person reads them: `4.2 s`, `31 s`, `2 min 05 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def memory(mib: float) -> str:
    """MiB as a person reads them: `412 MiB`, `1.8 GiB`."""
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"
