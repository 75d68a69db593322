"""How fast the project is: its workloads timed beside plain references, against the machine's own rate, and targets."""
