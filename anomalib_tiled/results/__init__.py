"""Results: measurements, tables, pictures and logs."""
