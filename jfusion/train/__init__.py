"""Training: its options, the set-up of a run, the loop of every system, and the optimizer."""
