"""Analysis of finished runs, never of live trainers: tables, statistics, verdicts and figures."""

VERDICT_MIME = "application/vnd.anm-nb.verdict+json"  # marks the verdicts in a notebook's output
