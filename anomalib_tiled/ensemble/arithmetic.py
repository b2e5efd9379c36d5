"""How the models of a run compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomalib_tiled.config.settings import FLOAT32
from anomalib_tiled.ensemble.accelerated import accelerate
from anomalib_tiled.ensemble.gaussians import keep_as_anomalib
from anomalib_tiled.ensemble.half_precision import compute_in

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule


@dataclass(frozen=True)
class Arithmetic:
    """How models compute.

    Args:
        faster: Whether parts of the models compute faster than anomalib's own.
        precision: Precision of what they compute: ``float32``, ``bfloat16`` or ``float16``.
    """

    faster: bool = True
    precision: str = FLOAT32

    def adapt(self, model: AnomalibModule) -> None:
        """Let a model that was just made or loaded compute in this way.

        Args:
            model: The model.
        """
        if self.faster:
            accelerate(model)
        else:
            keep_as_anomalib(model)
        compute_in(model, self.precision)
