"""Which quantity has moved, and when: drawn numbers, no files."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from anomalib_tiled.drift.check import drift_of
from anomalib_tiled.drift.comparison import Comparison, windows_of
from anomalib_tiled.drift.findings import Drift
from anomalib_tiled.drift.predicted import PredictedNumbers
from anomalib_tiled.runs.drift_reference import DriftReference

Numbers = NDArray[np.float64]

NAMES = ("score", "brightness", "contrast", "sharpness", *(f"r0{row}_c0{column}" for row in "01" for column in "01"))


def usual(images: int, seed: int) -> Numbers:
    """Draw numbers of undisturbed images, 10 give or take 1, shape (images, names)."""
    return np.random.default_rng(seed).normal(10, 1, (images, len(NAMES)))


def compared(known: Numbers, new: Numbers, window: int | None = None, subset: str = "val", unaligned: int = 0) -> Drift:
    columns = dict(zip(NAMES, known.T, strict=True))
    looks, tiles = ({name: columns[name] for name in part} for part in (NAMES[1:4], NAMES[4:]))
    reference = DriftReference(subset, "", columns["score"], looks, tiles, {})
    images = PredictedNumbers([f"/in/{number}.png" for number in range(1, len(new) + 1)], new, unaligned)
    return drift_of(Comparison(reference, images, windows_of(len(new), window)))


def moved(new: Numbers, name: str, by: float, first: int = 0, end: int | None = None) -> Numbers:
    """Move one quantity of some of the images."""
    changed = new.copy()
    changed[first:end, NAMES.index(name)] += by
    return changed


def test_windows_are_of_fifty_images_and_hold_each_image_once() -> None:
    assert windows_of(74) == [slice(0, 74)], "a rest of less than half a window"
    assert windows_of(75) == [slice(0, 50), slice(50, 75)]
    assert windows_of(23, 10) == [slice(0, 10), slice(10, 23)]
    assert windows_of(4, 10) == [slice(0, 4)]
    assert len(windows_of(10_000)) == len(windows_of(1_000_000)) == 200
    for images in (5, 49, 51, 124, 125, 12_345):
        windows = windows_of(images)
        assert [place for window in windows for place in range(window.start, window.stop)] == [*range(images)]


def test_undisturbed_images_have_not_drifted() -> None:
    drift = compared(usual(60, 0), usual(200, 1))
    assert not drift.has_drifted
    assert drift.sentences == [
        "Nothing has moved: 200 new images look and score like 60 normal images of the calibration."
    ]
    assert [window.images for window in drift.windows] == [50] * 4
    assert [(window.first, window.last) for window in drift.windows][1] == ("/in/51.png", "/in/100.png")
    assert list(drift.windows[0].medians) == [*NAMES[:4]]
    assert not any(finding.has_moved for finding in drift.findings)
    assert len(drift.findings) == len(NAMES)


def test_a_light_that_fades_late_in_a_long_folder_is_found_with_the_image_where_it_began() -> None:
    drift = compared(usual(40, 0), moved(usual(1000, 1), "brightness", -4, 970))
    assert drift.has_drifted
    (sentence,) = drift.sentences
    before, after = drift.findings[0].reference_median, drift.findings[0].median
    assert sentence == (
        f"Images are darker than those that the run was calibrated with: median brightness {after:.3g}, was "
        f"{before:.3g}. It began at image 971 (/in/971.png)."
    )
    assert after == pytest.approx(6, abs=0.5), "of the images since then"
    assert [window.moved for window in drift.windows] == [[]] * 19 + [["brightness"]]
    first, *others = drift.findings
    assert (first.quantity, first.place, first.has_moved) == ("brightness", "", True)
    assert first.p_value < 1e-6
    assert not any(other.has_moved for other in others)


def test_a_drift_that_ends_says_when() -> None:
    (sentence,) = compared(usual(60, 0), moved(usual(400, 1), "sharpness", -4, 100, 200)).sentences
    assert sentence.startswith("Images are less sharp than those")
    assert sentence.endswith(" It began at image 101 (/in/101.png) and ended at image 200 (/in/200.png).")


def test_what_is_so_from_the_beginning_says_so() -> None:
    (sentence,) = compared(usual(60, 0), moved(usual(80, 1), "score", 4)).sentences
    assert sentence.startswith("Scores rose: median score 1")
    assert sentence.endswith(" It is so from the first image on.")


def test_tiles_that_move_alike_are_one_sentence_that_names_the_strongest() -> None:
    new = usual(100, 1)
    for name, by in {"r00_c00": 3, "r01_c01": 6, "r01_c00": -4}.items():
        new = moved(new, name, by, 50)
    rose, fell = compared(usual(60, 0), new).sentences
    assert rose.startswith("Scores rose at 2 of 4 tiles, most at r01_c01: median 15.")
    assert fell.startswith("Scores at r01_c00 fell: median ")
    assert all(each.endswith("It began at image 51 (/in/51.png).") for each in (rose, fell))


def test_a_spread_that_changes_is_a_drift_too() -> None:
    new = usual(200, 1)
    new[:, NAMES.index("contrast")] = 10 + 4 * (new[:, NAMES.index("contrast")] - 10)
    (sentence,) = compared(usual(100, 0), new).sentences
    assert sentence.startswith("The contrast of images varies in another way than in the calibration: the middle half")


def test_a_slow_change_that_no_window_shows_is_seen_in_all_images() -> None:
    drift = compared(usual(400, 0), moved(usual(400, 1), "score", 0.5), window=10)
    assert drift.sentences[0].endswith(" It is seen in all images together.")
    assert not any(window.moved for window in drift.windows)


def test_anomalous_images_among_the_new_ones_are_no_drift() -> None:
    for seed in range(20):
        new = usual(500, seed + 1)
        new[np.random.default_rng(seed).choice(500, 25, replace=False)] += 100
        assert not compared(usual(100, 0), new).has_drifted, "5 of 100, far away in every quantity"


def test_a_change_that_no_model_notices_is_no_drift() -> None:
    known, new = 10 + usual(50, 0) / 1e4, 10 + usual(50, 1) / 1e4
    assert not compared(known, moved(new, "brightness", 0.1)).has_drifted, "1 of 100, although none of them overlap"
    assert compared(known, moved(new, "brightness", 0.3)).has_drifted


def test_scores_of_training_images_are_too_low_to_compare_with() -> None:
    drift = compared(usual(60, 0), moved(usual(60, 1), "score", 5), subset="train")
    assert not drift.has_drifted
    assert drift.sentences[0] == "Nothing has moved: 60 new images look like 60 normal images of the calibration."
    assert drift.sentences[1].startswith("There were no validation images, so new images are compared with training")
    finding = next(each for each in drift.findings if each.quantity == "score")
    assert finding.median > 14, "it is shown"
    assert compared(usual(60, 0), moved(usual(60, 1), "contrast", 5), subset="train").has_drifted


def test_few_images_are_said_to_be_few_and_show_large_changes() -> None:
    drift = compared(usual(12, 0), moved(usual(15, 1), "brightness", 8), unaligned=2)
    assert drift.has_drifted
    assert drift.sentences[1:] == [
        "The run was calibrated with only 12 normal images: only large changes can be seen.",
        "There are only 15 new images: only large changes can be seen.",
        "2 more images are left out, because the part is not found in them.",
    ]


@pytest.mark.parametrize(("images", "new_images"), [(12, 20), (50, 120)])
def test_false_alarms_are_rare(images: int, new_images: int) -> None:
    alarms = [compared(usual(images, 2 * n), usual(new_images, 2 * n + 1)).has_drifted for n in range(100)]
    assert sum(alarms) <= 2, "0.2 of 100 are expected at most"


def test_quantities_that_some_images_lack_are_compared_where_they_are() -> None:
    known, new = usual(60, 0), moved(usual(60, 1), "r00_c01", 5)
    new[::2, NAMES.index("r00_c01")] = np.nan
    new[:, NAMES.index("r00_c00")] = np.nan
    drift = compared(known, new)
    assert drift.sentences[0].startswith("Scores at r00_c01 rose: median 1")
    assert "r00_c00" not in {finding.place for finding in drift.findings}, "no new image has it"
