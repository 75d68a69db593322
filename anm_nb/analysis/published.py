"""Published results that ours are shown beside: quoted, never measured here."""

from __future__ import annotations

# IRED (Du, Mao & Tenenbaum, ICML 2024, arXiv 2406.11179): MSE at 20×20 after 50,000 steps,
# to the four decimals that were printed: (task, split) → score
IRED_MSE = {
    ("addition", "same"): 0.0002,
    ("addition", "harder"): 0.0020,
    ("lowrank", "same"): 0.0174,
    ("lowrank", "harder"): 0.2054,
    ("inverse", "same"): 0.0095,
    ("inverse", "harder"): 0.2063,
}
