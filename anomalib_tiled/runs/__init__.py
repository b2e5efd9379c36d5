"""Runs: the run folder, its files, checkpoints, checksums, and what is done."""
