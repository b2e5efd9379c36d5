"""The job of training and predicting tiles: small, and sent to processes that have not opened the run."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, ImageBatch, InferenceBatch
from anomalib.models.components import AnomalibModule

from anomalib_tiled.config.settings import CacheSettings, ClassSpec, Settings
from anomalib_tiled.data import cache
from anomalib_tiled.data.cache import DecodedFiles, ImageCache, PixelSource
from anomalib_tiled.data.split import Sample, Split, StoredSamples
from anomalib_tiled.ensemble.place_check import PlaceCheck
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.tile_job import RunData, TileJob
from anomalib_tiled.ensemble.tile_predictions import TilePredictions
from anomalib_tiled.errors import DataError, RunFolderError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.training.preparation import prepare
from anomalib_tiled.training.stored_predictions import PredictionJob, PredictTile
from anomalib_tiled.training.train_tile import TrainAndPredict

pytestmark = pytest.mark.usefixtures("unchecked")

T = TypeVar("T")


class Constant(AnomalibModule):
    """Always gives its one weight."""

    def __init__(self) -> None:
        super().__init__(pre_processor=False)
        self.weight = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, batch: torch.Tensor, *args: object) -> InferenceBatch:
        return InferenceBatch(pred_score=self.weight.expand(len(batch)))

    def training_step(self, batch: ImageBatch, *args: object) -> torch.Tensor:
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=1)

    trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
    learning_type = LearningType.ONE_CLASS


MANY_IMAGES = 10_000
EIGHT_BY_EIGHT = TileGrid(Size(2048, 2048), Size(384, 384), Size(240, 240))
MOST_BYTES = 20_000


def sent(task: T) -> T:
    """Give what another process gets."""
    return pickle.loads(pickle.dumps(task))  # noqa: S301  # was pickled on the same line


@pytest.fixture
def large(settings: Settings, tmp_path: Path) -> TileJob:
    """A job of 64 tiles of many images, all of which this process has read."""
    samples = tuple(
        Sample("train", Path(f"/data/boards/good/{number:05}.png"), None, 0) for number in range(MANY_IMAGES)
    )
    split = Split(samples)
    source: PixelSource = ImageCache(tmp_path / "key", EIGHT_BY_EIGHT, split.table.images, split.table.masks)
    job = TileJob(
        RunFolder(tmp_path / "v0"),
        settings,
        EIGHT_BY_EIGHT,
        RunData(split, source, settings.data.build(AnomalibDataModule)),
        tmp_path / "key",
    )
    assert len(job.grid.tiles) == 64
    assert job.grid.blocks
    assert job.fresh_models is job.fresh_models
    return job


def test_what_workers_are_sent_has_a_few_kilobytes(large: TileJob, tmp_path: Path) -> None:
    predictions = TilePredictions(tmp_path, large.grid, "fingerprint")
    predictions._records = {tile.name: [0.0] * MANY_IMAGES for tile in large.grid.tiles}  # as if all were read
    tasks = TrainAndPredict(large), PredictTile(PredictionJob(large, "calibration", tmp_path), predictions)
    assert all(len(pickle.dumps(task)) < MOST_BYTES for task in tasks)
    assert len(pickle.dumps(large.data.split)) > 20 * MOST_BYTES, "the images are not in it"


def test_a_job_is_used_where_nobody_has_opened_the_run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare(replace(settings, model=ClassSpec(f"{__name__}.Constant")))
    job = sent(run.job)
    monkeypatch.setattr(Run, "open", lambda *_: pytest.fail("a run is opened"))
    run.folder.config_file.unlink()
    run.folder.origins_file.unlink()
    assert job.settings == run.settings
    assert job.data.split == run.split
    assert job.device().type == "cpu"
    task = TrainAndPredict(job)
    task(run.grid.tiles[0])
    sent(task)(run.grid.tiles[1])
    assert [run.folder.has_record(tile) for tile in run.grid.tiles[:3]] == [True, True, False]


def test_the_assignment_and_the_seed_decide_what_a_shared_model_learns_from(settings: Settings) -> None:
    shared = ClassSpec("anomalib_tiled.stages.assignment.Shared", {"tiles_per_image": 1})
    run = prepare(replace(settings, stages={**settings.stages, "assignment": shared}))
    images = len(run.split.subset("train"))

    def learned(seed: int) -> list[list[float]]:
        job = replace(run.job, settings=replace(run.settings, seed_everything=seed))
        (model,) = job.grid.models
        return [each.image.flatten().tolist() for each in job.tile_data(model).train_dataloader().dataset]

    assert len(run.grid.tiles) > 1
    assert len(learned(0)) == images
    assert learned(0) == learned(0)
    assert any(learned(seed) != learned(0) for seed in range(1, 4))


def test_a_process_that_has_read_the_images_reads_them_no_more(settings: Settings) -> None:
    run = prepare(settings)
    run.folder.split_file.unlink()
    assert run.job.data.split is run.split
    job = sent(run.job)
    with pytest.raises(RunFolderError, match=r"split\.csv is missing"):
        _ = job.data


def test_a_split_that_was_changed_is_not_trained_on(settings: Settings) -> None:
    run = prepare(settings)
    run.folder.split_file.write_text(run.folder.split_file.read_text().replace("train", "test", 1))
    with pytest.raises(RunFolderError, match=r"split\.csv (was changed|had) .*lists the training images: restore it"):
        _ = replace(run.job, known=None).data


@pytest.fixture
def cached(settings: Settings, tmp_path: Path) -> Run:
    return prepare(replace(settings, cache=CacheSettings(str(tmp_path / "cache"))))


def test_a_job_reads_the_cache_without_a_look_at_an_image(cached: Run, image_folder: Path) -> None:
    job, tile = sent(cached.job), cached.grid.tiles[1]
    expected = cached.job.tile_data(tile).example(1)
    for name in ("good", "test", "bad", "masks"):
        (image_folder / name).rename(image_folder / f"{name}_elsewhere")
    assert isinstance(job.data.source, ImageCache)
    assert isinstance(job.data.split.samples, StoredSamples)
    assert job.data.split == cached.split
    assert torch.equal(job.tile_data(tile).example(1), expected)
    assert job.data.source.fingerprint == cached.source.fingerprint, "predictions are kept under the same name"
    job.check_data()


def test_a_job_whose_cache_is_hidden_decodes_nothing(
    cached: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = sent(cached.job)
    (tmp_path / "cache").rename(tmp_path / "hidden")
    monkeypatch.setattr(cache, "read_image", lambda *_: pytest.fail("an image is decoded"))
    message = f"must see its image cache, but {cached.source.folder} is not visible from this machine"
    with pytest.raises(DataError, match=message):
        PlaceCheck(job, download=False)(None)
    with pytest.raises(DataError, match=message):
        TrainAndPredict(job)(cached.grid.tiles[0])


def test_a_job_without_a_cache_decodes_even_if_there_is_one_by_now(settings: Settings, image_folder: Path) -> None:
    """All processes read images in the same way, or kept predictions would differ."""
    run = prepare(settings)
    job = sent(run.job)
    assert isinstance(job.data.source, DecodedFiles)


def test_without_a_cache_an_image_that_the_command_sees_must_be_visible(settings: Settings, image_folder: Path) -> None:
    """Images of other subsets may be gone: what is predicted now does not need them."""
    run = prepare(settings)
    (image_folder / "good").rename(image_folder / "gone")
    job = sent(run.job)
    job.check_data()
    (image_folder / "bad").rename(image_folder / "hidden")
    message = rf"must see its images, but {image_folder}/bad/0\.png is not visible from this machine"
    with pytest.raises(DataError, match=message):
        job.check_data()
    sent(replace(run).job).check_data()  # the command sees none either: new images need none


def test_a_job_says_that_the_split_is_gone(cached: Run) -> None:
    cached.folder.split_file.unlink()
    with pytest.raises(RunFolderError, match=r"split\.csv is missing"):
        sent(cached.job).check_data()
