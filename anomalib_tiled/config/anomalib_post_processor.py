"""Translate anomalib's post-processor, an argument of models, into settings of the stages that replace it here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from anomalib_tiled.config.settings import SENSITIVITIES
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.thresholding import NEUTRAL

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Plain, Settings, ThresholdingSettings

SWITCHES = {
    "enable_normalization": "To leave scores on the scale of the model, set normalization.stage to none.",
    "enable_thresholding": "Images are always thresholded here. Remove it, and ignore labels and masks.",
    "enable_threshold_matching": "Without masks, maps always take the threshold of scores. Remove it.",
}
"""What the post-processor can switch off, and what to do here instead."""


def read_post_processor(settings: Settings) -> tuple[Settings, str | None]:
    """Move the sensitivities of anomalib's ``PostProcessor`` from the model to thresholding.

    Args:
        settings: The configuration.

    Returns:
        The configuration with the model's own post-processor, which is not used here, and a line that names the moved
        settings. Without a post-processor in the arguments: the same configuration, and ``None``.

    Raises:
        ConfigurationError: The post-processor is another one, switches a step off, or contradicts ``thresholding``.
    """
    given = settings.model.init_args.get("post_processor")
    if given is None or isinstance(given, bool):  # tile_model leaves post-processing out anyway
        return settings, None
    arguments = _arguments(given)
    for switch, advice in SWITCHES.items():
        if not arguments.get(switch, True):
            message = f"model.init_args.post_processor cannot have {switch}: false with tiles. {advice}"
            raise ConfigurationError(message)
    model = replace(settings.model, init_args={**settings.model.init_args, "post_processor": True})
    thresholding = _with_sensitivities(settings.thresholding, arguments)
    moved = ", ".join(f"thresholding.{name}: {getattr(thresholding, name)}" for name in SENSITIVITIES)
    return replace(settings, model=model, thresholding=thresholding), f"model.init_args.post_processor → {moved}"


def _arguments(given: Plain) -> Mapping[str, Plain]:
    """Give the arguments of anomalib's own post-processor."""
    spec = given if isinstance(given, Mapping) else {"class_path": given}
    class_path = str(spec.get("class_path"))
    package, _, name = class_path.rpartition(".")
    if name != "PostProcessor" or f"{package}.".partition(".")[0] not in {"", "anomalib"}:
        message = (
            f"With tiles, model.init_args.post_processor must be anomalib's PostProcessor, but is {class_path}. Remove "
            "it: stages normalize and threshold images, see normalization.method and thresholding.method."
        )
        raise ConfigurationError(message)
    return {**(spec.get("init_args") or {}), **(spec.get("dict_kwargs") or {})}


def _with_sensitivities(thresholding: ThresholdingSettings, arguments: Mapping[str, Plain]) -> ThresholdingSettings:
    """Take over the sensitivities that are not the default, unless ``thresholding`` sets others."""
    for name in SENSITIVITIES:
        ours, theirs = getattr(thresholding, name), arguments.get(name)
        if theirs in {None, NEUTRAL, ours}:
            continue
        if ours != NEUTRAL:
            message = (
                f"The sensitivity must be given once, but thresholding.{name} is {ours}, and that of "
                f"model.init_args.post_processor is {theirs}. Remove the post-processor."
            )
            raise ConfigurationError(message)
        thresholding = replace(thresholding, **{name: theirs})
    return thresholding
