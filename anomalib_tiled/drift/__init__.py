"""How new images differ from the normal images that a run was calibrated with."""
