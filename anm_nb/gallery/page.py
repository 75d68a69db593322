"""The page over the cards: the project's two questions first, then the cards by what their notebooks are about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from anm_nb.gallery.cards import STATES, Card, tally
from anm_nb.gallery.units import duration, memory

INDEX_FILE = "index.html"
ANALYSIS = 3  # the tens of the notebooks that weigh what the others counted
TABLES_OPEN = 12  # a question's table of at most so many notebooks is open at first
VERDICTS_OPEN = 4  # of a card with more, the others are folded
GROUPS = {  # by the tens of the notebooks' numbers
    0: ("foundations", "Foundations"),
    1: ("mining", "Adversarial negative mining"),
    2: ("routing", "Routed iteration"),
    ANALYSIS: ("analysis", "Analysis"),
    4: ("interactive", "Interactive"),
}
ELSE = ("others", "Other notebooks")
QUESTIONS = {
    1: "Does mining hard negatives improve the energy landscape?",
    2: "Does HRM-style routed iteration rank better than matched baselines?",
}


@dataclass(frozen=True)
class Group:
    """Cards under one heading; `anchor` is what ids in the page call it."""

    anchor: str
    title: str
    cards: tuple[Card, ...]


def counted(cards: Iterable[Card]) -> Counter[str]:
    """How many of the cards' verdicts are in each state."""
    return Counter(verdict.state for card in cards for verdict in card.verdicts)


def groups(cards: Sequence[Card]) -> list[Group]:
    """The cards by the tens of their numbers, in the numbers' order; those of no group come last."""
    found = {tens: tuple(card for card in cards if card.tens == tens) for tens in GROUPS}
    rest = tuple(card for card in cards if card.tens not in GROUPS)
    every = [Group(*GROUPS[tens], members) for tens, members in found.items()] + [Group(*ELSE, rest)]
    return [group for group in every if group.cards]


def questions(cards: Sequence[Card]) -> list[Group]:
    """The project's two questions, each with the cards of the notebooks that ask it, if there are any."""
    return [
        Group(GROUPS[tens][0], question, tuple(card for card in cards if card.tens == tens))
        for tens, question in QUESTIONS.items()
    ]


def write_index(folder: Path, cards: Sequence[Card]) -> Path:
    """Write the page over the cards into the folder, in one step; returns its path."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from anm_nb.files import replace_whole

    templates = Environment(
        loader=PackageLoader("anm_nb"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"duration": duration, "memory": memory, "counted": counted, "tally": tally}
    page = templates.get_template("gallery.html.j2").render(
        groups=groups(cards),
        questions=questions(cards),
        weighing=[card for card in cards if card.tens == ANALYSIS],
        states=STATES,
        tables_open=TABLES_OPEN,
        verdicts_open=VERDICTS_OPEN,
        made=datetime.now().astimezone(),
    )
    replace_whole(folder / INDEX_FILE, page.encode())
    return folder / INDEX_FILE
