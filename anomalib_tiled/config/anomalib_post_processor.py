"""anomalib's post-processor, given as an argument of a model, read as settings of the stages that do its work here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from anomalib_tiled.config.settings import SENSITIVITIES
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.sensitivity import NEUTRAL

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Plain, Settings, ThresholdingSettings

SWITCHES = {
    "enable_normalization": "To leave scores on the scale of the model, set normalization.stage to none.",
    "enable_thresholding": "Decisions are always made here; take it out, and leave labels and masks unread.",
    "enable_threshold_matching": "Without masks the threshold of scores always serves for maps; take it out.",
}
"""What the post-processor can switch off, and what to do here instead."""


def read_post_processor(settings: Settings) -> tuple[Settings, str | None]:
    """Move the sensitivities of anomalib's ``PostProcessor`` from the model to thresholding.

    Args:
        settings: The configuration.

    Returns:
        The configuration with the model's own post-processor, which has nothing to do here, and a line that says what
        was moved; the configuration as it is, and ``None``, if the model is given no other.

    Raises:
        ConfigurationError: It is another post-processor, switches something off, or contradicts ``thresholding``.
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
            f"With tiles, model.init_args.post_processor can be anomalib's PostProcessor, but is {class_path}. Take it "
            "out: images are normalized and thresholded by stages, see normalization.method and thresholding.method."
        )
        raise ConfigurationError(message)
    return {**(spec.get("init_args") or {}), **(spec.get("dict_kwargs") or {})}


def _with_sensitivities(thresholding: ThresholdingSettings, arguments: Mapping[str, Plain]) -> ThresholdingSettings:
    """Take over those sensitivities that say something, if nothing else is said already."""
    for name in SENSITIVITIES:
        ours, theirs = getattr(thresholding, name), arguments.get(name)
        if theirs in {None, NEUTRAL, ours}:
            continue
        if ours != NEUTRAL:
            message = (
                f"The sensitivity must be given once, but thresholding.{name} is {ours}, and that of "
                f"model.init_args.post_processor is {theirs}. Take the post-processor out."
            )
            raise ConfigurationError(message)
        thresholding = replace(thresholding, **{name: theirs})
    return thresholding
