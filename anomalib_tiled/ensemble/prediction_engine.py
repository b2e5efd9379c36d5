"""Which engine computes the backbones of tile models: it is compared with PyTorch, or measured, before it is used."""

from __future__ import annotations

from math import inf
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.config.settings import FLOAT32
from anomalib_tiled.ensemble.compiled_backbones import CompiledBackbones, frozen_backbones
from anomalib_tiled.ensemble.engines import AUTO, ENGINES, TORCH
from anomalib_tiled.ensemble.tile_model import predict_tile
from anomalib_tiled.errors import ConfigurationError, allowed_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.ensemble.engines import Engine
    from anomalib_tiled.ensemble.tile_model import TilePrediction

TOLERANCE = 1e-4
"""Largest difference of features to those of PyTorch in single precision, as a fraction of the highest."""

FEWEST_TILES = 500
"""Tiles from which it pays to compile a backbone as small as a ResNet-18."""

REPEATS = 2
"""How often an engine is measured; the shortest time counts."""


class PredictionEngine:
    """Predicts tiles with backbones that an engine computes.

    Features of the first tiles are computed by PyTorch, too. In single precision, the engine must give the same.

    Args:
        engines: The engine, or those to choose the fastest from.
        precision: Precision that the models compute in.
        chooses: Whether PyTorch predicts if it is faster, or if an engine cannot be used.
        report: Receives a line about the engine.
    """

    def __init__(
        self, engines: Sequence[Engine], precision: str = FLOAT32, *, chooses: bool, report: Callable[[str], None]
    ) -> None:
        self._engines, self._chooses, self._report = engines, chooses, report
        self._tolerance = TOLERANCE if precision == FLOAT32 else inf
        self._chosen: dict[tuple[object, ...], CompiledBackbones | None] = {}
        """Graphs by class of the model, shape of a tile, and kinds of backbones; ``None`` for PyTorch."""

    def __getstate__(self) -> dict[str, object]:
        """Pickle without graphs, which stay in their process: another one compiles its own."""
        return {**vars(self), "_chosen": {}}

    @classmethod
    def named(
        cls, name: str, device: torch.device, precision: str, report: Callable[[str], None], tiles: float = inf
    ) -> PredictionEngine | None:
        """Give the engine of a name; ``None`` for PyTorch alone.

        Args:
            name: ``torch``, ``auto``, or the name of another engine.
            device: Where the ensemble predicts.
            precision: Precision that its models compute in.
            report: Receives a line about the engine.
            tiles: Number of tiles to predict, if it is known.

        Raises:
            ConfigurationError: `check_engine` refuses it.
        """
        check_engine(name, device, precision)
        if name == TORCH or device.type != "cpu":
            return None
        if name != AUTO:
            return cls([ENGINES[name]], precision, chooses=False, report=report)
        installed, why = [each for each in ENGINES.values() if not each.missing()], None
        if not installed:
            why = "No other one is installed: pip install 'anomalib-tiled[openvino]'"
        elif tiles < FEWEST_TILES:
            why = f"Compiling for another one takes longer than {tiles} tiles can save."
        if why is not None:
            report(f"Engine: {TORCH}. {why}")
            return None
        return cls(installed, chooses=True, report=report)

    @property
    def nbytes(self) -> int:
        """Memory that the engine takes besides the models, in bytes."""
        return sum(each.nbytes for each in self._chosen.values() if each is not None)

    def prepare(self, model: AnomalibModule, tiles: torch.Tensor) -> None:
        """Let the engine compute the backbones of a model in its next prediction.

        Args:
            model: The model.
            tiles: The tiles of that prediction; as for ``predict_tile``.

        Raises:
            ConfigurationError: The engine was named, but does not compute on the device, cannot compute the backbone,
                gives something else than PyTorch, or the model has no backbone for it.
        """
        if tiles.device.type != "cpu":  # the ensemble was moved
            if not self._chooses:
                _check_device(self._engines[0].name, tiles.device)
            _give(model, None)
            return
        key = type(model), tiles.shape[1:], *(each.kind for each in frozen_backbones(model))
        if key not in self._chosen:
            self._chosen[key] = self._choose(model, tiles)
        _give(model, self._chosen[key])

    def _choose(self, model: AnomalibModule, tiles: torch.Tensor) -> CompiledBackbones | None:
        if not frozen_backbones(model):
            self._check_needed(type(model).__name__)
            return None
        if not self._chooses:
            compiled = CompiledBackbones(self._engines[0], self._tolerance)
            _predicted(model, tiles, compiled)
            difference = f"{compiled.difference:.1g} of the highest"
            self._report(
                f"Engine: {compiled.engine.name}; features differ from those of {TORCH} by up to {difference}."
            )
            return compiled
        tried: list[tuple[float, CompiledBackbones | None]] = [(_seconds(model, tiles, None), None)]
        others = []
        for engine in self._engines:
            compiled = CompiledBackbones(engine, self._tolerance)
            try:
                tried.append((_seconds(model, tiles, compiled), compiled))
            except ConfigurationError as error:
                others.append(f"{engine.name}: {error}")
        return self._fastest(tried, others, tiles)

    def _check_needed(self, model: str) -> None:
        """Let PyTorch predict alone, if the engine was not named, or if it computes the model of the tiles."""
        if not self._chooses and not self._chosen:
            message = (
                f"The engine {self._engines[0].name} computes backbones that are a frozen TimmFeatureExtractor of "
                f"anomalib, and {model} has none. Leave the engine at {TORCH}."
            )
            raise ConfigurationError(message)
        if self._chooses:
            self._report(f"Engine: {TORCH}, because {model} has no frozen TimmFeatureExtractor.")

    def _fastest(
        self, tried: list[tuple[float, CompiledBackbones | None]], others: Sequence[str], tiles: torch.Tensor
    ) -> CompiledBackbones | None:
        """Give the fastest engine, and report it."""
        tried = sorted(tried, key=lambda each: each[0])
        times = ", ".join(f"{_name(compiled)} {1000 * seconds:.0f} ms" for seconds, compiled in tried)
        self._report(f"Engine: {_name(tried[0][1])}. {len(tiles)} tile{'s' * (len(tiles) != 1)} took: {times}.")
        for each in others:
            self._report(f"Note: An engine cannot be used. {each}")
        return tried[0][1]


def _name(compiled: CompiledBackbones | None) -> str:
    return TORCH if compiled is None else compiled.engine.name


def _predicted(model: AnomalibModule, tiles: torch.Tensor, compiled: CompiledBackbones | None) -> TilePrediction:
    """Predict tiles; ``None`` for PyTorch alone, which computes the model afterwards, too."""
    _give(model, compiled)
    try:
        return predict_tile(model, tiles)
    finally:
        _give(model, None)


def _give(model: AnomalibModule, compiled: CompiledBackbones | None) -> None:
    """Let the backbones of a model be computed in this way."""
    for backbone in frozen_backbones(model):
        backbone.compiled = compiled


def _seconds(model: AnomalibModule, tiles: torch.Tensor, compiled: CompiledBackbones | None) -> float:
    """Measure a prediction, after one that is not measured."""
    times = []
    for _ in range(1 + REPEATS):
        started = perf_counter()
        _predicted(model, tiles, compiled)
        times.append(perf_counter() - started)
    return min(times[1:])


def check_engine(name: str, device: torch.device, precision: str) -> None:
    """Refuse an engine that cannot predict.

    Args:
        name: ``torch``, ``auto``, or the name of another engine.
        device: Where models predict.
        precision: Precision that they compute in.

    Raises:
        ConfigurationError: There is no such engine, it is not installed, or it does not compute on the device or in the
            precision.
    """
    if name not in (TORCH, AUTO, *ENGINES):
        message = f"There is no engine {name!r}. {allowed_names(name, (TORCH, AUTO, *ENGINES))}"
        raise ConfigurationError(message)
    if name == TORCH or (name == AUTO and device.type != "cpu"):
        return
    _check_device(name, device)
    _check_precision(name, precision)
    if name != AUTO:
        ENGINES[name].check_installed()


def _check_device(name: str, device: torch.device) -> None:
    """Refuse an engine on another device than a CPU.

    Raises:
        ConfigurationError: It is refused.
    """
    if device.type != "cpu":
        message = (
            f"The engine {name} computes on a CPU, but the device is {device}. Set the device to cpu, or the engine to "
            f"{TORCH}."
        )
        raise ConfigurationError(message)


def _check_precision(name: str, precision: str) -> None:
    """Refuse an engine that does not compute in a precision, or to choose one where results differ.

    Raises:
        ConfigurationError: It is refused.
    """
    able = [each.name for each in ENGINES.values() if precision in each.precisions]
    if precision != FLOAT32 and name not in able:
        reason, advice = f"lacks {precision}", allowed_names("", (TORCH, *able))
        if name == AUTO:
            reason = f"chooses in {FLOAT32} only"  # in half precision, engines do not agree
            advice = f"Name an engine ({', '.join((*able, TORCH))}), or predict in {FLOAT32}."
        message = f"The engine {name} {reason}, but the precision is {precision}. {advice}"
        raise ConfigurationError(message)
