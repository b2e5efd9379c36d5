"""Recording what places predict, in the order of the images, in whichever order the places finish; no models."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anomalib_tiled.errors import NoPlaceError, OutOfMemoryError, RunFolderError, StageError
from anomalib_tiled.grid import Size
from anomalib_tiled.results import collecting
from anomalib_tiled.results.collecting import Collection
from anomalib_tiled.results.prediction_folder import PredictionFolder
from anomalib_tiled.results.prediction_row import PredictedImage
from anomalib_tiled.results.recording import Part, Recording
from anomalib_tiled.results.request import PredictionSettings
from anomalib_tiled.results.shards import ImageShard
from anomalib_tiled.stages.workers import Conditions, KilledError, PlaceError
from anomalib_tiled.workers.scheduler import Outcome

SHARDS = [ImageShard(((Path(f"/in/{name}"), Path(f"/in/{name}2")),)) for name in "abcd"]

Answer = Callable[[ImageShard], Exception | None]


def predict(shard: ImageShard, parts: Path) -> None:
    part = Part(images_may_be_too_large=shard.alone)
    part.add([PredictedImage(str(path), Size(4, 6), 0.5, 0.5, 0, ()) for path in shard.images], has_maps=True)
    part.write(shard.file_in(parts))


class Scheduler:
    """Does the last item first."""

    def __init__(self, parts: Path, answer: Answer) -> None:
        self.parts, self.answer = parts, answer
        self.asked: list[ImageShard] = []
        self.workers = SimpleNamespace(elsewhere=False)

    def prepared_workers(self, _: object) -> SimpleNamespace:
        return self.workers

    def run(self, _: object, shards: Sequence[ImageShard], __: object) -> Generator[Outcome[Any], None, None]:
        for shard in reversed(shards):
            self.asked.append(shard)
            if (error := self.answer(shard)) is None:
                predict(shard, self.parts)
            yield Outcome(shard, error)


class Started:
    """A prediction whose scheduler gives these answers."""

    def __init__(self, path: Path, answer: Answer = lambda _: None, shards: Sequence[ImageShard] = SHARDS) -> None:
        self.folder = folder = PredictionFolder(path)
        folder.begin(PredictionSettings(), common="/in")
        self.recording = Recording(folder, [image for shard in SHARDS for image in shard.images], lambda _: None)
        self.scheduler = Scheduler(folder.parts, answer)
        job = SimpleNamespace(writer=SimpleNamespace(folder=folder))
        self.collection = Collection(self.scheduler, Conditions(), job, shards, self.recording)

    def predict(self) -> list[tuple[str, int]]:
        """Give the images that are recorded after each shard, and how many are done."""
        return [(self.recorded, self.collection.images) for _ in self.collection.predict(lambda _: None)]

    @property
    def recorded(self) -> str:
        return "".join(image.path.name for image in self.folder.predicted())


def failing(**errors: Exception) -> Answer:
    """Fail with shards of these names unless they are alone."""
    return lambda shard: None if shard.alone else errors.get(shard.images[0].name)


def test_images_are_recorded_in_their_order_as_soon_as_those_before_are(tmp_path: Path) -> None:
    started = Started(tmp_path)
    assert started.predict() == [("", 2), ("", 4), ("", 6), ("aa2bb2cc2dd2", 8)]


def test_a_command_that_was_killed_has_lost_only_what_was_in_work(tmp_path: Path) -> None:
    killed = Started(tmp_path).collection.predict(lambda _: None)
    for _ in range(3):
        next(killed)
    killed.close()
    again = Started(tmp_path)
    assert again.folder.holds_results(), "nothing else may be predicted into the folder"
    assert again.collection.images == 6
    assert again.predict() == [("aa2bb2cc2dd2", 8)]
    assert again.scheduler.asked == SHARDS[:1]
    again.recording.finish(coco=False, seconds=1.0)
    assert not again.folder.parts.exists()


def test_the_folder_is_changed_before_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[int] = []

    def note(folder: Path) -> None:
        changed.append(len(list(folder.glob("*.jsonl"))))

    monkeypatch.setattr(collecting, "refresh", note)
    Started(tmp_path).predict()
    assert changed == [0, 1, 2, 3, 4], "NFS lists an unchanged folder from memory"


def test_files_of_other_shards_are_not_used(tmp_path: Path) -> None:
    predict(ImageShard(((Path("/in/a"),),)), PredictionFolder(tmp_path).parts)
    started = Started(tmp_path)
    assert len(started.predict()) == 4
    assert started.recorded == "aa2bb2cc2dd2"


def test_a_shard_without_enough_memory_is_predicted_alone_when_all_others_are_done(tmp_path: Path) -> None:
    started = Started(tmp_path, failing(b=OutOfMemoryError("too large")))
    assert started.predict() == [("", 2), ("", 4), ("", 4), ("aa2", 6), ("aa2bb2cc2dd2", 8)]
    assert [shard.alone for shard in started.scheduler.asked] == [False] * 4 + [True]


def test_memory_that_runs_out_for_a_shard_alone_ends_the_prediction(tmp_path: Path) -> None:
    started = Started(tmp_path, lambda _: OutOfMemoryError("too large"))
    with pytest.raises(OutOfMemoryError, match="too large"):
        started.predict()


def test_shards_that_end_every_place_do_not_keep_others_from_being_predicted(tmp_path: Path) -> None:
    started = Started(tmp_path, failing(b=PlaceError("place 1 has ended: it crashed"), c=KilledError("killed")))
    with pytest.raises(NoPlaceError) as error:
        started.predict()
    assert str(error.value) == (
        "2 shards of images ended every place that they were given to. killed\n"
        "4 of 8 images are done, and stay. Resume with --skip_existing."
    )
    assert started.recorded == "aa2"


def test_without_any_place_the_error_says_what_is_done(tmp_path: Path) -> None:
    def none_left(shard: ImageShard) -> None:
        if shard is SHARDS[1]:
            message = "There is no place left to work at."
            raise NoPlaceError(message)

    started = Started(tmp_path, none_left)
    with pytest.raises(NoPlaceError, match=r"(?s)no place left to work at\..4 of 8 images are done, and stay\. Resume"):
        started.predict()


def test_an_error_that_is_the_same_for_all_ends_the_prediction(tmp_path: Path) -> None:
    started = Started(tmp_path, failing(d=RunFolderError("r00_c00.ckpt was changed")))
    with pytest.raises(RunFolderError, match="was changed"):
        started.predict()
    assert started.scheduler.asked == SHARDS[3:]


def test_workers_cannot_report_a_shard_that_is_not_predicted(tmp_path: Path) -> None:
    started = Started(tmp_path)
    started.scheduler.parts = tmp_path / "elsewhere"
    with pytest.raises(StageError, match=r"must predict what it reports as done, but .* of the shard of 2 images"):
        started.predict()
