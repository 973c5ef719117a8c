"""Training: one step (engine), the loop (fit), and what survives a kill (checkpoint)."""
