"""The command line: text to settings to commands; the only place that prints errors."""
