"""One page that shows a run: scores, thresholds, images, places, and how it was made."""
