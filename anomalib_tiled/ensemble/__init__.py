"""The ensemble: all tile models and the stages as one model."""
