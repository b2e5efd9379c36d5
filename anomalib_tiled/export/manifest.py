"""The manifest: how programs use the exported files, and which run they come from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.packages import version_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from anomalib_tiled.ensemble.calibration import Calibration
    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.export.graphs import Graph
    from anomalib_tiled.grid import Tile, TileGrid

MANIFEST = "manifest.json"

DESCRIBED = {
    "images": "RGB, channels first",
    "pred_score": "score of the image, higher is more anomalous",
    "pred_label": "whether the image is anomalous",
    "anomaly_map": "score of each pixel, higher is more anomalous",
    "pred_mask": "whether each pixel is anomalous",
}
"""Meaning of inputs and outputs."""

RESIZING = (
    "bilinear with antialiasing, of bytes, before anything is divided by 255: torchvision's "
    "resize(image, [height, width], antialias=True); nearly the same: Pillow's resize((width, height), BILINEAR)"
)
"""How the run resizes images of another size; exported files do not resize."""

NAMED_REGIONS = "exported files give no scores and labels of named regions; `anomalib tiled predict` does"

RANGES = {torch.float32: [0, 1], torch.uint8: [0, 255]}

PACKAGES = (
    "anomalib-tiled",
    "anomalib",
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "nncf",
)
"""Packages whose versions are recorded, if they are installed."""


@dataclass(frozen=True)
class Checked:
    """How the predictions of the files were compared to those of the ensemble.

    Args:
        random_images: Number of images of random pixels.
        real_images: Number of images of the run.
        largest_difference: Largest difference of scores and maps; a fraction of the highest score if that is above 1.
    """

    random_images: int
    real_images: int
    largest_difference: float

    def lines(self) -> Iterator[str]:
        """Give the lines to print."""
        images = self.random_images + self.real_images
        yield f"Compared with the run on {images} images: largest difference {self.largest_difference:.1g}."
        if not self.real_images:
            yield "Note: Only random images were compared, because the images of the run are missing."

    def to_json(self) -> dict[str, object]:
        """Give the entries of the manifest."""
        return {"precision": {"type": "float32"}, "checked": asdict(self)}


def described(run: Run, ensemble: EnsembleModel, graph: Graph, dtype: torch.dtype) -> dict[str, object]:
    """Describe inputs, outputs, grid, decisions and origin.

    Args:
        run: The run.
        ensemble: Its ensemble, calibrated.
        graph: A graph with the outputs and the batch size of the files.
        dtype: Type of the images.
    """
    batch = "any" if graph.batch is None else graph.batch
    size = [*ensemble.grid.image_size]
    image = {"name": "images", "shape": [batch, 3, *size], "dtype": _name(dtype), "range": RANGES[dtype]}
    calibration = ensemble.calibration
    return {
        "inputs": [{**image, "meaning": DESCRIBED["images"], "resizing": RESIZING}],
        "outputs": [
            {
                "name": name,
                "shape": [batch] if name in {"pred_score", "pred_label"} else [batch, 1, *size],
                "dtype": "bool" if name in {"pred_label", "pred_mask"} else "float32",
                "meaning": DESCRIBED[name],
            }
            for name in graph.outputs
        ],
        "grid": {
            **ensemble.grid.to_json(),
            "tiles": [_placed(tile, ensemble.grid) for tile in ensemble.grid.tiles],
            "left_out": sorted(ensemble.grid.left_out),
            **({} if ensemble.grid.shrunk is None else {"whole": [*ensemble.grid.shrunk]}),
        },
        **_regions_of(run),
        "calibration": None if calibration is None else calibration.to_json(),
        "sensitivities": {"image": ensemble.stages.image_sensitivity, "pixel": ensemble.stages.pixel_sensitivity},
        **_uncertain(run, calibration),
        "run": {
            "folder": str(run.folder.path),
            "configuration": run.settings.calibration_hash,
            "calibration": asdict(Checksum.of(run.folder.calibration_file)),
            "model": run.settings.model.class_path,
        },
        "packages": {package: version for package in PACKAGES if (version := version_of(package))},
    }


def _uncertain(run: Run, calibration: Calibration | None) -> dict[str, object]:
    """Give the limits of the scores of uncertain images, which files do not apply; nothing if no image is uncertain."""
    uncertain = None if calibration is None else run.image_decisions(calibration).uncertain
    return {} if uncertain is None else {"uncertain": asdict(uncertain)}


def _regions_of(run: Run) -> dict[str, object]:
    """Describe the regions; nothing if there are none."""
    if (regions := run.regions) is None:
        return {}
    ignored = {"tiles": sorted(run.grid.ignored), "pixels": int(regions.ignored.sum()), "in_graph": True}
    named = {"names": [*regions.named], "in_graph": False, "instead": NAMED_REGIONS} if regions.named else {}
    return {"regions": {"ignored": ignored, **({"named": named} if named else {})}}


def _placed(tile: Tile, grid: TileGrid) -> dict[str, object]:
    """Give name and place of a tile, and the tile that its model is named after if tiles share models."""
    place: dict[str, object] = {"name": tile.name, "top": tile.rows.start, "left": tile.columns.start}
    return {**place, "model": grid.model_of(tile).name} if grid.groups else place


def checksums_of(folder: Path, files: Iterable[Path]) -> dict[str, dict[str, object]]:
    """Give sizes and checksums of files, by their names in the folder."""
    return {path.relative_to(folder).as_posix(): asdict(Checksum.of(path)) for path in files}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
