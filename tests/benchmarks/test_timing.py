from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import timing
from benchmarks.predictors import PREDICTORS, Job, Predicted, Predictor, pixels_of, threads

JOB = Job("brightest", "nowhere", ["0.png", "1.png", "2.png"], 4, 2, "Padim", batch=2, repeats=3)


class Brightest(Predictor):
    """Says the number of the image."""

    asked: list[list[str]]

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        type(self).asked = []

    def predict(self, images: list[Path]) -> Iterator[Predicted]:
        self.asked.append([path.name for path in images])
        for path in images:
            yield float(path.stem), np.full((4, 4), float(path.stem), dtype=np.float32)


def test_one_image_is_predicted_until_it_is_warm_and_then_again_and_all_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PREDICTORS, "brightest", Brightest)
    found = timing.take_time(JOB, tmp_path)
    one, batch = ["0.png"], ["0.png", "1.png"]
    assert Brightest.asked == [one, one, batch, *[one] * JOB.repeats, JOB.images]
    assert len(found.latencies) == JOB.repeats
    assert found.images_per_second > 0
    scores, maps = timing.read_predictions(tmp_path, 3)
    assert scores.tolist() == maps[:, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("latencies", "median"), [([], None), ([3.0, 1.0, 2.0], 2.0)])
def test_the_latency_is_the_median(latencies: list[float], median: float | None) -> None:
    assert timing.Timing(1, latencies, 1).latency == median


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    job = replace(JOB, kind="onnx")
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job


def test_pixels_are_colours_first_and_fractions(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0, 51, 255], [255, 0, 0]]], np.uint8)).save(tmp_path / "any.png")
    pixels = pixels_of(tmp_path / "any.png")
    assert (pixels.dtype, pixels.shape) == (np.float32, (3, 1, 2))
    np.testing.assert_allclose(pixels[:, 0, 0], [0, 0.2, 1], rtol=1e-6)


def test_exports_take_as_many_threads_as_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads() >= 1
