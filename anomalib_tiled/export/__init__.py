"""Export: a run as files that need neither anomalib nor this package."""
