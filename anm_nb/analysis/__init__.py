"""Finished runs in, understanding out: tables, statistics, verdicts, figures. Reads runs, never live trainers."""

VERDICT_MIME = "application/vnd.anm-nb.verdict+json"  # how a verdict is found again in a notebook's output
