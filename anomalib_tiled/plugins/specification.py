"""The hooks that a plugin may implement.

A plugin is a module with functions of these names, each marked with ``@hookimpl``, that is named in the entry-point
group ``anomalib_tiled`` of its package. A function may leave out arguments that it does not need.

``register_…`` returns classes. A class becomes a choice by its name, and only the configuration chooses: installing
a plugin changes nothing by itself. The built-in stages come in through the same hooks.

    from anomalib_tiled import SeamSmoother, hookimpl

    class Bilateral(SeamSmoother):
        ...

    @hookimpl
    def register_seam_smoothers():
        return [Bilateral]

The other hooks are told what has happened; what they return is ignored. One that raises is reported and not told
again, and the command goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

from anomalib_tiled.origin import GROUP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anomalib.data import ImageItem

    from anomalib_tiled.calibration import Calibration
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.stages.merging import Merger
    from anomalib_tiled.stages.normalization import Normalizer
    from anomalib_tiled.stages.scoring import Scorer
    from anomalib_tiled.stages.seams import SeamSmoother
    from anomalib_tiled.stages.thresholding import Thresholder
    from anomalib_tiled.workers import Workers

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Hooks:
    """One ``register_…`` for each kind of choice, and one hook for each thing that happens."""

    @hookspec
    def register_mergers(self) -> Sequence[type[Merger]]:  # type: ignore[empty-body]
        """Give classes that join tile maps to image maps."""

    @hookspec
    def register_scorers(self) -> Sequence[type[Scorer]]:  # type: ignore[empty-body]
        """Give classes that make an image score of tile scores."""

    @hookspec
    def register_seam_smoothers(self) -> Sequence[type[SeamSmoother]]:  # type: ignore[empty-body]
        """Give classes that smooth maps where tiles meet."""

    @hookspec
    def register_normalizers(self) -> Sequence[type[Normalizer]]:  # type: ignore[empty-body]
        """Give classes that bring scores to [0, 1]."""

    @hookspec
    def register_thresholders(self) -> Sequence[type[Thresholder]]:  # type: ignore[empty-body]
        """Give classes that find the score above which is anomalous."""

    @hookspec
    def register_workers(self) -> Sequence[type[Workers]]:  # type: ignore[empty-body]
        """Give classes that train tiles."""

    @hookspec
    def tile_trained(self, run_folder: Path, tile: Tile, seconds: float, epochs: int) -> None:
        """A tile was trained, and its checkpoint is in the run folder.

        Args:
            run_folder: Folder of the run; ``config.yaml`` in it is the effective configuration.
            tile: The tile location, with ``name``, ``rows`` and ``columns``.
            seconds: Time that the training took.
            epochs: Epochs that were trained.
        """

    @hookspec
    def run_calibrated(self, run_folder: Path, calibration: Calibration) -> None:
        """All tiles are trained, and the stages have learned from the validation images.

        Args:
            run_folder: Folder of the run.
            calibration: What the stages learned, as plain numbers, and notes on how.
        """

    @hookspec
    def image_predicted(self, run_folder: Path, prediction: ImageItem) -> None:
        """An image was predicted.

        Args:
            run_folder: Folder of the run.
            prediction: The image with ``image_path``, ``pred_score``, ``pred_label``, ``anomaly_map``, ``pred_mask``,
                and ``gt_label`` and ``gt_mask`` where they are known; on the CPU.
        """

    @hookspec
    def run_tested(self, run_folder: Path, output: Path, metrics: Mapping[str, object]) -> None:
        """All test images were predicted and measured.

        Args:
            run_folder: Folder of the run.
            output: Folder with ``metrics.json``, ``scores.csv`` and ``images``; the run folder, or ``--output``.
            metrics: Metrics by name, such as ``image_AUROC``; ``None`` where one is not defined.
        """
