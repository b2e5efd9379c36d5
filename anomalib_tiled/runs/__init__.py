"""Runs: the run folder, its files, checkpoints, checksums, and which tiles are done."""
