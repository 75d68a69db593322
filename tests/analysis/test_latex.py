"""LaTeX of a table says what its Markdown says, and nothing in it is a command by accident."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anm_nb.analysis import latex
from anm_nb.config import ParameterError

# How LaTeX reads its own escapes ("LaTeX2e: An unofficial reference manual", section 23), longest first.
READ = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"$-$": "-",
} | {f"\\{character}": character for character in "{}&%$#_"}
TOKEN = re.compile("|".join(re.escape(each) for each in sorted(READ, key=len, reverse=True)) + r"|[^\\{}&%$#_~^]")


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_ascii_is_read_back_as_it_was(text):
    escaped = latex.escape(text)
    tokens = TOKEN.findall(escaped)
    assert "".join(tokens) == escaped  # nothing else that means something to LaTeX
    assert "".join(READ.get(token, token) for token in tokens) == text


def test_signs_are_set_in_mathematics():
    assert latex.escape("τ ≤ 0.5 ± 0.1, ANM ⊥ ε, 20×20 – 3 → 4") == (
        r"$\tau$ $\leq$ 0.5 $\pm$ 0.1, ANM $\perp$ $\varepsilon$, 20$\times$20 -- 3 $\to$ 4"
    )
    assert latex.escape("E⁻ − E⁺") == "E$^{-}$ $-$ E$^{+}$"


def test_a_minus_is_no_hyphen():
    assert latex.escape("-3.7 % [-6.5, -.5]") == r"$-$3.7 \% [$-$6.5, $-$.5]"
    assert latex.escape("held-out, k-1, 2-way, 10-20") == "held-out, k-1, 2-way, 10-20"


def test_every_sign_of_the_list_has_balanced_mathematics():
    for sign in latex.SIGNS.values():
        assert sign.count("$") in (0, 2)
        assert sign.count("{") == sign.count("}")


@pytest.mark.parametrize("text", ["\u4e2d", "a\tb", "\u2603"])
def test_a_character_without_latex_is_named(text):
    with pytest.raises(ParameterError, match=r"U\+"):
        latex.escape(text)


def test_a_table_has_its_rules_rows_and_the_names_of_the_figures():
    made = latex.tables("| method | τ [95 %] |\n|---|---|\n| `anm_orthogonal` | -0.5 |\n| [odd] | 1 |\n")
    assert made.splitlines()[2:] == [
        r"\toprule",
        r"method & $\tau$ [95 \%] \\",
        r"\midrule",
        r"ANM $\perp$ $\varepsilon$ & $-$0.5 \\",
        r"{}[odd] & 1 \\",
        r"\bottomrule",
        r"\end{tabularx}",
    ]
    assert made.startswith("%")
    assert made.endswith("\n")


def test_an_empty_cell_at_the_end_of_a_row_is_kept():
    made = latex.tables("| a | b | c |\n|---|---|---|\n| 1 |  |  |\n")
    assert "1 &  &  \\\\" in made


def shares(markdown):
    """The widths of a table's columns, in mean widths."""
    return [float(share) for share in re.findall(r"\\hsize=([\d.]+)\\hsize", latex.tables(markdown))]


def test_columns_share_the_whole_width():
    for columns in range(1, 9):
        cells = " | ".join("word " * (1 + 7 * column) for column in range(columns))
        rule = "---|" * columns
        found = shares(f"| {cells} |\n|{rule}\n| {cells} |")
        assert len(found) == columns
        assert sum(found) == pytest.approx(columns, abs=0.0005 * columns)  # as tabularx wants it
        assert found == sorted(found)


def test_a_column_is_as_wide_as_its_cells_where_there_is_room_and_never_narrower_than_its_words():
    assert shares("| 12345 | 123 567 901 3456 |\n|---|---|\n| 1 | 2 |") == pytest.approx(
        [2 * 6 / 22, 2 * 16 / 22], abs=1e-3
    )
    narrow, wide = shares(f"| {'x' * 45} | {'of words ' * 90} |\n|---|---|\n| 1 | 2 |")
    assert narrow / (narrow + wide) * latex.LINE == pytest.approx(45 + 1, rel=1e-3)


def test_every_table_of_a_text_is_set_and_what_is_no_table_is_left_out():
    one = "| a |\n|---|\n| 1 |"
    made = latex.tables(f"{one}\n\nwords\n\n{one}")
    assert made.count(r"\begin{tabularx}") == made.count(r"\end{tabularx}") == 2
    assert "words" not in made
    assert latex.tables(one).count(r"\medskip") == 0


@pytest.mark.parametrize(
    ("markdown", "says"), [("words", "no Markdown table"), ("| a | b |\n|---|---|\n| 1 |", "1 cells under a head of 2")]
)
def test_what_is_no_table_is_refused(markdown, says):
    with pytest.raises(ParameterError, match=says):
        latex.tables(markdown)
