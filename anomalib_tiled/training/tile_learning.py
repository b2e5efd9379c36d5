"""What the stages learn from tiles: in this process, or where the stored predictions of each tile are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from anomalib_tiled.ensemble.calibration import Stages
from anomalib_tiled.ensemble.cross_validation import called_anomalous, called_without_learning, rounds_for
from anomalib_tiled.ensemble.spread import Spread, lend
from anomalib_tiled.errors import StageError
from anomalib_tiled.stages.contracts import with_context
from anomalib_tiled.training.in_order import values_in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anomalib_tiled.ensemble.calibration import Level
    from anomalib_tiled.ensemble.observed import Observed
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.stored_images import Shard, StoredImages
    from anomalib_tiled.grid import Tile


@dataclass(frozen=True)
class LearnedTile:
    """What the stages have learned from one tile location.

    Args:
        level: Its calibration.
        rounding: How far rounding may move its normalized scores, and its pixels.
        has_anomalous: Whether it is anomalous in a validation image.
        called: Which normal images it calls anomalous with a threshold that was learned without them, shape (normal
            images,); ``None`` if that is unknown, or tiles are not thresholded.
    """

    level: Level
    rounding: tuple[float, float]
    has_anomalous: bool
    called: NDArray[np.bool_] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class TileAlone:
    """What is known of a tile location before it is known whether it borrows scores.

    Args:
        spread: Spread of its normal scores.
        learned: What the stages learn from its own scores, or why they cannot.
    """

    spread: Spread | None
    learned: LearnedTile | StageError


class SeenTiles(Protocol):
    """The scores of all tile locations, in this process or elsewhere."""

    def spreads(self) -> dict[str, Spread | None]:
        """Give the spread of the normal scores of each tile."""

    def learn(self, stages: Stages, lenders: Mapping[str, str]) -> dict[str, LearnedTile]:
        """Let the stages learn from each tile.

        Args:
            stages: The stages.
            lenders: Names of tiles that borrow normal scores, each with that of its lender.

        Raises:
            StageError: A stage fails.
        """


@dataclass(frozen=True)
class TilesHere:
    """Tiles whose scores are in this process.

    Args:
        observed: Their scores, by their names.
    """

    observed: Mapping[str, Observed]

    def spreads(self) -> dict[str, Spread | None]:
        """Give the spread of the normal scores of each tile."""
        return {name: Spread.of(each) for name, each in self.observed.items()}

    def learn(self, stages: Stages, lenders: Mapping[str, str]) -> dict[str, LearnedTile]:
        """Let the stages learn from each tile."""
        seen = self.observed
        lent = {name: lend(seen[name], seen[lender]) for name, lender in lenders.items()}
        learn = partial(_learned, stages, rounds=rounds_for(len(seen)))
        return {name: learn(name, own, lent.get(name)) for name, own in seen.items()}


@dataclass(frozen=True)
class LearnTiles:
    """Lets the stages learn from some tiles on a place, which reads their predictions of all images.

    Args:
        images: The images with the predictions of their tiles.
        observe: Counts the scores of a tile; can be pickled.
        lenders: As for `SeenTiles.learn`; with any, only the tiles that borrow learn.
    """

    images: StoredImages
    observe: Callable[[Tile], Observed]
    lenders: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, shard: Shard, *, device: int | None = None) -> dict[str, TileAlone]:
        """Learn from the tiles of a shard.

        Args:
            shard: The tiles.
            device: Not used: only counting is done.

        Raises:
            RunFolderError: A file has changed.
        """
        del device
        stages, tiles = Stages.build(self.images.job.settings), self.images.tiles(shard)
        chosen = [tile for tile in tiles if tile.name in self.lenders] if self.lenders else tiles
        return {tile.name: self._alone(stages, tile) for tile in chosen}

    def _alone(self, stages: Stages, tile: Tile) -> TileAlone:
        own, lent, spread = self.observe(tile), None, None
        if tile.name in self.lenders:
            lent = lend(own, self._observed_lenders[self.lenders[tile.name]])
        else:
            spread = Spread.of(own)
        rounds = rounds_for(len(self.images.job.grid.tiles))
        try:
            return TileAlone(spread, _learned(stages, tile.name, own, lent, rounds=rounds))
        except StageError as error:
            return TileAlone(spread, error)

    @cached_property
    def _observed_lenders(self) -> dict[str, Observed]:
        grid, names = self.images.job.grid, {*self.lenders.values()}
        return {name: self.observe(grid.tile(name)) for name in names}


@dataclass(frozen=True)
class TilesOnPlaces:
    """Tiles whose stored predictions places read.

    Args:
        run: The run.
        images: The images with the predictions of their tiles.
        observe: As for `LearnTiles`.
    """

    run: Run
    images: StoredImages
    observe: Callable[[Tile], Observed]

    def spreads(self) -> dict[str, Spread | None]:
        """Give the spread of the normal scores of each tile."""
        return {name: each.spread for name, each in self._alone.items()}

    def learn(self, stages: Stages, lenders: Mapping[str, str]) -> dict[str, LearnedTile]:
        """Give what the stages have learned on places; tiles that borrow learn once more."""
        del stages
        again = self._learned(dict(lenders)) if lenders else {}
        return {name: _without_error(each) for name, each in {**self._alone, **again}.items()}

    @cached_property
    def _alone(self) -> dict[str, TileAlone]:
        return self._learned({})

    def _learned(self, lenders: dict[str, str]) -> dict[str, TileAlone]:
        tiles, shards = self.images.job.grid.predicted, self.images.shards_of_tiles()
        if lenders:
            borrowing = [number for number, tile in enumerate(tiles) if tile.name in lenders]
            shards = [each for each in shards if any(0 <= number - each.first < each.number for number in borrowing)]
        work, log = LearnTiles(self.images, self.observe, lenders), self.run.folder.log_file
        found: dict[str, TileAlone] = {}
        for part in values_in_order(self.run, work, shards, "Calibrating tiles", log):
            found |= part
        return found


def _without_error(tile: TileAlone) -> LearnedTile:
    if isinstance(tile.learned, StageError):
        raise tile.learned
    return tile.learned


def _learned(stages: Stages, name: str, own: Observed, lent: Observed | None = None, *, rounds: int) -> LearnedTile:
    """Let the stages learn from the own scores of a tile, or from those that it was lent."""
    observed, normalize, rule = lent or own, stages.normalize_at == "tile", stages.tile_rule
    with with_context(f"Tile: {name}."):
        level = observed.learn(stages, normalize=normalize, rule=rule)
        rounding = observed.rounding(stages.normalizer, level) if stages.learn_from_images else (0.0, 0.0)
    called = None
    if stages.threshold_at == "tile" and lent is None:
        called = called_without_learning(stages, rule, own, normalize=normalize, rounds=rounds)
    elif stages.threshold_at == "tile":  # learned from the scores of another tile
        called = called_anomalous(stages, own, level.scores)
    return LearnedTile(level, rounding, observed.scores.has_anomalous, called)
