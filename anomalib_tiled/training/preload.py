"""Imports for training a tile, without their warnings, in the process that workers are forked from."""

from __future__ import annotations

import atexit
import gc
from importlib import import_module

from anomalib_tiled.system.allocation import imports_kept_apart, keep_freed_memory
from anomalib_tiled.system.import_warnings import without_known_warnings

keep_freed_memory()
with without_known_warnings(), imports_kept_apart():
    import_module("anomalib_tiled.training.train_tile")
    import_module("anomalib_tiled.training.stored_predictions")
atexit.register(gc.unfreeze)  # otherwise some packages complain when this process ends
