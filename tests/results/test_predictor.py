"""Predicting batches for which there may be too little memory; no models, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch, ImageItem, InferenceBatch

from anomalib_tiled.data.appearance import Appearance
from anomalib_tiled.data.unlabelled_images import SourceBatch
from anomalib_tiled.ensemble.named_regions import DecidedRegion
from anomalib_tiled.ensemble.raw_prediction import RawPrediction
from anomalib_tiled.errors import DataError, NotFiniteError, OutOfMemoryError
from anomalib_tiled.grid import Size
from anomalib_tiled.results.prediction_row import Details, PredictedImage
from anomalib_tiled.results.predictor import Predictor
from anomalib_tiled.results.recording import Recording
from anomalib_tiled.results.regions import InFile


class Ensemble:
    """Gives the brightness of images; how many it is asked for together is noted."""

    def __init__(self, fail: Callable[[int], None]) -> None:
        self.asked: list[int] = []
        self.fail = fail

    def predict_raw(
        self, images: torch.Tensor, on_tile: Callable[..., None] | None, *, hidden: torch.Tensor | None
    ) -> RawPrediction:
        self.asked.append(len(images))
        self.fail(len(images))
        if on_tile is not None:
            on_tile(None, None)
        maps = images.mean(dim=1, keepdim=True)
        tiles = {"r00_c00": maps[:, 0, 0, 0], "r00_c01": torch.full((len(maps),), torch.nan)}
        return RawPrediction(
            maps.amax(dim=(1, 2, 3)), maps, has_maps=True, labels=None, masks=None, hidden=hidden, tiles=tiles
        )

    def decide(self, raw: RawPrediction) -> InferenceBatch:
        return InferenceBatch(
            pred_score=raw.scores, anomaly_map=raw.maps, pred_label=raw.scores > 0.5, pred_mask=raw.maps > 0.5
        )

    def decide_regions(self, raw: RawPrediction) -> dict[str, DecidedRegion]:
        return {name: DecidedRegion(scores, scores > 0.5) for name, scores in raw.regions.items()}


class Written:
    """Stands in for the writer."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.maps: list[torch.Tensor] = []
        self.failures: list[str] = []
        self.details: dict[str, Details] = {}
        self.folder = SimpleNamespace(
            parts=Path("nowhere"),
            repair=dict,
            forget_failures=lambda _: set(),
            append=lambda images: self.names.extend(image.image_path for image in images),
            append_failure=lambda path, _: self.failures.append(str(path)),
            note_maps=lambda **_: None,
            uncertain=lambda: None,
        )

    def write(self, item: ImageItem, _: InFile, __: float, raw_map: torch.Tensor, details: Details) -> PredictedImage:
        self.maps.append(raw_map)
        self.details[str(item.image_path)] = details
        if str(item.image_path) in {"gone", "moved"}:
            message = f"{item.image_path} is missing"
            raise DataError(message)
        return PredictedImage(str(item.image_path), Size(4, 4), 0.0, 0.0, 0, ())


class Prediction:
    """A predictor, and the record of its command."""

    def __init__(self, ensemble: Ensemble, written: Written, said: list[str]) -> None:
        thresholds = SimpleNamespace(decide=lambda _, decided: decided)
        self.predictor = Predictor(ensemble, thresholds, written)
        self.recording = Recording(written.folder, [], said.append)

    def predict(self, batch: SourceBatch, on_tile: Callable[..., None] | None = None) -> Iterator[ImageItem]:
        return self.predictor.predict(batch, self.recording, on_tile)


def test_scores_of_tiles_and_looks_stay_with_their_images() -> None:
    given = batch(*"abc")
    for fail in (lambda _: None, too_large_together):
        predicting, _, written, _ = prediction(fail)
        list(predicting.predict(given))
        for name, image in zip("abc", given.images.image, strict=True):
            details = written.details[name]
            assert details.appearance == Appearance(ord(name) / 128, 0.5, 0.5)
            assert details.tiles == {"r00_c00": pytest.approx(float(image[:, 0, 0].mean()))}, "one is wholly hidden"


def too_large_together(number: int) -> None:
    if number > 1:
        torch.empty(2**60)


def prediction(fail: Callable[[int], None]) -> tuple[Prediction, Ensemble, Written, list[str]]:
    ensemble, written, said = Ensemble(fail), Written(), []
    return Prediction(ensemble, written, said), ensemble, written, said


def batch(*names: str) -> SourceBatch:
    images = torch.rand(len(names), 3, 4, 6, generator=torch.Generator().manual_seed(len(names)))
    looks = tuple(Appearance(ord(name[0]) / 128, 0.5, 0.5) for name in names)
    return SourceBatch(ImageBatch(image=images, image_path=list(names)), (Size(4, 6),) * len(names), looks)


def test_each_tile_of_a_batch_is_heard_of_before_its_images_are_written() -> None:
    predicting, _, written, _ = prediction(lambda _: None)
    heard: list[int] = []
    list(predicting.predict(batch(*"abc"), lambda *_: heard.append(len(written.names))))
    assert heard == [0]
    assert written.names == [*"abc"]


def test_images_whose_files_cannot_be_written_cost_only_themselves() -> None:
    predicting, _, written, said = prediction(lambda _: None)
    items = list(predicting.predict(batch("a", "gone", "b", "moved")))
    assert [item.image_path for item in items] == written.names == [*"ab"]
    assert written.failures == ["gone", "moved"]
    assert said == ["skipped: gone is missing", "skipped: moved is missing"]
    assert str(predicting.recording.finish(coco=False, seconds=1.0)).startswith(
        "2 images predicted in 1.0 s (2.0 images/s), 2 failed"
    )


def test_images_that_are_too_large_together_are_predicted_one_by_one() -> None:
    predicting, ensemble, written, said = prediction(too_large_together)
    items = [item for names in ("abc", "de") for item in predicting.predict(batch(*names))]
    assert written.names == [item.image_path for item in items] == [*"abcde"]
    assert ensemble.asked == [3, 1, 1, 1, 1, 1], "batches are tried once"
    (note,) = said
    assert note.startswith("Note: The memory of the machine ran out (")
    assert note.endswith("Images are predicted one by one from here on.")
    assert len(items) == predicting.recording.tried == 5
    torch.testing.assert_close(items[1].pred_score, batch(*"abc").images.image[1].mean(dim=0).max())


def too_large(*calls: int) -> Callable[[int], None]:
    """Have too little memory when the ensemble is asked these times, counted from 0."""
    numbers = iter(range(100))

    def fail(_: int) -> None:
        if next(numbers) in calls:
            torch.empty(2**60)

    return fail


def test_an_image_that_is_too_large_by_itself_is_passed_over() -> None:
    predicting, ensemble, written, said = prediction(too_large(0, 2, 5))
    items = [item for names in ("abc", "d", "e") for item in predicting.predict(batch(*names))]
    assert [item.image_path for item in items] == written.names == [*"acd"]
    assert written.failures == [*"be"], "another one was predicted between them"
    assert ensemble.asked == [3, 1, 1, 1, 1, 1]
    assert said[1].startswith("skipped: b is left out. The memory of the machine ran out (")
    assert predicting.recording.tried == 5
    assert str(predicting.recording.finish(coco=False, seconds=1.0)).endswith("2 failed: 0 of 3 are anomalous.")


def test_two_images_after_each_other_that_are_too_large_end_the_prediction() -> None:
    predicting, ensemble, written, _ = prediction(lambda _: torch.empty(2**60))
    with pytest.raises(OutOfMemoryError, match=r"Lower memory_budget in the config\.yaml .* with --device cpu\.$"):
        list(predicting.predict(batch(*"abc")))
    assert ensemble.asked == [3, 1, 1]
    assert not written.names
    assert written.failures == ["a"]


def test_what_cannot_be_read_between_them_does_not_count() -> None:
    predicting, _, written, _ = prediction(lambda _: None)
    predicting.recording.fail(Path("a"), OutOfMemoryError("too large"))
    predicting.recording.fail(Path("b"), DataError("is damaged"))
    with pytest.raises(OutOfMemoryError, match="larger still"):
        predicting.recording.fail(Path("c"), OutOfMemoryError("larger still"))
    assert written.failures == [*"ab"]


def test_a_prediction_of_which_nothing_came_for_lack_of_memory_fails() -> None:
    predicting, _, written, _ = prediction(too_large(0))
    assert list(predicting.predict(batch("a"))) == []
    with pytest.raises(OutOfMemoryError, match="Lower memory_budget"):
        predicting.recording.finish(coco=False, seconds=1.0)
    assert written.failures == ["a"]


def test_an_image_of_which_a_model_says_nonsense_is_passed_over() -> None:
    answers = iter([True, False, True, False])

    def fail(_: int) -> None:
        if next(answers):
            message = "nonsense"
            raise NotFiniteError(message)

    predicting, ensemble, written, said = prediction(fail)
    list(predicting.predict(batch(*"abc")))
    assert (written.names, written.failures, said) == ([*"ac"], ["b"], ["skipped: nonsense Images: b."])
    assert ensemble.asked == [3, 1, 1, 1]


def test_hidden_pixels_stay_with_their_images_and_have_no_scores() -> None:
    hidden = torch.zeros(3, 1, 4, 6, dtype=torch.bool)
    for number in range(3):
        hidden[number, 0, number] = True
    for fail in (lambda _: None, too_large_together):
        predicting, _, written, _ = prediction(fail)
        items = list(predicting.predict(batch(*"abc")._replace(hidden=hidden)))
        assert torch.equal(torch.stack([item.anomaly_map.isnan() for item in items]), hidden[:, 0])
        assert torch.equal(torch.stack([each.isnan() for each in written.maps]), hidden[:, 0])
