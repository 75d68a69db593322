"""What the command line says: texts from files as plain text, on any terminal."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

# ANSI sequences (ECMA-48, 5.4 and 5.6), other control characters, and what reverses the order of writing.
NOT_TEXT = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def plain(text: str) -> str:
    """The text without ANSI sequences and control characters; line ends and tabs stay."""
    return NOT_TEXT.sub("", text)


def printable(name: str) -> str:
    """A name out of a file, without control sequences, which a terminal would obey, and without line ends."""
    return "".join(each if each.isprintable() else "�" for each in plain(name)[:200])


def say(text: object, err: bool = False) -> None:
    """Print a line, whatever a file made of it, to stdout or stderr."""
    typer.echo(plain(str(text)), err=err)


def refuse(message: object, code: int = 2) -> NoReturn:
    """Print one error to stderr and end the command with an exit code."""
    say(f"anm-nb: {message}", err=True)
    raise typer.Exit(code)


def replace_what_cannot_be_shown() -> None:
    """Let stdout and stderr show `?` for a character that the terminal's encoding lacks, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def duration(seconds: float) -> str:
    """Seconds as a person reads them: `4.2 s`, `31 s`, `2 min 05 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def memory(mib: float) -> str:
    """MiB as a person reads them: `412 B`, `8 KiB`, `412 MiB`, `1.8 GiB`."""
    if mib < 1000 / 1024:
        return f"{mib * 2**20:.0f} B" if mib * 2**20 < 1000 else f"{mib * 1024:.0f} KiB"
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"


def console(**options: Any) -> Console:
    """A rich console to which texts are text: no markup, no emoji codes, no ANSI sequences of their own."""
    from rich.console import Console
    from rich.text import Text

    class Terminal(Console):
        def render_str(self, text: str, *, style: Any = "", justify: Any = None, overflow: Any = None, **_: Any) -> Any:
            return Text(plain(text), style=style, justify=justify, overflow=overflow)

    return Terminal(highlight=False, **options)
