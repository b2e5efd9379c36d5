from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomalib_tiled.data.mask_pairs import Candidates
from anomalib_tiled.errors import DataError

IMAGES, MASKS = Path("/i"), Path("/m")

PLAIN = {
    "same names": {"000.png": "000.png", "001.jpg": "001.png"},
    "numbers without zeros before them": {f"{number}.png": f"{number}_mask.png" for number in range(12)},
    "text before": {"1.png": "GT_1.png", "10.png": "GT_10.png"},
    "text before and after": {"1.png": "gt-1-mask.png", "11.png": "gt-11-mask.png"},
    "letters after letters": {"imgA.png": "imgAmask.png", "imgB.png": "imgBmask.png"},
    "names in names": {"a.png": "a_mask.png", "a_mask.png": "a_mask_mask.png"},
    "different text after": {"0.png": "0_crack.png", "1.png": "1_hole.png", "10.png": "10_crack.png"},
    "mirrored folders": {"crack/0.png": "crack/0.png", "hole/0.png": "hole/0.png"},
    "folders called after folders": {"crack/0.png": "crack_mask/0.png", "crack_big/0.png": "crack_big_mask/0.png"},
    "folders within folders": {
        "crack/top/0.png": "crack_mask/top/0.png",
        "crack_big/top/0.png": "crack_big_mask/top/0.png",
    },
    "folders and none": {"0.png": "0.png", "crack/0.png": "crack_gt/0.png"},
    "one folder of masks": {"crack/0.png": "0_gt.png", "hole/1.png": "1_gt.png"},
    "one folder more": {"0.png": "all/0.png", "1.png": "all/1.png"},
    "folders in the names": {"crack/0.png": "crack_0.png", "hole/0.png": "hole_0.png"},
    "endings in the names": {"a.jpg": "a.jpg.png", "a.png": "a.png.png"},
    "upper and lower case": {"Crack/IMG_1.png": "crack/img_1_Mask.png", "Hole/IMG_1.png": "hole/img_1_Mask.png"},
    "case tells images apart": {"a.png": "a.png", "A.png": "A.png"},
    "one image": {"1.png": "1_mask.png"},
}


def candidates(images: list[str], masks: list[str]) -> Candidates:
    return Candidates([IMAGES / name for name in images], [MASKS / name for name in masks], IMAGES, MASKS)


@pytest.mark.parametrize("name", PLAIN)
def test_names_tell_whose_a_mask_is_in_whatever_order_they_come(name: str) -> None:
    pairs = PLAIN[name]
    expected = {IMAGES / image: MASKS / mask for image, mask in pairs.items()}
    for seed in range(2):
        random = np.random.default_rng(seed)
        images, masks = random.permutation(list(pairs)), random.permutation(list(pairs.values()))
        assert candidates(list(images), list(masks)).pairs() == expected


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in {"different text after", "names in names"}])
def test_masks_of_other_images_do_no_harm(name: str) -> None:
    pairs = PLAIN[name]
    more = ["99_mask.png", "GT_99.png", "crack/77.png", "dent_mask/77.png"]
    if name not in {"folders in the names", "folders within folders"}:  # names that differ need as many masks as images
        assert candidates(list(pairs), [*more, *pairs.values()]).pairs() == {
            IMAGES / image: MASKS / mask for image, mask in pairs.items()
        }


@pytest.mark.parametrize(
    ("images", "masks", "reason"),
    [
        (["0.png", "1.png"], ["0_mask.png"], "/i/1.png has none: there is no /m/1_mask.*"),
        (["0.png", "1.png"], ["0_mask.png", "2_mask.png"], "/i/1.png has none: there is no /m/1_mask.*"),
        (["crack/0.png", "hole/0.png"], ["crack/0.png"], "/i/hole/0.png has none: there is no /m/hole/0.*"),
        (["0.png"], ["10.png", "01.png"], "/i/0.png has none: no file in /m has its name"),
        (["a.png"], ["banana.png"], "/i/a.png has none: no file in /m has its name"),
        (["0.png"], [], "/i/0.png has none: no file in /m has its name"),
        (["crack/0.png", "hole/0.png"], ["0.png"], "/m/0.png may be that of /i/crack/0.png or of /i/hole/0.png"),
        (["a.jpg", "a.png"], ["a.png"], "/m/a.png may be that of /i/a.jpg or of /i/a.png"),
        (["0.png", "1.png"], ["0.png", "1.png", "1.bmp"], "/i/1.png may have /m/1.png or /m/1.bmp"),
        (["0.png"], ["0_gt.png", "0_mask.png"], "/i/0.png may have /m/0_gt.png or /m/0_mask.png"),
        (["0.png"], ["crack/0.png", "hole/0.png"], "/i/0.png may have /m/crack/0.png or /m/hole/0.png"),
    ],
)
def test_what_is_not_plain_is_refused_with_both_paths(images: list[str], masks: list[str], reason: str) -> None:
    with pytest.raises(DataError) as error:
        candidates(images, masks).pairs()
    assert str(error.value).startswith("Each anomalous image must have one mask, whose name and folder show which")
    assert f"but {reason}. " in str(error.value)
    assert candidates(images, masks).plain_pairs() is None


def test_thousands_of_images_take_no_time_to_speak_of() -> None:
    images = [f"{number % 50}/{number}.png" for number in range(2000)]
    masks = [f"{number % 50}_gt/{number}_mask.png" for number in range(2000)]
    pairs = candidates(images, masks[::-1]).pairs()
    assert pairs[IMAGES / "7/1007.png"] == MASKS / "7_gt/1007_mask.png"
    with pytest.raises(DataError, match="there is no /m/49_gt/1999_mask"):
        candidates(images, masks[:-1]).pairs()
