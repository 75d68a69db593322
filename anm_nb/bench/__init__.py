"""What work costs: timed, counted and compared."""
