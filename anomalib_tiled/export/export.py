"""The whole story of an export: rehearse, write, compare, describe."""

from __future__ import annotations

import logging
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, cast

import torch

from anomalib_tiled.ensemble.ensemble import TiledEnsemble
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.supported_models import check_export
from anomalib_tiled.errors import ConfigurationError, DataError
from anomalib_tiled.export.augmentations import Augmenting
from anomalib_tiled.export.comparison import TOLERANCE, differences
from anomalib_tiled.export.fault_finder import culprit
from anomalib_tiled.export.manifest import MANIFEST, Checked, described, sealed
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
    from anomalib_tiled.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

SEED = 0
RANDOM_BATCHES = (1, 2)
"""Images of random pixels that are compared, in batches of so many."""

REAL_IMAGES = 2
"""Images of the run that are compared."""

LESS_MEMORY = {
    False: "All tile models are in memory when they are exported: use a machine with more, or --per_tile (onnx).",
    True: "One tile model at a time is in memory with --per_tile: export on a machine with more.",
}
"""What to do if memory runs out, without and with ``--per_tile``."""

REHEARSED = 2
"""Rows and columns of tiles that are exported first, as a trial: what hinders an export shows at once."""

WORTH_A_REHEARSAL = 16
"""Tiles above which a trial is shorter than what it may save."""

PER_TILE = "onnx"
"""The format in which each tile model can be a file of its own."""


@dataclass(frozen=True)
class Exporting:
    """What is asked for.

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
    """What was written.

    Args:
        checked: How the files were compared to the ensemble.
        batch: Images that the files take at once; ``None`` for any number.
        augmented: Whether augmentations are a part of the files.
    """

    checked: Checked
    batch: int | None
    augmented: bool = False

    def lines(self, model: str) -> Iterator[str]:
        """Say how it went.

        Args:
            model: Name of the model.
        """
        images = self.checked.random_images + self.checked.real_images
        difference = self.checked.largest_difference
        yield f"Compared with the run on {images} images: largest difference {difference:.1g}."
        if not self.checked.real_images:
            yield "Note: No image of the run was compared, only random ones, because they are not where they were."
        if self.batch is not None:
            who = (
                "augmentations are applied to each"
                if self.augmented
                else f"{model} or a stage fixes the size of a batch"
            )
            yield f"Note: The files take {self.batch} image at a time: {who}."


def export(folder: RunFolder, asked: Exporting) -> Exported:
    """Write a run as files that predict whole images without anomalib and without this package.

    Args:
        folder: A complete run.
        asked: Format, folder and kind.

    Raises:
        TiledError: Something that the user has to change; nothing is left behind.
    """
    if asked.per_tile and asked.form.name != PER_TILE:
        message = f"--per_tile writes {PER_TILE}, but --format is {asked.form.name}. Set --format {PER_TILE}."
        raise ConfigurationError(message)
    asked.form.check_installed()
    check_export(folder.settings().model, by_onnx="onnx" in asked.form.packages)
    with (
        advising_on_memory(LESS_MEMORY[asked.per_tile]),
        replacing_folder(asked.output, overwrite=asked.overwrite) as work,
        log_to(work / LOG),
    ):
        run = Run.open(folder)
        augmenting = _augmenting(run, asked, _folder(work / "augmentations"))
        ensemble = run.calibrated_ensemble("cpu")
        ensemble.tile_models.budget = 0 if asked.per_tile else sys.maxsize  # the graph of a whole one holds all models
        real = _real_images(run, asked.dtype)
        batches = [*_random_images(ensemble, asked.dtype), *real]
        first = _first_tiles(ensemble)
        trial = len(ensemble.grid.tiles) > WORTH_A_REHEARSAL and bool(first.grid.tiles)
        with steps("Exporting", trial + len(ensemble.grid.tiles) + STEPS + len(batches)) as done:
            if trial:
                _rehearse(first, asked, _folder(work / "rehearsal"))
                done("trial with the first tiles")
            target = Target(asked.form, work, asked.dtype, done)
            written, largest = _check(ensemble, target, batches, augmenting, per_tile=asked.per_tile)
        checked = Checked(sum(RANDOM_BATCHES), sum(map(len, real)), largest)
        files = sorted(path for path in work.rglob("*") if path.is_file() and path.name != LOG)
        described_run = described(run, ensemble, written.graph, asked.dtype)
        changes = {"augmentations": [] if augmenting is None else augmenting.names}
        form = {"format": asked.form.name, "needs": asked.form.needs}
        content = {**form, **written.facts, **changes, **described_run}
        write_json(work / MANIFEST, {**content, "checked": asdict(checked), "files": sealed(work, files)})
    return Exported(checked, written.graph.batch, augmented=augmenting is not None)


def _augmenting(run: Run, asked: Exporting, folder: Path) -> Augmenting | None:
    """Give what ``predict`` does to images before the ensemble sees them, if it can be exported.

    Raises:
        ConfigurationError: It cannot.
    """
    try:
        if (change := run.datamodule.test_augmentations) is None:
            return None
        augmenting = Augmenting(change)
        if asked.per_tile:
            message = augmenting.refused("--per_tile has no place for them; an export without it has")
            raise ConfigurationError(message)
        augmenting.check(run.grid.image_size, asked.form, folder)
        return augmenting
    finally:
        shutil.rmtree(folder)


def _rehearse(ensemble: TiledEnsemble, asked: Exporting, folder: Path) -> None:
    """Export as a trial.

    Raises:
        ConfigurationError: What is exported does not predict the same.
    """
    target = Target(asked.form, folder, asked.dtype)
    _check(ensemble, target, _random_images(ensemble, asked.dtype), per_tile=asked.per_tile)
    shutil.rmtree(folder)


def _check(
    ensemble: TiledEnsemble,
    target: Target,
    batches: list[torch.Tensor],
    augmenting: Augmenting | None = None,
    *,
    per_tile: bool,
) -> tuple[Written, float]:
    """Write an ensemble, and compare what the files predict to what it predicts itself of augmented images.

    Raises:
        ConfigurationError: They differ.
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
                    f"{found}. The cause is {source}: what it computes is not what PyTorch records of it, as with "
                    "random numbers or numbers kept from call to call. Choose another one, or predict with "
                    "`anomalib tiled predict`. Nothing was kept."
                )
                raise ConfigurationError(message)
        target.done(f"comparison of {len(batch)} images")
    return written, max(sizes)


def _random_images(ensemble: TiledEnsemble, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    size = ensemble.grid.image_size
    return [_of_type(torch.rand(batch, 3, *size, generator=generator), dtype) for batch in RANDOM_BATCHES]


def _real_images(run: Run, dtype: torch.dtype) -> list[torch.Tensor]:
    """Give the first images that the stages learned from, as they are decoded; nothing if they are elsewhere now."""
    try:
        batch = next(iter(replace(run.calibration_images(), augmentations=None)))
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


def _first_tiles(ensemble: TiledEnsemble) -> TiledEnsemble:
    """Give the ensemble of the first rows and columns of tiles."""
    grid = ensemble.grid
    sides = [
        min(image, tile + (REHEARSED - 1) * stride)
        for image, tile, stride in zip(grid.image_size, grid.tile_size, grid.stride, strict=True)
    ]
    return TiledEnsemble(
        TileGrid(Size(*sides), grid.tile_size, grid.stride, grid.left_out),
        ensemble.tile_models,
        stages=ensemble.stages,
        calibration=ensemble.calibration,
        evaluator=False,
    ).eval()
