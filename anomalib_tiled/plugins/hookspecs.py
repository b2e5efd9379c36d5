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

The other hooks are event hooks: the commands call them when something has happened, and ignore what they return. If
one raises, the command reports it, does not call it again, and continues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

from anomalib_tiled.system.packages import GROUP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from anomalib.data import ImageItem

    from anomalib_tiled.ensemble.calibration import Calibration
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.stages.kinds import StageKind

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class EventHooks:
    """The event hooks: called when something has happened."""

    @hookspec
    def tile_trained(self, run_folder: Path, tile: Tile, seconds: float, epochs: int) -> None:
        """A tile was trained, and its checkpoint is in the run folder.

        Args:
            run_folder: Folder of the run; ``config.yaml`` in it is the effective configuration.
            tile: The tile location, with ``name``, ``rows`` and ``columns``; of tiles that share a model, the first.
            seconds: Time that the training took.
            epochs: Epochs that were trained.
        """

    @hookspec
    def run_calibrated(self, run_folder: Path, calibration: Calibration) -> None:
        """All tiles are trained, and the stages have learned from the validation images.

        Args:
            run_folder: Folder of the run.
            calibration: What the stages learned, as plain numbers, and notes on it.
        """

    @hookspec
    def image_predicted(self, run_folder: Path, prediction: ImageItem) -> None:
        """An image was predicted. With ``predict --workers``, called in the process that has predicted it.

        Args:
            run_folder: Folder of the run.
            prediction: The image with ``image_path``, ``pred_score``, ``pred_label``, ``anomaly_map``, ``pred_mask``,
                and ``gt_label`` and ``gt_mask`` if they are known; on the CPU.
        """

    @hookspec
    def run_tested(self, run_folder: Path, output: Path, metrics: Mapping[str, object]) -> None:
        """All test images were predicted and measured.

        Args:
            run_folder: Folder of the run.
            output: Folder with ``metrics.json``, ``scores.csv`` and ``images``; the run folder, or ``--output``.
            metrics: Metrics by name, such as ``image_AUROC``; ``None`` if one is undefined.
        """


EVENT_HOOKS = tuple(name for name in vars(EventHooks) if not name.startswith("_"))
"""Names of the event hooks."""


def hook_specifications() -> type:
    """Give all hooks: a ``register_…`` hook for each kind of stage, and the event hooks."""
    from anomalib_tiled.stages import kinds  # slow, and every command imports this module

    registering = {kind.hook: hookspec(_registering(kind)) for kind in kinds.STAGE_KINDS}
    return type("Hooks", (EventHooks,), registering)


def _registering(kind: StageKind) -> Callable[[], None]:
    """Make the ``register_…`` hook of a kind of stage, with its type and documentation."""

    def register() -> None:
        """Give classes."""

    contract = kind.contract.__name__
    register.__name__ = kind.hook
    register.__doc__ = f"Give subclasses of {contract}. Each {kind.purpose[0].lower()}{kind.purpose[1:]}"
    register.__annotations__ = {"return": f"Sequence[type[{contract}]]"}
    return register
