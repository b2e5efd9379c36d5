"""Results: metrics, regions, predictions, pictures and tables."""
