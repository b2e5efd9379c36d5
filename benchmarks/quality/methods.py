"""The methods that are compared: a model, how the image is given to it, and settings of `anomalib tiled`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.weights import ARCHITECTURE, LAYERS

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Plain

Arguments = Mapping[str, "Plain"]

PADIM = "Padim", {"layers": list(LAYERS), "n_features": 60}
PATCHCORE = "Patchcore", {"layers": list(LAYERS[1:]), "coreset_sampling_ratio": 0.1}
SMALL_PATCHCORE = "Patchcore", {"layers": list(LAYERS[1:]), "coreset_sampling_ratio": 0.01}
"""PatchCore for the training tiles of many locations: a memory of as many patches in all as a tenth of one location's
would be costs too much time."""

SHRUNK = 256
"""Height and width to which anomalib shrinks images unless it is told otherwise."""


@dataclass(frozen=True)
class Method:
    """A method.

    Args:
        title: What it is, for tables.
        model: Name and arguments of the model, but for the backbone.
        settings: Settings of a configuration that differ from the defaults.
        view: ``tiles``; ``whole``, one model for the whole image; or ``shrunk``, the same for an image of ``SHRUNK``
            pixels a side.
        pretrained: Whether the backbone has ImageNet weights, and not random ones.
    """

    title: str
    model: tuple[str, Arguments]
    settings: Arguments = field(default_factory=dict)
    view: str = "tiles"
    pretrained: bool = True

    def tiling(self, tile: int, size: tuple[int, int]) -> dict[str, Plain]:
        """Give the tiling.

        Args:
            tile: Side of the tiles of the data set in pixels.
            size: Height and width of its images.
        """
        if self.view == "shrunk":
            return {"image_size": SHRUNK, "tile_size": SHRUNK}
        return {"image_size": list(size), "tile_size": list(size) if self.view == "whole" else tile}

    def model_settings(self, backbone: str) -> dict[str, Plain]:
        """Give the model as a configuration holds it.

        Args:
            backbone: Name of the backbone with ImageNet weights.
        """
        name, arguments = self.model
        backbones = {"backbone": backbone if self.pretrained else ARCHITECTURE, "pre_trained": self.pretrained}
        return {"class_path": f"anomalib.models.{name}", "init_args": {**backbones, **arguments}}


SHARED = {"assignment": {"class_path": "Shared"}}
CLUSTERS = {"assignment": {"class_path": "Clusters", "init_args": {"number": 4}}}
RIGID = {"alignment": {"class_path": "Rigid"}}
WHOLE = {"global_model": {"class_path": "GlobalModel", "init_args": {"image_size": SHRUNK}}}

METHODS = {
    "padim": Method("Padim, a model per tile", PADIM),
    "padim-rigid": Method("Padim, a model per tile, `Rigid` alignment", PADIM, RIGID),
    "padim-clusters": Method("Padim, `Clusters(4)`", PADIM, CLUSTERS),
    "padim-shared": Method("Padim, `Shared`", PADIM, SHARED),
    "padim-global": Method("Padim, a model per tile, and a global model", PADIM, WHOLE),
    "padim-shared-global": Method("Padim, `Shared`, and a global model", PADIM, {**SHARED, **WHOLE}),
    "padim-rigid-global": Method("Padim, a model per tile, `Rigid`, and a global model", PADIM, {**RIGID, **WHOLE}),
    "padim-whole": Method("Padim, whole image", PADIM, view="whole"),
    "padim-shrunk": Method("Padim, shrunk image", PADIM, view="shrunk"),
    "padim-random": Method("Padim, a model per tile, random weights", PADIM, pretrained=False),
    "patchcore": Method("PatchCore, a model per tile", PATCHCORE),
    "patchcore-rigid": Method("PatchCore, a model per tile, `Rigid` alignment", PATCHCORE, RIGID),
    "patchcore-clusters": Method("PatchCore, `Clusters(4)`", SMALL_PATCHCORE, CLUSTERS),
    "patchcore-shared": Method("PatchCore, `Shared`", SMALL_PATCHCORE, SHARED),
    "patchcore-whole": Method("PatchCore, whole image", SMALL_PATCHCORE, view="whole"),
    "patchcore-shrunk": Method("PatchCore, shrunk image", PATCHCORE, view="shrunk"),
    "patchcore-random": Method("PatchCore, a model per tile, random weights", PATCHCORE, pretrained=False),
}
