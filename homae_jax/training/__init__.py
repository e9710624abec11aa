"""State, optimiser, step, checkpoints and device parallelism."""
