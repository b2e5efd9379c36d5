"""What a place does, with made-up images; and how large it is when it is sent."""

from __future__ import annotations

import pickle
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.data.unlabelled_images import TrainedOn
from anomalib_tiled.ensemble.tile_job import TileJob
from anomalib_tiled.errors import DataError, OutOfMemoryError, RunFolderError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.plugins.observers import PlaceObservers
from anomalib_tiled.results.image_job import ImageJob
from anomalib_tiled.results.pictures import Pictures
from anomalib_tiled.results.predict_shard import PredictionCheck, PredictShard
from anomalib_tiled.results.prediction_folder import PredictionFolder
from anomalib_tiled.results.prediction_row import PredictedImage
from anomalib_tiled.results.prediction_writer import PredictionWriter
from anomalib_tiled.results.recording import Record
from anomalib_tiled.results.request import PredictionSettings
from anomalib_tiled.results.shards import ImageShard
from anomalib_tiled.results.thresholds import Thresholds
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.system.hardware import processor_name
from anomalib_tiled.workers.proof import Token

MOST_BYTES = 8_000

SHARD = ImageShard(((Path("/in/a"), Path("/in/b")), (Path("/in/c"),)))


class Job:
    """Predicts nothing, but notes which images together, and on which GPU."""

    device = "auto"

    def __init__(self, output: Path, fail: Callable[[], None]) -> None:
        self.fail = fail
        self.predicted: list[tuple[str, ...]] = []
        self.opened: list[int | None] = []
        self.job = SimpleNamespace(settings=SimpleNamespace(seed_everything=3))
        self.writer = SimpleNamespace(folder=PredictionFolder(output))
        self.new_images = lambda _: SimpleNamespace(batches=lambda paths, _: [tuple(path.name for path in paths)])

    def predictor_at(self, index: int | None) -> SimpleNamespace:
        self.opened.append(index)
        return SimpleNamespace(predict=self.predict)

    def predict(self, batch: tuple[str, ...], record: Record) -> Iterator[str]:
        self.fail()
        self.predicted.append(batch)
        record.add([PredictedImage(name, Size(4, 6), 0.5, 0.5, 0, ()) for name in batch], has_maps=True)
        yield from batch


class Told(list[str]):
    """Notes the images of which it is notified."""

    failures = ("image_predicted of listener failed",)
    __call__ = list.append


@pytest.fixture
def token(tmp_path: Path) -> Token:
    token = Token(tmp_path / "predict.parts" / "token", "of this command")
    token.path.parent.mkdir()
    token.path.write_text(token.content)
    return token


def test_a_shard_is_predicted_batch_by_batch_and_the_ensemble_is_loaded_once(tmp_path: Path, token: Token) -> None:
    job, told = Job(tmp_path, lambda: None), Told()
    work = PredictShard(job, token, told)
    work(SHARD, device=1)
    work(ImageShard(((Path("/in/d"),),)), device=1)
    assert (job.predicted, job.opened) == ([("a", "b"), ("c",), ("d",)], [1])
    assert told == [*"abcd"]
    content = SHARD.file_in(token.path.parent).read_text().splitlines()
    assert [line.partition(":")[0] for line in content] == ['{"images"', '{"images"', '{"note"']
    assert "warning: image_predicted of listener failed" in content[-1]


def test_a_shard_that_is_predicted_is_not_predicted_again(tmp_path: Path, token: Token) -> None:
    job = Job(tmp_path, lambda: None)
    for _ in range(2):
        PredictShard(job, token, Told())(SHARD)
    assert job.predicted == [("a", "b"), ("c",)]


def test_a_place_that_outlives_its_command_leaves_nothing(tmp_path: Path, token: Token) -> None:
    def command_ends() -> None:
        token.path.write_text("of the next command")

    with pytest.raises(RunFolderError, match="must be the same shared folder"):
        PredictShard(Job(tmp_path, command_ends), token, Told())(SHARD)
    assert [path.name for path in token.path.parent.iterdir()] == ["token"]


def test_an_error_is_in_the_log_of_the_process(tmp_path: Path, token: Token) -> None:
    def too_large() -> None:
        message = "too large"
        raise OutOfMemoryError(message)

    with pytest.raises(OutOfMemoryError):
        PredictShard(Job(tmp_path, too_large), token, Told())(SHARD)
    [log] = (tmp_path / "logs").iterdir()
    assert re.fullmatch(rf"{re.escape(platform.node())}-\d+\.log", log.name)
    assert "Predicting the shard of 3 images from /in/a on failed." in log.read_text()


@pytest.fixture
def image_job(settings: Settings, tmp_path: Path) -> ImageJob:
    grid = TileGrid(Size(2048, 2048), Size(384, 384), Size(240, 240))
    writer = PredictionWriter(PredictionFolder(tmp_path), PredictionSettings(), Pictures(tmp_path, tmp_path))
    sizes = TrainedOn(grid.image_size, grid.image_size)
    return ImageJob(TileJob(RunFolder(tmp_path / "v0"), settings, grid), writer, Thresholds(), 8, sizes, "cpu")


def test_the_job_is_small_when_it_is_sent(image_job: ImageJob, token: Token) -> None:
    work = PredictShard(image_job, token, PlaceObservers(Path("run")))
    work._predictors[None] = torch.zeros(10_000)
    content = pickle.dumps(work)
    assert len(content) < MOST_BYTES
    sent = pickle.loads(content)  # noqa: S301  # was pickled above
    assert not sent._predictors
    assert sent.job.writer == image_job.writer
    assert sent.job.new_images(lambda *_: None).batch_size == 8


def test_a_place_must_see_run_and_images(image_job: ImageJob, tmp_path: Path) -> None:
    folder = image_job.job.folder
    with pytest.raises(RunFolderError, match=rf"calibration\.json is missing\. Mount {folder.path} there at this path"):
        PredictionCheck(image_job, None)(None)
    folder.path.mkdir()
    folder.calibration_file.write_text("{}")
    folder.note_checksum(folder.calibration_file)
    assert PredictionCheck(image_job, None)(None, device=3) == processor_name(), "--device wins"
    with pytest.raises(DataError, match=rf"but {platform.node()} does not see {tmp_path}/a\.png\. Mount their folder"):
        PredictionCheck(image_job, tmp_path / "a.png")(None)
