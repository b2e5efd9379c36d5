"""The kinds of stages: settings, options, plugins and messages all read one row per kind.

A new kind is a row here, the contract that the row names, and the call in `pipeline` or `calibration.Stages`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module


@dataclass(frozen=True)
class StageKind:
    """A kind of stage: what it must do, and how a configuration and a plugin name it.

    Args:
        name: Name in messages, in ``plugins`` and in ``Settings.stages``.
        contract_path: Dotted path of the class that every stage of the kind derives from.
        hook: Function of a plugin that registers classes.
        setting: Where a configuration names the class: a setting, or one in a group, as ``normalization.method``.
        purpose: What a stage of the kind does, as a sentence; for ``--help``.
        default: Dotted path of the default class; ``None`` for no stage.
        optional: Whether the setting may be null, for no stage.
        decides_calibration: Whether another stage of the kind requires a new calibration.
        decides_training: Whether another stage of the kind changes the trained models.
    """

    name: str
    contract_path: str
    hook: str
    setting: str
    purpose: str
    default: str | None
    optional: bool = False
    decides_calibration: bool = True
    decides_training: bool = False

    @cached_property
    def contract(self) -> type:
        """The class itself, imported at its first use: PyTorch takes a second, and settings can be read without it."""
        module, _, name = self.contract_path.rpartition(".")
        contract: type = getattr(import_module(module), name)
        return contract

    @property
    def group(self) -> str:
        """The group that the setting is in; "" for none."""
        return self.setting.rpartition(".")[0]

    @property
    def section(self) -> str:
        """The key of the configuration that holds the setting: its group, or itself."""
        return self.setting.partition(".")[0]


STAGE_KINDS = (
    StageKind(
        name="alignment",
        contract_path="anomalib_tiled.stages.alignment.Aligner",
        hook="register_aligners",
        setting="alignment",
        purpose="Moves parts to the same place before images are cut; null for none.",
        default=None,
        optional=True,
        decides_training=True,
    ),
    StageKind(
        name="regions",
        contract_path="anomalib_tiled.stages.regions.Regions",
        hook="register_regions",
        setting="regions",
        purpose="Says which pixels are inspected, and names regions; null for all pixels.",
        default=None,
        optional=True,
        decides_training=True,
    ),
    StageKind(
        name="assignment",
        contract_path="anomalib_tiled.stages.assignment.Assignment",
        hook="register_assignments",
        setting="assignment",
        purpose="Decides which tile locations share a model.",
        default="anomalib_tiled.stages.assignment.PerTile",
        decides_training=True,
    ),
    StageKind(
        name="global_model",
        contract_path="anomalib_tiled.stages.global_model.GlobalModel",
        hook="register_global_models",
        setting="global_model",
        purpose="Adds a model of the whole image, shrunk; null for none.",
        default=None,
        optional=True,
        decides_training=True,
    ),
    StageKind(
        name="merging",
        contract_path="anomalib_tiled.stages.merging.Merger",
        hook="register_mergers",
        setting="merging",
        purpose="Joins tile maps to image maps.",
        default="anomalib_tiled.stages.merging.Mean",
    ),
    StageKind(
        name="scoring",
        contract_path="anomalib_tiled.stages.scoring.Scorer",
        hook="register_scorers",
        setting="scoring",
        purpose="Computes the image score from tile scores.",
        default="anomalib_tiled.stages.scoring.Max",
    ),
    StageKind(
        name="seam_smoothing",
        contract_path="anomalib_tiled.stages.seams.SeamSmoother",
        hook="register_seam_smoothers",
        setting="seam_smoothing",
        purpose="Smooths maps where tiles meet; null for no smoothing.",
        default="anomalib_tiled.stages.seams.GaussianSeams",
        optional=True,
    ),
    StageKind(
        name="normalization",
        contract_path="anomalib_tiled.stages.normalization.Normalizer",
        hook="register_normalizers",
        setting="normalization.method",
        purpose="Brings scores to [0, 1].",
        default="anomalib_tiled.stages.normalization.MinMax",
    ),
    StageKind(
        name="thresholding",
        contract_path="anomalib_tiled.stages.thresholding.Thresholder",
        hook="register_thresholders",
        setting="thresholding.method",
        purpose="Finds the threshold: higher scores are anomalous.",
        default="anomalib_tiled.stages.thresholding.F1AdaptiveThreshold",
    ),
    StageKind(
        name="workers",
        contract_path="anomalib_tiled.stages.workers.Workers",
        hook="register_workers",
        setting="workers",
        purpose="Trains the tiles.",
        default="anomalib_tiled.workers.local.LocalWorkers",
        decides_calibration=False,
    ),
)
"""All kinds, in the order in which they are listed."""


def kind_at(setting: str) -> StageKind | None:
    """Give the kind of stage that a setting names; ``None`` if the setting names no stage."""
    return next((kind for kind in STAGE_KINDS if kind.setting == setting), None)


def kind_of(stage: object) -> StageKind | None:
    """Give the kind of a stage; ``None`` for any other object."""
    return next((kind for kind in STAGE_KINDS if isinstance(stage, kind.contract)), None)
