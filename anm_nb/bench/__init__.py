"""What work costs: timed beside plain references and the machine's own rate, counted, and compared with targets."""
