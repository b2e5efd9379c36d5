"""Calibration and test on places, in shards of any size and any order, give the numbers of one process, to the bit."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from anomalib.models.components import AnomalibModule
from PIL import Image

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.config.tiling import grid_of
from anomalib_tiled.data.cache import open_source
from anomalib_tiled.data.datamodule import split_once
from anomalib_tiled.data.scope import Scope
from anomalib_tiled.ensemble import cross_validation
from anomalib_tiled.ensemble import stored_images as sharing
from anomalib_tiled.ensemble.calibration import Calibration, Stages
from anomalib_tiled.ensemble.loaded_models import SavedModels
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.stored_images import Shard, StoredImages
from anomalib_tiled.ensemble.tile_job import RunData, TileJob
from anomalib_tiled.errors import RunFolderError, StageError, TrainingError
from anomalib_tiled.grid import Tile
from anomalib_tiled.results.measured import RunMeasurements, score_rows
from anomalib_tiled.results.measuring import MeasuredImages, MeasureImages, MeasureTiles, measure
from anomalib_tiled.results.tested_folder import TestedFolder
from anomalib_tiled.results.tested_writer import TestedBatch, TestWriter, written_meanwhile
from anomalib_tiled.results.thumbnails import Thumbnails
from anomalib_tiled.runs.run_folder import RunFolder, TileRecord
from anomalib_tiled.stages.contracts import errors_naming_stage
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.training import stored_predictions as predicting
from anomalib_tiled.training.calibrate import learn
from anomalib_tiled.training.in_order import values_in_order
from anomalib_tiled.training.observations import ObserveHere, ObserveOnPlaces
from anomalib_tiled.training.stored_predictions import lazy_predictions, stored_images
from anomalib_tiled.workers.scheduler import Outcome, scheduler_of

PLACES = [*product(("tile", "image", "none"), ("tile", "image"))]
WHOLE, SOME = 2**27, 2 * 8 * 12
"""Pixels of a shard: all images, or two of them."""

METRICS = {"image": ["AUROC", "AUPR", "F1Score"], "pixel": ["AUROC", "AUPR", "F1Max", "F1Score"]}

Make = Callable[[float], AnomalibModule]


@pytest.fixture
def run(
    configuration: dict[str, object],
    datamodule: Folder,
    image_folder: Path,
    brightness: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """A run as if all of its tiles were trained: overlapping tiles, the first one blank; a mask is missing."""
    for number in range(2, 4):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        mask = 255 * np.eye(8, 12, number, dtype=np.uint8)
        Image.fromarray(pixels).save(image_folder / "bad" / f"{number}.png")
        Image.fromarray(mask).save(image_folder / "masks" / f"{number}.png")
    for path in (path for folder in ("good", "test", "bad") for path in (image_folder / folder).iterdir()):
        pixels = np.asarray(Image.open(path)).copy()
        pixels[:4, :4] = 100
        Image.fromarray(pixels).save(path)
    tiling = {"image_size": [8, 12], "tile_size": 4, "stride": 3}
    cpu = {"accelerator": "cpu"}
    settings = Settings.from_mapping(configuration | {"trainer": cpu, "tiling": tiling, "metrics": METRICS})
    folder, grid = RunFolder(image_folder / "runs" / "v0"), grid_of(settings.tiling)
    split = split_once(datamodule)
    first, *others = [sample for sample in split.samples if sample.label == 1]
    unmasked = {first.image_path}
    samples = [replace(each, mask_path=None) if each.image_path in unmasked else each for each in split.samples]
    assert others
    split = replace(split, samples=tuple(samples))
    for tile in grid.tiles:
        path = folder.checkpoint(tile)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        folder.write_record(tile, TileRecord(1.0, 1, settings.training_hash, Checksum.of(path)))
    monkeypatch.setattr(TileJob, "checkpoint_is_complete", property(lambda _: False))
    monkeypatch.setattr(SavedModels, "load", lambda self, tile: brightness(10.0 * (1 + tile.row + tile.column)))
    source = open_source(split, grid, image_folder / "cache")
    return Run(folder, settings, grid, split, source, datamodule, scheduler_of(settings))


def at(run: Run, normalize_at: str, threshold_at: str) -> Run:
    """Give the run with other places of normalization and thresholding."""
    normalization = replace(run.settings.normalization, stage=normalize_at)
    thresholding = replace(run.settings.thresholding, stage=threshold_at)
    return replace(run, settings=replace(run.settings, normalization=normalization, thresholding=thresholding))


@pytest.fixture
def far_away(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Send all work and values through pickles, the last item first; names of the items."""
    data, names = run.job.data, []

    def on_places(_: Run, function: object, items: Sequence[Shard | Tile]) -> Iterator[Outcome]:
        received = pickle.loads(pickle.dumps(function))  # noqa: S301  # from this process
        for item in reversed(items):
            names.append(item.name)
            yield Outcome(item, None, pickle.loads(pickle.dumps(received(item))))  # noqa: S301  # from this process

    monkeypatch.setattr(TileJob, "data", property(lambda _: data))
    monkeypatch.setattr(Run, "on_places", on_places)
    return names


@pytest.mark.parametrize(
    ("pixels", "places"), [*((SOME, each) for each in PLACES), (WHOLE, ("tile", "image")), (1, ("tile", "image"))]
)
def test_places_calibrate_as_one_process_does(
    run: Run, far_away: list[str], monkeypatch: pytest.MonkeyPatch, pixels: int, places: tuple[str, str]
) -> None:
    run, found = at(run, *places), []
    monkeypatch.setattr(sharing, "PIXELS_OF_A_SHARD", pixels)
    monkeypatch.setattr(cross_validation, "FEWEST_ROUNDS", 2)
    stages, ensemble = Stages.build(run.settings), run.ensemble()
    stream = partial(lazy_predictions, run, ensemble, "calibration", run.folder.predictions, "Calibrating")
    for observe in (ObserveHere(ensemble, stream), ObserveOnPlaces(run, masks_known=True)):
        scores: list[list[float]] = []
        learned = learn(stages, observe, lambda seen, scores=scores: scores.append(seen.scores.peaks.tolist()))
        found.append((json.dumps(learned.to_json()), scores))
    assert found[0] == found[1]
    assert learned.false_alarms.images == 2
    assert ("tile" in places) == ("r00_c00" in learned.borrowed)
    assert any("images" in name for name in far_away) == (pixels < WHOLE)


def folder_of_places(run: Run) -> TestedFolder:
    return TestedFolder(run.folder.path / "on places")


def unwritten(_: TestedBatch) -> None:
    """Write nothing of a batch."""


def pictures_in(folder: TestedFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.thumbnails.iterdir()}


def rows_on_places(run: Run, measurements: RunMeasurements, calibration: Calibration) -> Iterator[tuple[object, ...]]:
    """Measure as ``test`` does; give the rows of the scores."""
    log = run.folder.log_file
    for stored in stored_images(run, "test", run.folder.predictions):
        for tiles in values_in_order(run, MeasureTiles(stored), stored.shards_of_tiles(), "Measuring", log):
            measurements.add_tiles(tiles)
        part: MeasuredImages
        work = MeasureImages(stored, calibration, folder_of_places(run), None)
        for part in values_in_order(run, work, stored.shards(), "Measuring", log):
            measurements.merge(part.measurements)
            yield from part.rows


@pytest.mark.parametrize(
    ("pixels", "lacking"), [(WHOLE, ()), (SOME, ()), (SOME, ("r00_c00", "r00_c01", "r01_c00")), (1, ())]
)
def test_places_measure_as_one_process_does(
    run: Run, far_away: list[str], monkeypatch: pytest.MonkeyPatch, pixels: int, lacking: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sharing, "PIXELS_OF_A_SHARD", pixels)
    run = replace(run, grid=run.grid.without(lacking))
    monkeypatch.setattr(Run, "left_out_note", lambda _: None)
    calibration = learn(Stages.build(run.settings), ObserveOnPlaces(run, masks_known=True))
    ensemble = run.ensemble(calibration)
    here, shared = (RunMeasurements(run.settings, run.grid) for _ in range(2))
    images = lazy_predictions(run, ensemble, "test", run.folder.predictions, "Measuring")
    alone = TestedFolder(run.folder.path / "alone")
    writer = TestWriter(alone, None, Thumbnails.of(run.settings), run.split)
    with alone.lines() as write_lines, written_meanwhile(writer, 0, write_lines) as write:
        rows = [row for batch in measure(images, ensemble, here, write, tiles=True) for row in score_rows(*batch)]
    assert [*rows_on_places(run, shared, calibration)] == rows
    assert pictures_in(alone) == pictures_in(folder_of_places(run)), "numbered over all shards"
    assert [Path(each.image_path) for each in alone.images()] == [Path(str(row[0])) for row in rows]
    assert shared.results(run, calibration) == here.results(run, calibration)
    assert len(rows) == len(run.split.subset("test"))
    assert any("images" in name for name in far_away) == (pixels < WHOLE)


@pytest.mark.slow
def test_images_in_parts_are_calibrated_and_measured_as_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = learn(Stages.build(run.settings), ObserveOnPlaces(run, masks_known=True))
    monkeypatch.setattr(predicting.PredictionJob, "stays", property(lambda _: False))
    monkeypatch.setattr(predicting.PredictionJob, "room", property(lambda _: 2))
    parts = [stored.number for stored in stored_images(run, "calibration", run.folder.predictions)]
    assert parts == [2, 2, 2]
    assert learn(Stages.build(run.settings), ObserveOnPlaces(run, masks_known=True)) == expected
    monkeypatch.setattr(Run, "left_out_note", lambda _: None)
    ensemble, here, shared = run.ensemble(expected), *(RunMeasurements(run.settings, run.grid) for _ in range(2))
    images = lazy_predictions(run, ensemble, "test", run.folder.predictions, "Measuring")
    rows = [row for batch in measure(images, ensemble, here, unwritten, tiles=True) for row in score_rows(*batch)]
    assert [*rows_on_places(run, shared, expected)] == rows
    assert shared.results(run, expected) == here.results(run, expected)


def test_shards_follow_from_sizes_and_parts_do_not_cut_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    [stored] = stored_images(run, "test", run.folder.predictions)
    assert stored.shards() == [Shard(0, 6)], "a small run is one piece of work"
    assert stored.shards_of_tiles() == [Shard(0, len(run.grid.tiles), "tiles")]
    monkeypatch.setattr(sharing, "PIXELS_OF_A_SHARD", 2 * 8 * 12)
    assert [shard.name for shard in stored.shards()] == ["images 1 to 2", "images 3 to 4", "images 5 to 6"]
    assert [len(stored.tiles(shard)) for shard in stored.shards_of_tiles()] == [2] * 6
    assert predicting._whole_shards(7, run.grid) == 6
    assert predicting._whole_shards(1, run.grid) == 1


def test_predictions_that_have_changed_are_not_read(run: Run) -> None:
    [stored] = stored_images(run, "test", run.folder.predictions)
    there: StoredImages = replace(stored, predictions=pickle.loads(pickle.dumps(stored.predictions)))  # noqa: S301
    run.folder.write_record(run.grid.tiles[1], TileRecord(1.0, 1, run.settings.training_hash, Checksum(1, "again")))
    with pytest.raises(RunFolderError, match=r"The predictions of tile r00_c01 in .* have changed. Run the command"):
        there.tiles(Shard(0, 4, "tiles"))


def failing(error: Exception) -> Callable[..., Iterator[Outcome]]:
    return lambda _, function, items: (Outcome(item, error) for item in items)


def test_errors_of_places_name_the_stage_or_the_images(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    work, shards = ObserveHere, [Shard(0, 2), Shard(2, 2)]
    monkeypatch.setattr(Run, "on_places", failing(RuntimeError("out of luck")))
    message = r"Calibrating failed for images 1 to 2: RuntimeError: out of luck \(log: .*run.log\)"
    with pytest.raises(TrainingError, match=message):
        [*values_in_order(run, work, shards, "Calibrating", run.folder.log_file)]
    monkeypatch.setattr(Run, "on_places", failing(StageError("Merging failed.")))
    with pytest.raises(StageError, match=r"^Merging failed\.$"):
        [*values_in_order(run, work, shards, "Calibrating", run.folder.log_file)]


def test_a_single_piece_of_work_starts_no_process(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "on_places", lambda *_: pytest.fail("a place is used"))
    values = values_in_order(run, lambda shard: shard.number, [Shard(0, 2)], "Calibrating", run.folder.log_file)
    assert [*values] == [2]


def test_a_stage_that_fails_on_a_place_names_the_images(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> torch.Tensor:
        with errors_naming_stage(run):
            message = "no scores today"
            raise ValueError(message)

    monkeypatch.setattr("anomalib_tiled.stages.scoring.Max.score", refuse)
    [stored] = stored_images(run, "test", run.folder.predictions)
    with pytest.raises(StageError, match=r"no scores today.* Images: .*0.png"):
        MeasureImages(stored, Calibration(), folder_of_places(run), None)(Shard(0, 2))


@pytest.mark.parametrize("places", [("tile", "image"), ("image", "tile")])
def test_places_hide_the_same_pixels(run: Run, far_away: list[str], places: tuple[str, str]) -> None:
    """The regions ignore a corner, and aligned images are moved, each by another distance."""
    ignored, samples = np.zeros((8, 12), dtype=np.bool_), enumerate(run.split.samples)
    ignored[5:, 9:] = True
    moved = [replace(each, matrix=(1.0, 0.0, number % 3 - 1, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)) for number, each in samples]
    scope, split = Scope(ignored), replace(run.split, samples=tuple(moved))
    run = replace(at(run, *places), split=split, source=replace(run.source, scope=scope))
    assert not far_away
    stages = Stages.build(run.settings)
    with pytest.MonkeyPatch.context() as patch:
        data = RunData(run.split, run.source, run.datamodule)  # far_away knows that of the run without them
        patch.setattr(TileJob, "data", property(lambda _: data))
        patch.setattr(Run, "left_out_note", lambda _: None)
        ensemble = run.ensemble()
        stream = partial(lazy_predictions, run, ensemble, "calibration", run.folder.predictions, "Calibrating")
        found = [
            learn(stages, each) for each in (ObserveHere(ensemble, stream), ObserveOnPlaces(run, masks_known=True))
        ]
        assert found[0] == found[1]
        ensemble, here, shared = run.ensemble(found[0]), *(RunMeasurements(run.settings, run.grid) for _ in range(2))
        images = lazy_predictions(run, ensemble, "test", run.folder.predictions, "Measuring")
        rows = []
        for (batch, _), hidden in zip(
            measure(images, ensemble, here, unwritten, tiles=True), run.images("test").hidden(), strict=True
        ):
            assert torch.equal(batch.anomaly_map.isnan(), hidden[:, 0]), "neither ignored nor outside"
            assert not batch.pred_mask[hidden[:, 0]].any()
            rows += score_rows(batch)
        assert [*rows_on_places(run, shared, found[0])] == rows
        results = [each.results(run, found[0]) for each in (here, shared)]
    assert results[0] == results[1]
