"""Checkpoints of tiles. Weights that training does not change, such as a frozen backbone, are stored once for all."""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from io import BufferedWriter, FileIO
from typing import TYPE_CHECKING, Any, cast

import torch
from anomalib.utils.serialization import anomalib_safe_globals

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.runs.file_names import SHARED_FILES, checksum_named, shared_name
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.system.out_of_memory import lack_of_memory
from anomalib_tiled.system.temporary import temporary_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from io import RawIOBase
    from pathlib import Path

    from _typeshed import ReadableBuffer
    from anomalib.models.components import AnomalibModule
    from torch import nn

    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.run_folder import RunFolder
    from anomalib_tiled.system.listing import FileState

Checkpoint = dict[str, Any]
Weights = dict[str, torch.Tensor]

SHARED = "anomalib_tiled_shared"
"""Key of a checkpoint that names its shared weights and their file."""

WORTH_SHARING = 2**20
"""Fewest bytes of weights to share."""


def read_checkpoint(path: Path, model_class: type[AnomalibModule]) -> Checkpoint:
    """Read the checkpoint of a tile, including its shared weights.

    Only tensors and plain values are loaded, and weights are read from the disk when they are used.

    Args:
        path: The checkpoint.
        model_class: Class of the model.

    Raises:
        RunFolderError: The file of shared weights is missing.
    """
    return _completed(_read(path, model_class), path)


def _read(path: Path, model_class: type[AnomalibModule]) -> Checkpoint:
    with anomalib_safe_globals(extra=model_class.checkpoint_safe_globals()):
        return cast("Checkpoint", torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def _completed(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Add the shared weights to a checkpoint."""
    if note := checkpoint.pop(SHARED, None):
        shared = _shared_weights(path.parent / str(note["file"]))
        checkpoint["state_dict"].update({name: shared[name] for name in note["names"]})
    return checkpoint


def write_tensors(content: Checkpoint | Weights, path: Path) -> Checksum:
    """Write tensors so that the bytes of the file depend only on the content, not on the name of the file.

    Args:
        content: The tensors.
        path: The file.

    Returns:
        Checksum of the file, computed while writing.

    Raises:
        OSError: The disk is full, for example; PyTorch itself would raise an error that does not say so.
    """
    with _CheckedWriter(FileIO(path, "w")) as file:
        try:
            torch.save(content, file)
        except RuntimeError:
            if file.error is not None:
                raise file.error from None
            raise
        return Checksum(file.tell(), file.digest.hexdigest())


class _CheckedWriter(BufferedWriter):
    """A file to write from beginning to end, which keeps the checksum, and the error that PyTorch would lose."""

    def __init__(self, raw: RawIOBase) -> None:
        super().__init__(raw)
        self.digest = sha256()
        self.error: OSError | None = None

    def write(self, content: ReadableBuffer) -> int:
        """Write, or remember the error."""
        self.digest.update(content)
        try:
            return super().write(content)
        except OSError as error:
            self.error = error
            raise


def restore(model: AnomalibModule, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into a model, as Lightning does.

    Args:
        model: The model.
        checkpoint: The checkpoint, with all of its weights.
    """
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"], strict=model.strict_loading)


class Restorer:
    """Turns one model into that of one tile after the other.

    The model gets new tensors, so code that keeps the old ones finds them unchanged. Large weights of a tile are not
    copied: the model reads them from the file when it uses them. Shared weights are copied once, and all tiles use the
    same tensors.
    """

    def __init__(self) -> None:
        self._shared: dict[tuple[str, str], torch.Tensor] = {}

    def restore_from(self, model: AnomalibModule, path: Path) -> None:
        """Load a checkpoint into a model that has been that of another tile.

        Args:
            model: The model.
            path: The checkpoint.

        Raises:
            RunFolderError: The file of shared weights is missing.
        """
        with torch.inference_mode(mode=False):  # tensors read in inference mode are of no use outside of it
            checkpoint = _read(path, type(model))
            file, names = _sharing_of(checkpoint)
            weights: Weights = _completed(checkpoint, path)["state_dict"]
            for name, tensor in tensors_of(model):
                value = weights.get(name)
                if value is None:
                    exchange(tensor, tensor.data.clone())
                elif not _laid_out_alike(tensor, value):
                    exchange(tensor, torch.empty_like(tensor))
                else:
                    common = name in names
                    exchange(tensor, self._common(file, name, value, tensor) if common else _placed(value, tensor))
                    weights[name] = tensor  # loading then copies the tensor into itself
        restore(model, checkpoint)

    def _common(self, file: str, name: str, value: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        """Give a weight that tiles share, on the device of the tensor that it replaces."""
        known = self._shared.get((file, name))
        if known is None or known.device != tensor.device:
            known = self._shared[file, name] = value.to(tensor.device, copy=True)
        return known


def _sharing_of(checkpoint: Checkpoint) -> tuple[str, frozenset[str]]:
    """Give the file of the shared weights of a checkpoint, and their names."""
    note = checkpoint.get(SHARED, {"file": "", "names": []})
    return str(note["file"]), frozenset(note["names"])


def _placed(value: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Give a weight of a tile on the device of the tensor that it replaces."""
    large = value.nbytes >= WORTH_SHARING
    return value if large and value.device == tensor.device else value.to(tensor.device, copy=True)


def _laid_out_alike(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether one tensor can replace the other so that results are equal to the last bit."""
    layouts = ((each.shape, each.stride(), each.dtype) for each in (first, second))
    return len(set(layouts)) == 1


def exchange(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Replace the data of a tensor; one made in inference mode takes only data made in that mode.

    Args:
        tensor: The parameter or buffer.
        value: The new data.
    """
    with torch.inference_mode(mode=tensor.is_inference()):
        tensor.data = value.clone() if tensor.is_inference() and not value.is_inference() else value


def tensors_of(model: AnomalibModule) -> list[tuple[str, torch.Tensor]]:
    """Give the parameters and buffers of a model by their names."""
    return [*model.named_parameters(), *model.named_buffers()]


def weights_of(module: nn.Module) -> list[torch.Tensor]:
    """Give the data of parameters and buffers; a module that gets other weights holds other data."""
    return [tensor.data for tensor in (*module.parameters(), *module.buffers())]


def checkpoint_of(model: AnomalibModule, **facts: int) -> Checkpoint:
    """Give the checkpoint that Lightning would store of a model for prediction.

    Lightning itself would write it into the folder of temporary files first.

    Args:
        model: The model.
        facts: More entries of the checkpoint.
    """
    checkpoint: Checkpoint = {
        **facts,
        "pytorch-lightning_version": version("lightning"),
        "state_dict": model.state_dict(),
        model.CHECKPOINT_HYPER_PARAMS_KEY: dict(model.hparams),
    }
    model.on_save_checkpoint(checkpoint)
    return checkpoint


class Sharing:
    """Keeps weights that training does not change out of the checkpoints of tiles.

    The first stored tile writes them to a file that is named after its content. A tile with other weights stores its
    own.

    Args:
        folder: Folder of the checkpoints.
        model: The model before its training.
    """

    def __init__(self, folder: Path, model: AnomalibModule) -> None:
        self.folder = folder
        self._first: Weights = {}
        if self._file() is None:
            self._first = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

    def stripped(self, checkpoint: Checkpoint) -> Checkpoint:
        """Give a checkpoint without its shared weights, and with the name of their file.

        Args:
            checkpoint: The checkpoint.
        """
        weights: Weights = checkpoint["state_dict"]
        path = self._file() or self._write(_equal_ones(weights, self._first))
        names = [] if path is None else list(_equal_ones(weights, _shared_weights(path)))
        # In the order of the model, in which `Restorer` reads them.
        own = {name: value.contiguous() for name, value in weights.items() if name not in names}
        if path is None:
            return {**checkpoint, "state_dict": own}
        return {**checkpoint, "state_dict": own, SHARED: {"file": path.name, "names": names}}

    def _file(self) -> Path | None:
        """Give the file of shared weights; ``None`` if there is none yet."""
        check_shared(self.folder)  # before the training, so that a fault is known in time
        return next(iter(sorted(self.folder.glob(SHARED_FILES))), None)

    def _write(self, weights: Weights) -> Path | None:
        """Write shared weights; ``None`` if there are too few."""
        if sum(value.nbytes for value in weights.values()) < WORTH_SHARING:
            return None
        temporary = self.folder / temporary_name("shared")
        with storage_errors(temporary):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                checksum = write_tensors({name: value.cpu().clone() for name, value in weights.items()}, temporary)
                path = self.folder / shared_name(checksum.sha256)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        return path


def _equal_ones(weights: Weights, first: Mapping[str, torch.Tensor]) -> Weights:
    return {name: value for name, value in weights.items() if name in first and equal(first[name], value.cpu())}


def equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether tensors on one device are the same to the last bit."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return first.is_set_to(second) or torch.equal(first, second)


def check_shared(folder: Path) -> None:
    """Compare shared weights with the checksum in the name of their file, once a process.

    Args:
        folder: Folder of the checkpoints.

    Raises:
        RunFolderError: The weights were changed.
    """
    for path in sorted(folder.glob(SHARED_FILES)):
        status = path.stat()
        _check_shared(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)
def _check_shared(path: Path, changed: int, size: int) -> None:
    del changed, size  # keys of the cache: they differ between files of one name
    if checksum_named(path) != Checksum.of(path).sha256:
        advice = "It holds weights of all tiles: restore it, or fit a new run."
        message = f"{path} was changed after it was finished. {advice}"
        raise RunFolderError(message)


def _shared_weights(path: Path) -> Weights:
    """Read shared weights.

    Raises:
        RunFolderError: Their file is missing.
    """
    if not path.is_file():
        message = f"{path} is missing. It holds weights of all tiles: restore it, or fit a new run."
        raise RunFolderError(message)
    status = path.stat()
    return _read_shared(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)
def _read_shared(path: Path, changed: int, size: int) -> Weights:
    """Read shared weights once a process; they stay on the disk until they are used."""
    del changed, size  # keys of the cache: they differ between files of one name
    return cast("Weights", torch.load(path, map_location="cpu", weights_only=True, mmap=True))


class VerifiedCheckpoints:
    """The checkpoints of a run.

    One with the size and time of its record is unchanged, and is not read for its checksum. Any other, as in a run that
    was copied without the times, is read once.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._verified: dict[str, FileState] = {}
        self._checksums: dict[str, Checksum] = {}

    def check(self, tiles: Iterable[Tile]) -> None:
        """Compare checkpoints and shared weights with their checksums.

        Args:
            tiles: The tiles; untrained ones are skipped.

        Raises:
            RunFolderError: A file was changed.
        """
        seen = self.folder.seen()
        for tile in tiles:
            if seen.has_record(tile) and seen.has_checkpoint(tile):
                self._check(tile, seen)
        check_shared(self.folder.tiles)

    @contextmanager
    def of(self, tile: Tile) -> Iterator[Path]:
        """Give an unchanged checkpoint, to be loaded inside.

        Args:
            tile: The tile.

        Raises:
            RunFolderError: The checkpoint was changed, or cannot be loaded. A lack of memory is raised unchanged,
                because the checkpoint is not its cause.
        """
        checkpoint = self.folder.checkpoint(tile)
        self._check(tile, self.folder)
        check_shared(checkpoint.parent)
        try:
            yield checkpoint
        except ConfigurationError as error:
            if (lack := lack_of_memory(error)) is not None:
                raise lack from None
            reason = error.__cause__ or error
            message = f"The checkpoint {checkpoint} cannot be loaded: {reason} {self.folder.retrain_advice(tile)}"
            raise RunFolderError(message) from error

    def _check(self, tile: Tile, folder: RunFolder) -> None:
        state = folder.state(tile)
        if self._verified.get(tile.name) == state:
            return
        record = folder.record(tile)
        if self._checksums.setdefault(tile.name, record.checkpoint) != record.checkpoint:
            message = f"Tile {tile.name} of {self.folder.path} was trained again meanwhile. Load the run again."
            raise RunFolderError(message)
        if (record.checkpoint.size, record.modified) != (state.size, state.modified):
            record.checkpoint.check(folder.checkpoint(tile), folder.retrain_advice(tile))
        self._verified[tile.name] = state
