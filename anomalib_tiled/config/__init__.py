"""Configuration: settings, what they may name, and files that were written for anomalib itself."""
