"""The gallery: one self-contained page over a folder of executed notebooks, a card for each."""

from anm_nb.gallery.cards import FIGURE_TAG, STATES, Card, NothingToShow, Verdict, read_cards, tally
from anm_nb.gallery.page import INDEX_FILE, write_index
from anm_nb.gallery.units import duration, memory

__all__ = [
    "FIGURE_TAG",
    "INDEX_FILE",
    "STATES",
    "Card",
    "NothingToShow",
    "Verdict",
    "duration",
    "memory",
    "read_cards",
    "tally",
    "write_index",
]
