"""The run folder, which fit writes and later commands read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.config.tiling import check_sizes
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.grid import WHOLE
from anomalib_tiled.runs.file_names import (
    CHECKPOINT,
    CLAIM,
    FAILURE,
    LEFT_OUT,
    RECORD,
    RETRAIN,
    RunFiles,
    checksum_named,
)
from anomalib_tiled.runs.result_files import PICTURES, THUMBNAILS, remove_results
from anomalib_tiled.runs.tile_record import TileRecord
from anomalib_tiled.system.bounds import parse_yaml, read_bytes
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import (
    absolute,
    leads_out,
    read_json,
    without_own_link,
    write_json,
    write_text,
)
from anomalib_tiled.system.listing import FileState, Listing
from anomalib_tiled.system.os_errors import readable
from anomalib_tiled.system.packages import refuse_code_in
from anomalib_tiled.system.temporary import TEMPORARY, remove_abandoned

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.grid import Tile, TileGrid

WRITTEN = ("logs", "tiles", "raw", PICTURES, THUMBNAILS, "predictions")
"""Folders of a run that commands write into, and remove files from."""


def settings_of(text: str, folder: Path | None = None) -> Settings:
    """Parse and check the text of a run's configuration.

    Args:
        text: The text.
        folder: The run folder, in which no module may lie that the text names; ``None`` for a run that is made.
    """
    content = parse_yaml(text, "it")
    if not isinstance(content, Mapping):
        message = f"it must hold settings by their names, but holds {'nothing' if content is None else repr(content)}"
        raise ConfigurationError(message)
    if folder is not None:
        refuse_code_in(folder, content)
    settings = Settings.from_mapping(content)
    check_sizes(settings.tiling)
    return settings


@dataclass(frozen=True)
class RunFolder(RunFiles):
    """Writes and reads the files of a run.

    Args:
        path: The folder; the ``ckpt_dir`` of later commands.
        listing: The folder of the tiles at one moment; ``None`` to look at each file at each call.
    """

    listing: Listing | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of an earlier run.

        Raises:
            RunFolderError: The folder holds no run, cannot be read, or has a link that leads out of it where commands
                write.
        """
        run = cls(without_own_link(absolute(path)))
        with readable(run.path):
            is_folder, is_run = run.path.is_dir(), run.config_file.is_file()
        if not is_folder:
            message = f"--ckpt_dir must be the folder of a run, but there is no folder {path}."
            raise RunFolderError(message)
        if not is_run:
            message = (
                f"--ckpt_dir must be the folder of a run, which holds config.yaml, split.csv and tiles/, but "
                f"{path} has no config.yaml. `anomalib tiled fit` prints the folder that it makes."
            )
            raise RunFolderError(message)
        for folder in (run.path / name for name in WRITTEN):
            if leads_out(folder):
                message = (
                    f"{folder} must be a folder, but is a link that leads out of the run, to {folder.readlink()}. "
                    "Commands replace and remove files there. Replace the link by the folder itself."
                )
                raise RunFolderError(message)
        return run

    def settings(self) -> Settings:
        """Read the configuration that the run was made with.

        Raises:
            RunFolderError: The file cannot be read, was changed by hand so that it cannot be used any more, or names a
                module in the folder.
        """
        try:
            with readable(self.config_file):
                text = read_bytes(self.config_file).decode()
            return settings_of(text, self.path)
        except (ConfigurationError, TypeError, KeyError, AttributeError, ValueError) as error:
            message = f"{self.config_file} cannot be used any more: {error}. Restore it, or fit a new run."
            raise RunFolderError(message) from error

    def origins(self) -> dict[str, Plain]:
        """Read which package each class came from; empty for runs of versions that did not record that."""
        return read_json(self.origins_file) if self.origins_file.is_file() else {}

    def note_checksum(self, path: Path) -> None:
        """Record the checksum of a finished file."""
        write_json(self.checksums_file, {**self.checksums(), path.name: vars(Checksum.of(path))})

    def read(self, path: Path, advice: str) -> bytes:
        """Read a file, and compare its content with its checksum.

        Args:
            path: A file whose checksum was recorded.
            advice: What to do if it differs; a sentence.

        Raises:
            RunFolderError: The file is missing, or was cut short or changed.
        """
        return self.known_checksum(path, advice).read(path, advice)

    def known_checksum(self, path: Path, advice: str) -> Checksum:
        """Give the recorded checksum of a file that is there; arguments and errors are those of `read`."""
        with readable(path):
            is_there = path.is_file()
        if not is_there:
            message = f"{path} is missing. {advice}"
            raise RunFolderError(message)
        try:
            return Checksum(**self.checksums().get(path.name))  # type: ignore[arg-type]  # any JSON
        except TypeError as error:
            message = f"{self.checksums_file} has no checksum of {path.name}. {advice}"
            raise RunFolderError(message) from error

    def checksum_of(self, tile: Tile) -> Checksum:
        """Give the recorded checksum of a checkpoint."""
        return self.record(tile).checkpoint

    def checksums_of(self, grid: TileGrid) -> dict[str, Checksum]:
        """Give the recorded checksum of the checkpoint of each tile with one look, by the names of the tiles."""
        seen = self.seen()
        of_models = {model.name: seen.checksum_of(model) for model in grid.models}
        return {tile.name: of_models[grid.model_of(tile).name] for tile in grid.predicted}

    def shared_checksums(self) -> list[str]:
        """Give the recorded checksums of shared weights."""
        return [checksum_named(path) for path in self.shared_files]

    def checksums(self) -> dict[str, Plain]:
        """Read the checksums of finished files by their names."""
        path, advice = self.checksums_file, "It holds checksums of finished files: restore it, or fit a new run."
        return read_json(path, advice) if path.is_file() else {}

    def calibration_fingerprint(self, settings: Settings) -> str:
        """Identify calibration and sensitivities: predictions of another calibration are not comparable.

        Raises:
            RunFolderError: The run is not calibrated.
        """
        sensitivities = f"{settings.thresholding.image_sensitivity} {settings.thresholding.pixel_sensitivity}"
        with readable(self.calibration_file):
            content = self.calibration_file.read_bytes()
        return blake2b(content + sensitivities.encode(), digest_size=8).hexdigest()

    def seen(self) -> RunFolder:
        """Look at the tiles once, and give the same run folder as it is at this moment.

        What it says of tiles is not looked up again, so use it for all tiles together, and not while they are trained.
        """
        return self if self.listing is not None else replace(self, listing=Listing(self.tiles))

    def write_index(self, grid: TileGrid) -> None:
        """Copy the records of all tiles into one file, which later commands read instead of them.

        Raises:
            StorageError: The disk is full.
        """
        listing = Listing(self.tiles)
        names = (self.record_file(tile).name for tile in grid.model_locations)
        listing.write_index(name for name in names if name in listing)

    def state(self, tile: Tile) -> FileState:
        """Give the state of a checkpoint.

        Raises:
            RunFolderError: There is none.
        """
        if self.listing is not None:
            return self.listing.state(f"{tile.name}{CHECKPOINT}")
        with readable(path := self.checkpoint(tile)):
            return FileState.of(path.stat())

    def has_record(self, tile: Tile) -> bool:
        """Whether a tile has a record."""
        return self._has(tile, RECORD)

    def has_checkpoint(self, tile: Tile) -> bool:
        """Whether a tile has a checkpoint."""
        return self._has(tile, CHECKPOINT)

    def is_to_be_trained_again(self, tile: Tile) -> bool:
        """Whether ``--tiles`` has named a tile, and it is not trained again yet."""
        return self._has(tile, RETRAIN)

    def _has(self, tile: Tile, ending: str) -> bool:
        if self.listing is not None:
            return f"{tile.name}{ending}" in self.listing
        return self.of_tile(tile, ending).is_file()

    def _content(self, tile: Tile, ending: str) -> dict[str, object]:
        if self.listing is not None:
            return self.listing.content(f"{tile.name}{ending}")
        return read_json(self.of_tile(tile, ending))

    def write_record(self, tile: Tile, record: TileRecord) -> None:
        """Record that a tile is done."""
        write_json(self.record_file(tile), asdict(record))
        for note in (self.failure_file(tile), self.retrain_file(tile), self.left_out_file(tile), self.claim_file(tile)):
            note.unlink(missing_ok=True)

    def record(self, tile: Tile) -> TileRecord:
        """Read the record of a trained tile.

        Raises:
            RunFolderError: The record was changed.
        """
        try:
            return TileRecord.from_json(self._content(tile, RECORD))
        except (TypeError, KeyError) as error:
            message = (
                f"{self.record_file(tile)} must hold the record of a trained tile with the checksum of its checkpoint, "
                f"but does not ({error}). Delete it, and train the tile again with fit --ckpt_dir."
            )
            raise RunFolderError(message) from error

    def threads(self, grid: TileGrid) -> int | None:
        """Number of threads that trained the finished tiles; ``None`` if there are none yet."""
        seen = self.seen()
        noted = (seen.record(tile).threads for tile in grid.models if seen.has_record(tile))
        return next((threads for threads in noted if threads is not None), None)

    def write_failure(self, tile: Tile, reason: str) -> None:
        """Record why a tile failed."""
        write_json(self.failure_file(tile), {"error": reason})

    def failure(self, tile: Tile) -> str | None:
        """Reason why the last training of a tile failed; ``None`` if it did not."""
        return str(self._content(tile, FAILURE).get("error")) if self._has(tile, FAILURE) else None

    def leave_out(self, tile: Tile, reason: str, configuration: str) -> None:
        """Record that a location has no model, because none can be fitted there with this configuration."""
        self.forget(tile)
        write_json(self.left_out_file(tile), {"error": reason, "configuration": configuration})
        for note in (self.failure_file(tile), self.retrain_file(tile)):
            note.unlink(missing_ok=True)

    def left_out(self, grid: TileGrid, settings: Settings) -> dict[str, str]:
        """Give the names of the locations without a model, each with the reason why none could be fitted."""
        seen = self.seen()
        reasons = ((tile, seen.reason_left_out(tile, settings)) for tile in grid.model_locations)
        return {each.name: reason for tile, reason in reasons if reason is not None for each in grid.members(tile)}

    def reason_left_out(self, tile: Tile, settings: Settings) -> str | None:
        """Say why a location has no model; ``None`` if it needs one, or if the configuration has changed since."""
        if not self._has(tile, LEFT_OUT):
            return None
        content = self._content(tile, LEFT_OUT)
        settled = content.get("configuration") == settings.training_hash
        return str(content.get("error")) if settled and settings.unfitted_tiles == "leave_out" else None

    def is_done(self, tile: Tile, configuration: str) -> bool:
        """Whether a tile is trained.

        Args:
            tile: The tile.
            configuration: Fingerprint of the settings to train it with.

        Raises:
            RunFolderError: The tile was trained with another configuration.
        """
        if not (self.has_record(tile) and self.has_checkpoint(tile)):
            return False
        record = self.record(tile)
        if record.configuration != configuration:
            others = ",".join(self._of_other_configurations(configuration))
            message = (
                f"Tile {tile.name} in {self.path} was trained with another configuration than its config.yaml. "
                "Restore config.yaml, or train all tiles of the other configuration again: "
                f"`anomalib tiled fit --ckpt_dir {self.path} --tiles {others}`."
            )
            raise RunFolderError(message)
        self._check_size(tile, record)
        return True

    def damage(self, tile: Tile) -> str | None:
        """Say why a trained tile cannot be used, and what to do; ``None`` if it can, or is not trained."""
        try:
            if self.has_record(tile) and self.has_checkpoint(tile):
                self._check_size(tile, self.record(tile))
        except RunFolderError as error:
            return str(error)
        return None

    def _check_size(self, tile: Tile, record: TileRecord) -> None:
        if (size := self.state(tile).size) != record.checkpoint.size:
            raise record.checkpoint.other_size(size, self.checkpoint(tile), self.retrain_advice(tile))

    def _of_other_configurations(self, configuration: str) -> list[str]:
        """Name the tiles that were trained with other settings."""
        paths = [*sorted(self.tiles.glob("r*_c*[0-9].json")), *self.tiles.glob(f"{WHOLE}{RECORD}")]
        records = {path.stem: read_json(path) for path in paths}
        return [name for name, record in records.items() if record.get("configuration") != configuration]

    def retrain_advice(self, tile: Tile) -> str:
        """Say how to train a tile again."""
        return f"Train the tile again: `anomalib tiled fit --ckpt_dir {self.path} --tiles {tile.name}`."

    def mark_for_training(self, tiles: Iterable[Tile]) -> None:
        """Request that tiles be trained again; their models stay usable until then."""
        listing = Listing(self.tiles)
        for tile in tiles:
            if any(self.of_tile(tile, ending).name in listing for ending in (RECORD, LEFT_OUT)):
                write_text(self.retrain_file(tile), "")

    def forget(self, tile: Tile) -> None:
        """Mark a tile as untrained, and remove the calibration and the test results, which came from it too."""
        remove_results(self.path)
        for path in (self.calibration_file, self.validation_scores_file, self.drift_reference_file):
            path.unlink(missing_ok=True)
        self.record_file(tile).unlink(missing_ok=True)

    def clean_up(self, *, everywhere: bool = False) -> None:
        """Remove half-done work of killed commands, and claims of tiles; for the process that has locked the run.

        Args:
            everywhere: Whether no other machine works in the run any more, because all places have ended: then what
                they have left half done is removed as well.
        """
        remove_abandoned(self.path.rglob(TEMPORARY))
        if everywhere:
            for folder in (self.tiles, self.predictions):
                remove_abandoned(folder.rglob(TEMPORARY), patience=-inf)
        for claim in self.tiles.glob(f"*{CLAIM}"):
            claim.unlink(missing_ok=True)

    def missing(self, grid: TileGrid, settings: Settings) -> tuple[Tile, ...]:
        """Tiles that are not trained yet, the first of each group."""
        seen = self.seen()
        return tuple(tile for tile in grid.models if not seen.is_done(tile, settings.training_hash))

    def to_train(self, grid: TileGrid, settings: Settings, again: Sequence[Tile] = ()) -> tuple[Tile, ...]:
        """Tiles that are untrained, to be trained again, or in ``again``; the first of each group."""
        seen, named = self.seen(), {tile.name for tile in again}
        return tuple(tile for tile in grid.model_locations if tile.name in named or seen.is_to_train(tile, settings))

    def is_to_train(self, tile: Tile, settings: Settings) -> bool:
        """Whether a tile is untrained or to be trained again; errors are those of `is_done`."""
        if self.is_to_be_trained_again(tile):
            return True
        return not self.is_done(tile, settings.training_hash) and self.reason_left_out(tile, settings) is None
