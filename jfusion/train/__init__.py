"""Training: one loop for every system, its run folder, and the optimiser."""
