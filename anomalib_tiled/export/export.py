"""The whole story of an export: try out, write, compare, describe."""

from __future__ import annotations

import logging
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, cast

import torch

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.supported_models import check_export
from anomalib_tiled.errors import ConfigurationError, DataError
from anomalib_tiled.export.augmentations import Augmenting
from anomalib_tiled.export.comparison import TOLERANCE, differences
from anomalib_tiled.export.fault_finder import culprit
from anomalib_tiled.export.manifest import MANIFEST, Checked, checksums_of, described
from anomalib_tiled.export.modules import scaled
from anomalib_tiled.export.output_folder import LOG, replacing_folder
from anomalib_tiled.export.writers import STEPS, Target, write_tiles, write_whole
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.system.files import write_json
from anomalib_tiled.system.logs import log_to
from anomalib_tiled.system.out_of_memory import advising_on_memory
from anomalib_tiled.system.progress import steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anomalib_tiled.export.formats import Format
    from anomalib_tiled.export.writers import Written

logger = logging.getLogger(__name__)

SEED = 0
RANDOM_BATCHES = (1, 2)
"""Sizes of the batches of random images that are compared."""

REAL_IMAGES = 2
"""Number of images of the run that are compared."""

LESS_MEMORY = {
    False: "All tile models are in memory when they are exported: use a machine with more, or --per_tile (onnx).",
    True: "One tile model at a time is in memory with --per_tile: export on a machine with more.",
}
"""Advice if memory runs out, without and with ``--per_tile``."""

TRIAL_TILES = 2
"""Rows and columns of tiles that are exported first, as a trial: it shows at once whether the export fails."""

TILES_WORTH_A_TRIAL = 16
"""Number of tiles above which a trial is worth its time."""

PER_TILE = "onnx"
"""The format in which each tile model can be a file of its own."""


@dataclass(frozen=True)
class ExportRequest:
    """Format, folder and kind of an export.

    Args:
        form: The format.
        output: Folder for the files.
        dtype: Type of the images: ``float32`` for values in [0, 1], ``uint8`` for 0 to 255.
        overwrite: Whether an earlier export there is replaced.
        per_tile: Whether each tile model becomes a file of its own.
    """

    form: Format
    output: Path
    dtype: torch.dtype = torch.float32
    overwrite: bool = False
    per_tile: bool = False


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Args:
        checked: How the files were compared to the ensemble.
        batch: Batch size of the files; ``None`` for any.
        augmented: Whether augmentations are a part of the files.
    """

    checked: Checked
    batch: int | None
    augmented: bool = False

    def lines(self, model: str) -> Iterator[str]:
        """Give the lines to print about the export.

        Args:
            model: Name of the model.
        """
        images = self.checked.random_images + self.checked.real_images
        difference = self.checked.largest_difference
        yield f"Compared with the run on {images} images: largest difference {difference:.1g}."
        if not self.checked.real_images:
            yield "Note: Only random images were compared, because the images of the run are missing."
        if self.batch is not None:
            reason = (
                "augmentations are applied to each" if self.augmented else f"{model} or a stage fixes the batch size"
            )
            yield f"Note: The files take {self.batch} image at a time: {reason}."


def export(run: Run, request: ExportRequest) -> Exported:
    """Export a run as files that predict whole images without anomalib and without this package.

    Args:
        run: A complete run.
        request: Format, folder and kind of the export.

    Raises:
        TiledError: The user has to change something; no files are left.
    """
    if request.per_tile and request.form.name != PER_TILE:
        message = f"--per_tile writes {PER_TILE}, but --format is {request.form.name}. Set --format {PER_TILE}."
        raise ConfigurationError(message)
    request.form.check_installed()
    check_export(run.settings.model, by_onnx="onnx" in request.form.packages)
    with (
        advising_on_memory(LESS_MEMORY[request.per_tile]),
        replacing_folder(request.output, overwrite=request.overwrite) as work,
        log_to(work / LOG),
    ):
        augmenting = _augmenting(run, request, _folder(work / "augmentations"))
        ensemble = run.calibrated_ensemble("cpu")
        ensemble.tile_models.budget = 0 if request.per_tile else sys.maxsize  # the whole graph holds all models
        real = _real_images(run, request.dtype)
        batches = [*_random_images(ensemble, request.dtype), *real]
        first = _first_tiles(ensemble)
        trial = len(ensemble.grid.tiles) > TILES_WORTH_A_TRIAL and bool(first.grid.tiles)
        with steps("Exporting", trial + len(ensemble.grid.tiles) + STEPS + len(batches)) as done:
            if trial:
                _try_out(first, request, _folder(work / "trial"))
                done("trial with the first tiles")
            target = Target(request.form, work, request.dtype, done)
            written, largest = _check(ensemble, target, batches, augmenting, per_tile=request.per_tile)
        checked = Checked(sum(RANDOM_BATCHES), sum(map(len, real)), largest)
        files = sorted(path for path in work.rglob("*") if path.is_file() and path.name != LOG)
        described_run = described(run, ensemble, written.graph, request.dtype)
        changes = {"augmentations": [] if augmenting is None else augmenting.names}
        form = {"format": request.form.name, "needs": request.form.needs}
        content = {**form, **written.facts, **changes, **described_run}
        write_json(work / MANIFEST, {**content, "checked": asdict(checked), "files": checksums_of(work, files)})
    return Exported(checked, written.graph.batch, augmented=augmenting is not None)


def _augmenting(run: Run, request: ExportRequest, folder: Path) -> Augmenting | None:
    """Give the augmentations of ``predict``; ``None`` if there are none.

    Raises:
        ConfigurationError: The augmentations cannot be exported.
    """
    try:
        if (change := run.datamodule.test_augmentations) is None:
            return None
        augmenting = Augmenting(change)
        if request.per_tile:
            message = augmenting.refused("--per_tile cannot export them; leave it out")
            raise ConfigurationError(message)
        augmenting.check(run.grid.image_size, request.form, folder)
        return augmenting
    finally:
        shutil.rmtree(folder)


def _try_out(ensemble: EnsembleModel, request: ExportRequest, folder: Path) -> None:
    """Export as a trial.

    Raises:
        ConfigurationError: The exported files predict something else.
    """
    target = Target(request.form, folder, request.dtype)
    _check(ensemble, target, _random_images(ensemble, request.dtype), per_tile=request.per_tile)
    shutil.rmtree(folder)


def _check(
    ensemble: EnsembleModel,
    target: Target,
    batches: list[torch.Tensor],
    augmenting: Augmenting | None = None,
    *,
    per_tile: bool,
) -> tuple[Written, float]:
    """Write an ensemble, and compare the predictions of the files to those of the ensemble for augmented images.

    Raises:
        ConfigurationError: The predictions differ.
    """
    written = write_tiles(ensemble, target) if per_tile else write_whole(ensemble, target, augmenting)
    sizes = [0.0]
    for batch in batches:
        for images in batch.split(written.graph.batch or len(batch)):
            changed = scaled(images) if augmenting is None else augmenting.of_each(images)
            size, wrong = differences(ensemble, changed, written.predict({"images": images.numpy()}))
            sizes.append(size)
            if wrong:
                found = ", ".join(f"{each.name} by {each.size:.3g}" for each in wrong)
                source = culprit(ensemble, target.form, _folder(target.folder / "culprit"), changed)
                message = (
                    f"The exported files must predict what the ensemble predicts, to {TOLERANCE:g}, but differ in "
                    f"{found}. The cause is {source}: the graph that PyTorch traces of it computes something else, for "
                    "example because of random numbers, or of numbers kept between calls. Choose another one, or "
                    "predict with `anomalib tiled predict`. No files were kept."
                )
                raise ConfigurationError(message)
        target.done(f"comparison of {len(batch)} images")
    return written, max(sizes)


def _random_images(ensemble: EnsembleModel, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    size = ensemble.grid.image_size
    return [_of_type(torch.rand(batch, 3, *size, generator=generator), dtype) for batch in RANDOM_BATCHES]


def _real_images(run: Run, dtype: torch.dtype) -> list[torch.Tensor]:
    """Read the first images of the calibration without augmentations; empty if they are missing."""
    try:
        batch = next(iter(replace(run.images("calibration"), augmentations=None)))
    except DataError as error:
        logger.warning("No image of the run could be compared: %s", error)
        return []
    return [_of_type(cast("torch.Tensor", batch.image)[:REAL_IMAGES], dtype)]


def _of_type(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    plain = images.as_subclass(torch.Tensor)
    return plain if dtype == torch.float32 else (plain * 255).round().to(dtype)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _first_tiles(ensemble: EnsembleModel) -> EnsembleModel:
    """Give the ensemble of the first rows and columns of tiles."""
    grid = ensemble.grid
    sides = [
        min(image, tile + (TRIAL_TILES - 1) * stride)
        for image, tile, stride in zip(grid.image_size, grid.tile_size, grid.stride, strict=True)
    ]
    return EnsembleModel(
        TileGrid(Size(*sides), grid.tile_size, grid.stride, grid.left_out),
        ensemble.tile_models,
        stages=ensemble.stages,
        calibration=ensemble.calibration,
        evaluator=False,
    ).eval()
