"""Stages of a factory for anomalib-tiled."""
