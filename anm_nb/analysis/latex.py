"""Tables for a paper: the Markdown tables of docs/results.md, as LaTeX to `\\input`, so that the two cannot differ."""

from __future__ import annotations

import re
from collections.abc import Sequence

from anm_nb.analysis.figures import label
from anm_nb.config import ParameterError

NEEDS = r"% needs \usepackage{booktabs,tabularx}; fits \linewidth: of table* where the page has two columns"
LINE = 75  # characters of footnotesize on the narrowest page
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_"},
}
# What every LaTeX sets without a further package.
SIGNS = {
    "–": "--",
    "—": "---",
    "’": "'",
    "…": r"\ldots{}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": "$-$",
    "·": r"$\cdot$",
    "°": r"$^{\circ}$",
    "²": "$^{2}$",
    "³": "$^{3}$",
    "⁺": "$^{+}$",
    "⁻": "$^{-}$",
    "→": r"$\to$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "≠": r"$\neq$",
    "∝": r"$\propto$",
    "∞": r"$\infty$",
    "⊥": r"$\perp$",
    "∇": r"$\nabla$",
    "Σ": r"$\Sigma$",
    "Δ": r"$\Delta$",
    **{
        sign: f"$\\{name}$"
        for sign, name in {
            "α": "alpha",
            "β": "beta",
            "γ": "gamma",
            "δ": "delta",
            "ε": "varepsilon",
            "θ": "theta",
            "λ": "lambda",
            "μ": "mu",
            "π": "pi",
            "ρ": "rho",
            "σ": "sigma",
            "τ": "tau",
        }.items()
    },
}
NEGATIVE = re.compile(r"(?<![\w.)])-(?=\.?\d)")  # a minus sign, and not the dash of a compound or of a range


def escape(text: str) -> str:
    """Plain text as LaTeX sets it: special characters escaped, Greek letters and signs in mathematics.

    Raises `ParameterError` for a character that is not ASCII and has no LaTeX here.
    """
    return "".join(map(_escaped, NEGATIVE.sub("−", text)))


def _escaped(character: str) -> str:
    if character in SPECIAL or character in SIGNS:
        return SPECIAL.get(character) or SIGNS[character]
    if not (character.isascii() and character.isprintable()):
        raise ParameterError(f"no LaTeX for {character!r} (U+{ord(character):04X}); `latex.SIGNS` has what there is")
    return character


def tables(markdown: str) -> str:
    """Each Markdown table of a text as a `tabularx` with booktabs rules, one below the other; other text is left out.

    Names in backquotes are methods', and read as figures call them. Raises `ParameterError` where there is no table, a
    row has not as many cells as the head, or a character has no LaTeX.
    """
    found = [block.splitlines() for block in re.split(r"\n\s*\n", markdown.strip()) if block.startswith("|")]
    if not found:
        raise ParameterError("no Markdown table in the text: there is nothing to set")
    return "\n".join([NEEDS, *("\n\\par\\medskip\n".join(map(_tabular, found)).splitlines()), ""])


def _tabular(lines: Sequence[str]) -> str:
    head, _, *rows = ([cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines)
    for row in rows:
        if len(row) != len(head):
            raise ParameterError(f"a row of {len(row)} cells under a head of {len(head)}: {' | '.join(row)}")
    shares = [_share(cells) for cells in zip(head, *rows, strict=True)]
    spare = max(LINE - sum(word for word, _ in shares), 0) / max(sum(cell - word for word, cell in shares), 1)
    widths = [word + min(spare, 1) * (cell - word) for word, cell in shares]
    even = sum(widths) / len(widths)
    columns = "".join(rf">{{\hsize={width / even:.3f}\hsize\raggedright\arraybackslash}}X" for width in widths)
    return "\n".join(
        [
            rf"\begin{{tabularx}}{{\linewidth}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            _row(head),
            r"\midrule",
            *map(_row, rows),
            r"\bottomrule",
            r"\end{tabularx}",
        ]
    )


def _share(cells: Sequence[str]) -> tuple[int, int]:
    """What a column needs at least, for its longest word, and at most, for its longest cell; in characters.

    Widths between the two, as room allows, are how browsers lay out tables (CSS 2.2, section 17.5.2.2).
    """
    word = 1 + max(len(word) for cell in cells for word in cell.split() or [""])
    return word, max(word, *map(len, cells))


def _row(cells: Sequence[str]) -> str:
    # a row that begins with a bracket would be read as the optional argument of the \\ above it
    return "{}" * cells[0].startswith("[") + " & ".join(map(_cell, cells)) + r" \\"


def _cell(text: str) -> str:
    return escape(re.sub("`(.*?)`", lambda name: label(name[1]), text))
