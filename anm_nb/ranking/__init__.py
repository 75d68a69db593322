"""Ranking by iterating: Pointer-over-Heads with an HRM controller, and what it takes to judge it."""
