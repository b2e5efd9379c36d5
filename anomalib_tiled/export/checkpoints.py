"""Export of checkpoints that the model class opens by itself: each with all of its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_tiled.export.manifest import MANIFEST, checksums_of
from anomalib_tiled.export.output_folder import LOG, replacing_folder
from anomalib_tiled.runs.checkpoints import write_tensors
from anomalib_tiled.system.files import write_json
from anomalib_tiled.system.logs import log_to
from anomalib_tiled.system.out_of_memory import advising_on_memory
from anomalib_tiled.system.progress import steps

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.ensemble.run import Run

FORMAT = "checkpoints"

LESS_MEMORY = "Each checkpoint is in memory while it is written: export on a machine with more."


def export_checkpoints(run: Run, output: Path, *, overwrite: bool) -> None:
    """Write a checkpoint for each tile that ``load_from_checkpoint`` of its model opens.

    Args:
        run: A run with all tiles trained.
        output: Folder for the files.
        overwrite: Whether an earlier export there is replaced.

    Raises:
        TiledError: The user has to change something; no files are left.
    """
    with advising_on_memory(LESS_MEMORY), replacing_folder(output, overwrite=overwrite) as work, log_to(work / LOG):
        run.check_tiles()
        with steps("Writing checkpoints", len(run.grid.tiles)) as done:
            for tile in run.grid.tiles:
                write_tensors(run.job.saved_models.whole_checkpoint(tile), work / f"{tile.name}.ckpt")
                done(f"tile {tile.name}")
        model = {"class_path": run.settings.model.class_path, "init_args": dict(run.settings.model.init_args)}
        facts = {"format": FORMAT, "class": model, "run": {"folder": str(run.folder.path)}}
        write_json(work / MANIFEST, {**facts, "files": checksums_of(work, sorted(work.glob("*.ckpt")))})
