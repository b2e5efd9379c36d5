"""The images of a new run are aligned before they are decoded into the cache."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_tiled.config.settings import CacheSettings, ClassSpec, Settings
from anomalib_tiled.data.cache import ImageCache
from anomalib_tiled.data.part_finder import PartFinder, TrainingImages
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.errors import ConfigurationError, DataError, RunFolderError, StageError
from anomalib_tiled.grid import Size
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.stages.alignment import Aligner, Alignment, Reference
from anomalib_tiled.training import preparation

pytestmark = pytest.mark.usefixtures("unchecked")

Mark = Callable[..., None]

CHECK_SETTINGS = preparation._check_settings
"""Before the fixture replaces it."""


@pytest.fixture
def aligned(settings: Settings, image_folder: Path, by_marker: Mark) -> Settings:
    """The settings with the aligner, and a cache."""
    del by_marker
    stages = {**settings.stages, "alignment": ClassSpec("markers.ByMarker")}
    return replace(settings, stages=stages, cache=CacheSettings(str(image_folder / "cache")))


def test_every_image_of_a_run_is_aligned(aligned: Settings, by_marker: Mark) -> None:
    by_marker("good/2.png", 7, 2)
    by_marker("bad/1.png", 4, 3)
    run = preparation.prepare(aligned)
    assert isinstance(run.source, ImageCache)
    by_name = {"/".join(sample.image_path.parts[-2:]): sample.matrix for sample in run.split.samples}
    assert by_name["good/2.png"] == (1, 0, 2, 0, 1, -1, 0, 0, 1)
    assert by_name["bad/1.png"] == (1, 0, -1, 0, 1, 0, 0, 0, 1)
    assert by_name["good/0.png"] == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    rows, columns = run.grid.whole
    for sample in run.split.samples:
        white = np.argwhere(run.source.image(sample, rows, columns).min(axis=-1) == 255)
        assert white.tolist()[0] == [3, 5], "the marker lies where the first training image has it"


def test_a_run_keeps_its_transforms_and_what_the_aligner_has_learned(aligned: Settings, by_marker: Mark) -> None:
    by_marker("good/2.png", 7, 2)
    made = preparation.prepare(aligned)
    folder = RunFolder.open(made.folder.path)
    opened = Run.open(folder)
    assert opened.split == made.split
    assert opened.source.fingerprint == made.source.fingerprint
    assert opened.job.finder.reference.numbers == {"x": 5, "y": 3}
    with Image.open(made.split.subset("train")[0].image_path) as first:
        assert np.array_equal(opened.job.finder.reference.image, np.array(first)[..., 0])
    with folder.alignment_file.open() as file:
        rows = [row for row in csv.DictReader(file) if row["image_path"].endswith("good/2.png")]
    name = str(made.split.subset("train")[2].image_path)
    values = {"x": "2.00", "y": "-1.00", "rotation": "0.000", "scale": "1.0000", "quality": "0.750"}
    assert rows == [{"image_path": name, "subset": "train", **values, "reason": ""}]


def test_a_process_that_gets_a_job_reads_aligned_images(aligned: Settings, by_marker: Mark) -> None:
    by_marker("good/2.png", 7, 2)
    run = preparation.prepare(aligned)
    job = replace(run.job, known=None)
    assert job.data.split == run.split
    assert job.data.source.fingerprint == run.source.fingerprint
    sample = job.data.split.subset("train")[2]
    assert sample.matrix == (1, 0, 2, 0, 1, -1, 0, 0, 1)
    assert np.array_equal(job.data.source.image(sample, *run.grid.whole), run.source.image(sample, *run.grid.whole))


def test_files_that_were_changed_are_not_used(aligned: Settings) -> None:
    folder = preparation.prepare(aligned).folder.path
    for path in (folder / name for name in ("alignment.npy", "alignment.csv", "reference.png", "reference.json")):
        content = path.read_bytes()
        for damaged, words in ((content[:-3] + bytes(3), "was changed"), (None, "is missing")):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            message = rf"{path.name} {words}.* restore it, or fit a new run"
            with pytest.raises(RunFolderError, match=message):  # noqa: PT012
                run = Run.open(RunFolder.open(folder))
                assert run.job.finder
                assert run.unaligned
        path.write_bytes(content)


def test_training_images_that_cannot_be_aligned_are_refused(
    aligned: Settings, by_marker: Mark, image_folder: Path
) -> None:
    by_marker("good/1.png")
    message = (
        rf"in every training image, but in 1 of 4 it is not\. {image_folder}/good/1.png: 0 pixels are white, but 1 "
        r"must be\. Remove these images, choose another alignment, or set unaligned_images: leave_out"
    )
    with pytest.raises(DataError, match=message):
        preparation.prepare(aligned)
    assert not (image_folder / "results").exists(), "no files are left"
    assert not (image_folder / "cache").exists()


def test_training_images_that_cannot_be_aligned_may_be_left_out(aligned: Settings, by_marker: Mark) -> None:
    by_marker("good/1.png")
    run = preparation.prepare(replace(aligned, unaligned_images="leave_out"))
    assert [sample.image_path.name for sample in run.split.subset("train")] == ["0.png", "2.png", "3.png"]
    assert run.unaligned_note() == (
        "The part is not found in 1 of 4 training images: they were left out. See alignment.csv."
    )
    assert Run.open(RunFolder.open(run.folder.path)).unaligned == {
        str(run.split.unaligned("train")[0].image_path): "0 pixels are white, but 1 must be"
    }


def test_an_alignment_that_fails_on_half_of_the_images_is_refused_always(aligned: Settings, by_marker: Mark) -> None:
    by_marker("good/1.png")
    by_marker("good/2.png")
    message = r"in more than half of the training images, but in 2 of 4 it is not, so the cause is the alignment"
    with pytest.raises(DataError, match=message):
        preparation.prepare(replace(aligned, unaligned_images="leave_out"))


def test_an_alignment_that_fails_on_half_of_all_images_is_refused(aligned: Settings, by_marker: Mark) -> None:
    for name in ("test/0.png", "test/1.png", "bad/0.png", "bad/1.png"):
        by_marker(name)
    with pytest.raises(
        DataError, match=r"in more than half of the images, but in 4 of 8 .*; .*; .*; and 1 more\. Choose"
    ):
        preparation.prepare(aligned)


def test_validation_images_that_cannot_be_aligned_are_left_out_of_the_calibration(
    aligned: Settings, by_marker: Mark
) -> None:
    by_marker("test/1.png")
    run = preparation.prepare(aligned)
    assert "1 of 4 validation images" in run.unaligned_note()
    assert len(run.split.calibration_samples) == 3


def test_one_mask_of_two_images_is_refused(aligned: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomalib_tiled.data.split_table.SplitTable.has_shared_masks", True)
    with pytest.raises(DataError, match="must have masks of their own, but two have the same one"):
        preparation.prepare(aligned)


def test_the_first_images_to_learn_from_come_from_all_over(tmp_path: Path) -> None:
    for number in range(70):
        Image.fromarray(np.full((2, 2), number, np.uint8)).save(tmp_path / f"{number:02d}.png")
    images = TrainingImages(sorted(tmp_path.iterdir()), Size(2, 2))
    order = [int(image[0, 0, 0]) for image in images]
    assert order[:3] == [0, 3, 6]
    assert max(order[:32]) >= 66
    assert sorted(order) == list(range(70))
    assert [int(image[0, 0, 0]) for image in images] == order, "again"


def test_arguments_of_an_aligner_are_checked_before_images_are_searched(settings: Settings) -> None:
    spec = ClassSpec("anomalib_tiled.stages.aligners.Rigid", {"max_shift": 0.9})
    wrong = replace(settings, stages={**settings.stages, "alignment": spec}, data=ClassSpec("nothing.Nowhere"))
    with pytest.raises(ConfigurationError, match=r"Rigid cannot be made with .*max_shift above 0 and at most 0\.4"):
        CHECK_SETTINGS(wrong, None)


class Misbehaving(Aligner):
    """Gives what it was made with."""

    def __init__(self, learned: object = None, found: object = None) -> None:
        self.learned, self.found = learned, found

    def learn(self, images: object) -> Reference:
        list(images)
        return self.learned

    def align(self, image: object, reference: Reference) -> Alignment:
        return self.found


GREY = np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("learned", "given"),
    [
        (None, "NoneType"),
        (Reference(np.zeros((4, 4, 3), np.uint8)), r"\(4, 4, 3\)"),
        (Reference(GREY, {"x": float("nan")}), "x = nan"),
    ],
)
def test_an_aligner_must_learn_a_reference(image_folder: Path, learned: object, given: str) -> None:
    paths = sorted((image_folder / "good").iterdir())
    with pytest.raises(StageError, match=rf"alignment Misbehaving .* must learn .* but learned {given}. Fix it"):
        PartFinder.learn(Misbehaving(learned), paths, Size(8, 12))


@pytest.mark.parametrize(
    ("found", "given"),
    [
        (Alignment((1, 0, 0, 0, 1, 0, 0, 0, float("inf")), 1), "nine numbers that can be inverted, but gave .*inf"),
        (Alignment((1, 0, 0, 0, 0, 0, 0, 0, 1), 1), "nine numbers that can be inverted, but gave"),
        (Alignment((1, 0, 0, 0, 1, 0), 1), "nine numbers that can be inverted, but gave"),
        (Alignment((1, 0, 0, 0, 1, 0, 0, 0, 1), 1.5), "a quality from 0 to 1, but gave 1.5"),
    ],
)
def test_an_aligner_must_give_a_transform(found: Alignment, given: str) -> None:
    finder = PartFinder(Misbehaving(found=found), Reference(GREY), Size(8, 12))
    with pytest.raises(StageError, match=f"alignment Misbehaving .* must give {given}"):
        finder.find(np.zeros((8, 12, 3), np.uint8))
