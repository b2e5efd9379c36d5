"""Results: predictions, regions, tables, pictures and logs."""
