from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anomalib.data import Folder

from anomalib_tiled.data.datamodule import split_once
from anomalib_tiled.data.split import SUBSETS, Known, Sample, Split, StoredSamples, image_names
from anomalib_tiled.errors import RunFolderError


def test_validation_on_the_test_images_is_noticed(datamodule: Folder) -> None:
    split = split_once(datamodule)
    assert [sample.image_path for sample in split.subset("val")] == [s.image_path for s in split.subset("test")]
    assert split.calibrated_on_test
    assert split.calibration_subset == "val"


def test_without_validation_images_stages_learn_from_the_training_images(image_folder: Path) -> None:
    split = split_once(
        Folder("tiny", root=image_folder, normal_dir="good", test_split_mode="none", val_split_mode="none")
    )
    assert split.calibration_subset == "train"
    assert not split.calibrated_on_test
    assert not split.has_masks


def test_a_split_survives_being_written_and_read(tmp_path: Path) -> None:
    split = Split(
        (
            Sample("train", Path("/a, b.png"), None, 0),
            Sample("val", Path('/c "d".png'), Path("/mask ü.png"), 1),
            Sample("test", Path("/e.png"), None, None),
        )
    )
    split.write(tmp_path / "split.csv")
    assert Split.parse((tmp_path / "split.csv").read_bytes(), tmp_path / "split.csv") == split
    assert (tmp_path / "split.csv").read_text().splitlines()[0] == "subset,image_path,mask_path,label"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("subset,image_path,mask_path\ntrain,a,b\n", "KeyError"),
        ("subset,image_path,mask_path,label\ntrain,a,,one\n", "ValueError"),
        ("subset,image_path,mask_path,label\ntraining,a,,1\n", "'training' is none of train, val, test"),
        ("subset,image_path,mask_path,label\ntrain\n", "TypeError"),
    ],
)
def test_a_split_that_was_changed(tmp_path: Path, content: str, reason: str) -> None:
    message = rf"must have the columns subset, image_path, mask_path, label, but was changed \(.*{reason}.*\)\. Fit"
    with pytest.raises(RunFolderError, match=message):
        Split.parse(content.encode(), tmp_path / "split.csv")


MIXED = Split(
    (
        Sample("train", Path("/a.png"), None, 0),
        Sample("train", Path("/e.png"), None, None),
        Sample("val", Path("/b.png"), Path("/mask.png"), 1),
        Sample("val", Path("/c.png"), None, None),
        Sample("test", Path("/b.png"), Path("/mask.png"), 1),
    )
)


@pytest.mark.parametrize("samples", [MIXED.samples, MIXED.samples[:2], MIXED.samples[3:], ()])
def test_a_stored_split_says_what_a_split_of_objects_says(samples: tuple[Sample, ...]) -> None:
    split = Split(samples)
    stored = Split(StoredSamples(split.table))
    for name in SUBSETS:
        assert stored.subset(name) == split.subset(name)
        assert [sample.subset for sample in split.subset(name)] == [name] * len(split.subset(name))
        assert image_names(stored.subset(name)) == image_names(split.subset(name))
        for ours, theirs in zip(Known.of(stored.subset(name)), Known.of(split.subset(name)), strict=True):
            assert ours.tolist() == theirs.tolist()
    assert stored == split
    assert stored.calibration_samples == split.calibration_samples
    facts = [(each.calibration_subset, each.calibrated_on_test, each.has_masks) for each in (stored, split)]
    assert facts[0] == facts[1]


def test_a_part_of_stored_samples_is_a_part_of_the_samples() -> None:
    stored = StoredSamples(MIXED.table)
    assert stored[1:4] == MIXED.samples[1:4]
    assert stored[1:4][1:] == MIXED.samples[2:4]
    assert stored[1:][-1] == MIXED.samples[-1]
    assert stored[:2] != MIXED.samples[1:3]
    assert stored != 5
    with pytest.raises(IndexError):
        _ = stored[5]


def test_a_split_of_some_stored_samples_has_a_table_of_these(tmp_path: Path) -> None:
    split = Split(Split(StoredSamples(MIXED.table)).subset("test"))
    assert [*split.table.images] == ["/b.png"]


NOT_ALIGNED = (np.nan,) * 9
MOVED = np.array([(1, 0, x, 0, 1, 0, 0, 0, 1) for x in range(3)] + [NOT_ALIGNED])
"""Of the images a, e, b, c: the last one cannot be aligned."""


def test_images_that_cannot_be_aligned_are_in_no_subset() -> None:
    aligned = MIXED.with_transforms(MOVED)
    assert [sample.matrix for sample in aligned.subset("train")] == [tuple(MOVED[0]), tuple(MOVED[1])]
    assert [sample.image_path.name for sample in aligned.subset("val")] == ["b.png"]
    assert [sample.image_path.name for sample in aligned.unaligned("val")] == ["c.png"]
    assert [len(aligned.unaligned(name)) for name in SUBSETS] == [0, 1, 0]
    assert len(aligned.samples) == len(MIXED.samples), "but the split lists them"
    assert [len(MIXED.unaligned(name)) for name in SUBSETS] == [0, 0, 0]


def test_images_are_calibrated_on_only_if_they_can_be_aligned() -> None:
    aligned = MIXED.with_transforms(np.concatenate([MOVED[:2], [NOT_ALIGNED, MOVED[0]]]))
    assert MIXED.calibration_subset == "val"
    assert aligned.calibration_subset == "train", "the only validation image with a label cannot be aligned"
    assert not aligned.calibrated_on_test


def test_a_part_of_an_aligned_split_keeps_its_transforms() -> None:
    part = Split(tuple(MIXED.with_transforms(MOVED).samples[1:]))
    assert part.subset("val") == MIXED.with_transforms(MOVED).subset("val")
    assert part.table.transforms[:2].tolist() == MOVED[1:3].tolist()


def test_masks_have_the_matrix_of_their_image() -> None:
    table = MIXED.with_transforms(MOVED).table
    assert table.matrix_of_masks(0) == table.matrix_of(2) == tuple(MOVED[2])
    assert not table.has_shared_masks
    mask = Path("/mask.png")
    assert Split((*MIXED.samples, Sample("test", Path("/f.png"), mask, 1))).table.has_shared_masks
