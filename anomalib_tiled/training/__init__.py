"""Training: one model per tile location."""
