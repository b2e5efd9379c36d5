"""How many test images are uncertain."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomalib.data import ImageBatch

    from anomalib_tiled.stages.uncertain import Band


class Verdicts:
    """Counts uncertain test images by their true labels.

    Args:
        uncertain: Scores of uncertain images; ``None`` if no image is.
    """

    def __init__(self, uncertain: Band | None) -> None:
        self.uncertain = uncertain
        self._images: Counter[str] = Counter()

    def update(self, batch: ImageBatch) -> None:
        """Count images with predictions."""
        if self.uncertain is None or batch.pred_score is None:
            return
        labels = [None] * len(batch) if batch.gt_label is None else batch.gt_label.tolist()
        for score, label in zip(batch.pred_score.tolist(), labels, strict=True):
            self._images["all"] += 1
            if self.uncertain.holds(score):
                self._images["unknown" if label is None else "anomalous" if label else "normal"] += 1

    def merge(self, other: Verdicts) -> None:
        """Add the counts of the next images; those stay unchanged."""
        self._images += other._images

    def note(self) -> str:
        """Say in sentences how many images are uncertain; empty if no image can be."""
        if self.uncertain is None:
            return ""
        kinds = [kind for kind in ("anomalous", "normal", "unknown") if self._images[kind]]
        number = sum(self._images[kind] for kind in kinds)
        each = ", ".join(f"{self._images[kind]} {'without a label' if kind == 'unknown' else kind}" for kind in kinds)
        limits = f"above {self.uncertain.lower:.6g} and up to {self.uncertain.upper:.6g}"
        note = f"{number} of {self._images['all']} test images are uncertain, with scores {limits}"
        return f"{note}: {each}. Metrics count them by pred_label." if each else f"{note}."
