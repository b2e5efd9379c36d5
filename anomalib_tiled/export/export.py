"""The whole story of an export: write, compare, describe."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torchvision.transforms.v2 import Compose

from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.supported_models import check_export
from anomalib_tiled.errors import ConfigurationError, DataError
from anomalib_tiled.export.comparison import TOLERANCE, differences
from anomalib_tiled.export.formats import CHECKPOINTS
from anomalib_tiled.export.manifest import MANIFEST, Checked, checksums_of, described
from anomalib_tiled.export.output_folder import LOG, replacing_folder
from anomalib_tiled.export.writers import STEPS, Target, write_tiles, write_whole
from anomalib_tiled.runs.checkpoints import write_tensors
from anomalib_tiled.system.files import write_json
from anomalib_tiled.system.logs import log_to
from anomalib_tiled.system.out_of_memory import advising_on_memory
from anomalib_tiled.system.progress import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torchvision.transforms.v2 import Transform

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.export.formats import Format
    from anomalib_tiled.export.writers import Written
    from anomalib_tiled.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

SEED = 0
RANDOM_BATCHES = (1, 2)
"""Sizes of the batches of random images that are compared."""

REAL_IMAGES = 2
"""Number of images of the run that are compared."""

LESS_MEMORY = {
    False: "All tile models are in memory when they are exported: use a machine with more, or --per_tile (onnx).",
    True: "One tile model at a time is in memory: export on a machine with more.",
}
"""Advice if memory runs out, while all tile models are in memory and while one is."""

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
    """

    checked: Checked
    batch: int | None

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
            yield f"Note: The files take {self.batch} image at a time: {model} or a stage fixes the batch size."


def export(folder: RunFolder, request: ExportRequest) -> Exported:
    """Export a run as files that predict whole images without anomalib and without this package.

    Args:
        folder: A complete run.
        request: Format, folder and kind of the export.

    Raises:
        TiledError: The user has to change something; no files are left.
    """
    if request.per_tile and request.form.name != PER_TILE:
        message = f"--per_tile writes {PER_TILE}, but --format is {request.form.name}. Set --format {PER_TILE}."
        raise ConfigurationError(message)
    request.form.check_installed()
    check_export(folder.settings().model, by_onnx="onnx" in request.form.packages)
    with (
        advising_on_memory(LESS_MEMORY[request.per_tile]),
        replacing_folder(request.output, overwrite=request.overwrite) as work,
        log_to(work / LOG),
    ):
        run = Run.open(folder)
        check_augmentations(run.datamodule.test_augmentations)
        ensemble = run.calibrated_ensemble("cpu")
        ensemble.tile_models.budget = 0 if request.per_tile else sys.maxsize  # the whole graph holds all models
        real = _real_images(run, request.dtype)
        batches = [*_random_images(ensemble, request.dtype), *real]
        with steps("Exporting", len(ensemble.grid.tiles) + STEPS + len(batches)) as done:
            target = Target(request.form, work, request.dtype, done)
            written = write_tiles(ensemble, target) if request.per_tile else write_whole(ensemble, target)
            largest = compare(ensemble, written, batches, done)
        checked = Checked(sum(RANDOM_BATCHES), sum(map(len, real)), largest)
        files = sorted(path for path in work.rglob("*") if path.is_file() and path.name != LOG)
        form = {"format": request.form.name, "needs": request.form.needs, "augmentations": []}
        content = {**form, **written.facts, **described(run, ensemble, written.graph, request.dtype)}
        write_json(work / MANIFEST, {**content, "checked": asdict(checked), "files": checksums_of(work, files)})
    return Exported(checked, written.graph.batch)


def export_checkpoints(folder: RunFolder, output: Path, *, overwrite: bool) -> None:
    """Write a checkpoint for each tile that ``load_from_checkpoint`` of its model opens.

    Args:
        folder: A run with all tiles trained.
        output: Folder for the files.
        overwrite: Whether an earlier export there is replaced.

    Raises:
        TiledError: The user has to change something; no files are left.
    """
    with (
        advising_on_memory(LESS_MEMORY[True]),
        replacing_folder(output, overwrite=overwrite) as work,
        log_to(work / LOG),
    ):
        run = Run.open(folder)
        run.check_tiles()
        with steps("Writing checkpoints", len(run.grid.tiles)) as done:
            for tile in run.grid.tiles:
                write_tensors(run.whole_checkpoint(tile), work / f"{tile.name}.ckpt")
                done(f"tile {tile.name}")
        model = {"class_path": run.settings.model.class_path, "init_args": dict(run.settings.model.init_args)}
        facts = {"format": CHECKPOINTS, "class": model, "run": {"folder": str(folder.path)}}
        write_json(work / MANIFEST, {**facts, "files": checksums_of(work, sorted(work.glob("*.ckpt")))})


def check_augmentations(augmentations: Transform | None) -> None:
    """Check that images are predicted as they are: exported files do not augment them.

    Args:
        augmentations: The augmentations of test images.

    Raises:
        ConfigurationError: There are augmentations.
    """
    if augmentations is not None:
        parts = augmentations.transforms if isinstance(augmentations, Compose) else [augmentations]
        names = ", ".join(type(each).__name__ for each in parts)
        message = (
            f"An export predicts images as they are, but the data module augments test images ({names}). Predict with "
            "`anomalib tiled predict`; or fit a run whose data module has train_augmentations instead of "
            "augmentations, and no test_augmentations."
        )
        raise ConfigurationError(message)


def compare(
    ensemble: EnsembleModel, written: Written, batches: list[torch.Tensor], done: Callable[[str], None]
) -> float:
    """Compare the predictions of written files to those of the ensemble.

    Args:
        ensemble: The ensemble.
        written: The files.
        batches: Batches of images of the type that the files take.
        done: Called after each batch.

    Returns:
        The largest difference of scores and maps.

    Raises:
        ConfigurationError: The predictions differ.
    """
    largest = 0.0
    for batch in batches:
        for images in batch.split(written.graph.batch or len(batch)):
            size, wrong = differences(ensemble, images, written.predict({"images": images.numpy()}))
            largest = max(largest, size)
            if wrong:
                found = ", ".join(f"{each.name} by {each.size:.3g}" for each in wrong)
                message = (
                    f"The exported files must predict what the ensemble predicts, to {TOLERANCE:g}, but differ in "
                    f"{found}. The graph that PyTorch traces computes something else than the model or a stage, for "
                    "example because of random numbers, or of numbers kept between calls. Choose another model, "
                    "stage or --format, or predict with `anomalib tiled predict`. No files were kept."
                )
                raise ConfigurationError(message)
        done(f"comparison of {len(batch)} images")
    return largest


def _random_images(ensemble: EnsembleModel, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    size = ensemble.grid.image_size
    return [_of_type(torch.rand(batch, 3, *size, generator=generator), dtype) for batch in RANDOM_BATCHES]


def _real_images(run: Run, dtype: torch.dtype) -> list[torch.Tensor]:
    """Read the first images of the calibration without augmentations; empty if they are missing."""
    try:
        batch = next(iter(replace(run.calibration_images(), augmentations=None)))
    except DataError as error:
        logger.warning("No image of the run could be compared: %s", error)
        return []
    return [_of_type(cast("torch.Tensor", batch.image)[:REAL_IMAGES], dtype)]


def _of_type(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    plain = images.as_subclass(torch.Tensor)
    return plain if dtype == torch.float32 else (plain * 255).round().to(dtype)
