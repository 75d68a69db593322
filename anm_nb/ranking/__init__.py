"""Iterative ranking: Pointer-over-Heads with an HRM controller, its losses, training and comparators."""
