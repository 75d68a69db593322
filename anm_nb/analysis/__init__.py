"""Finished runs in, understanding out: tables, statistics, verdicts, figures. Reads runs, never live trainers."""
