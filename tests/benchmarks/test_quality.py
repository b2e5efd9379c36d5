"""Drawings with exact masks, methods that the program accepts, and the table of what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from anomalib_tiled.grid import Size
from benchmarks.quality.datasets import DATA_SETS, Counts, DataSet, Placement
from benchmarks.quality.measuring import Decided, Measured, Quality, read_scores
from benchmarks.quality.methods import METHODS, SHRUNK
from benchmarks.quality.motifs import Motif, Photograph, Texture
from benchmarks.quality.plate import Plate
from benchmarks.quality.table import Result, read_results, to_markdown, write_results

FEW = Counts(train=2, validation=1, test=2)
SMALL = Size(120, 160)

IMAGES = [
    Decided("good", 0.1, called=False),
    Decided("good", 0.6, called=True),
    Decided("spot", 0.5, called=False),
    Decided("scratch", 0.9, called=True),
]


def small(seed: int) -> Motif:
    return Photograph(SMALL, margin=8, name="coffee.png")


def pixels(path: Path) -> NDArray[np.int16]:
    return np.asarray(Image.open(path)).astype(np.int16)


def drawn(root: Path, data_set: DataSet, seed: int = 0) -> dict[str, NDArray[np.int16]]:
    images = root / "images"
    data_set.draw(images, FEW, seed)
    return {str(path.relative_to(images)): pixels(path) for path in sorted(images.rglob("*.png"))}


def test_a_data_set_has_the_images_that_were_asked_for_and_a_mask_for_each_defect(tmp_path: Path) -> None:
    images = drawn(tmp_path, DataSet("photographs", small, tile=40))
    assert len([name for name in images if name.startswith("train/good")]) == FEW.train
    assert len([name for name in images if name.startswith("test/good")]) == FEW.validation + FEW.test
    spoilt = [name for name in images if name.startswith("test/") and "good" not in name]
    assert len(spoilt) == FEW.validation + FEW.test
    masks = [images[name.replace("test/", "ground_truth/")] for name in spoilt]
    assert all(0 < (mask > 0).mean() < 0.05 for mask in masks)
    assert {image.shape for name, image in images.items() if "truth" not in name} == {(*SMALL, 3)}


def test_a_seed_gives_the_same_images_and_another_seed_others(tmp_path: Path) -> None:
    data_set = DataSet("moved", small, tile=40, placement=Placement(shift=3, turn=2))
    one, same, other = (drawn(tmp_path / str(n), data_set, seed) for n, seed in enumerate((0, 0, 1)))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["train/good/000.png"], other["train/good/000.png"])


@pytest.mark.parametrize(
    "motif",
    [
        Photograph(SMALL, margin=8, name="astronaut.png"),
        Texture(SMALL, name="gravel.png"),
        Plate(Size(400, 400), margin=10, frame=10, seed=0),
    ],
    ids=["photograph", "texture", "plate"],
)
def test_a_defect_changes_few_pixels_and_leaves_the_picture_as_it_is(motif: Motif) -> None:
    random = np.random.default_rng(0)
    picture = motif.normal(random)
    before = picture.copy()
    assert picture.shape == (*motif.canvas, 3)
    for kind in motif.kinds:
        changed = (motif.spoilt(picture, kind, random) != picture).any(axis=2)
        assert 20 < changed.sum() < 0.1 * changed.size, kind
    assert np.array_equal(picture, before)


def test_what_lies_at_its_place_is_not_resampled_and_what_is_shifted_lies_elsewhere() -> None:
    motif = small(0)
    picture = motif.normal(np.random.default_rng(0))
    assert np.array_equal(Placement().view(np.random.default_rng(0))(picture, motif), picture[8:-8, 8:-8])
    moved = Placement(shift=6).view(np.random.default_rng(0))(picture, motif).astype(np.int16)
    x, y = np.random.default_rng(0).uniform(-6, 6, size=2).round().astype(int)
    inside = picture[8 + y : 8 + y + SMALL.height, 8 + x : 8 + x + SMALL.width]
    still = picture[8:-8, 8:-8]
    assert np.abs(moved - inside).mean() < np.abs(moved - still).mean() / 2


def test_every_tile_fills_its_images(tmp_path: Path) -> None:
    for data_set in DATA_SETS.values():
        height, width = data_set.motif(0).size
        assert height % data_set.tile == width % data_set.tile == 0


def test_methods_differ_in_what_a_model_sees() -> None:
    assert METHODS["padim"].tiling(96, (384, 576)) == {"image_size": [384, 576], "tile_size": 96}
    assert METHODS["padim-whole"].tiling(96, (384, 576)) == {"image_size": [384, 576], "tile_size": [384, 576]}
    assert METHODS["padim-shrunk"].tiling(96, (384, 576)) == {"image_size": SHRUNK, "tile_size": SHRUNK}


def test_random_weights_are_of_the_same_network() -> None:
    trained, random = (
        METHODS[name].model_settings("local-dir:weights")["init_args"] for name in ("padim", "padim-random")
    )
    assert (trained["backbone"], trained["pre_trained"]) == ("local-dir:weights", True)
    assert (random["backbone"], random["pre_trained"]) == ("tf_efficientnet_lite0", False)


def test_quality_counts_decisions_and_takes_each_kind_with_all_normal_images() -> None:
    quality = Quality.of(IMAGES, pixel_aupro=0.5)
    assert (quality.normal, quality.false_alarms, quality.anomalous, quality.missed) == (2, 1, 2, 1)
    assert (quality.image_auroc, quality.kinds) == (0.75, {"scratch": 1.0, "spot": 0.5})


def test_an_image_in_which_the_part_is_not_found_is_the_most_anomalous(tmp_path: Path) -> None:
    header = "image_path,gt_label,pred_score,pred_label,contradiction,unaligned\n"
    rows = "/d/test/good/000.png,0,0.25,0,,\n/d/test/spot/000.png,1,,1,,no part\n"
    (tmp_path / "scores.csv").write_text(header + rows)
    assert read_scores(tmp_path / "scores.csv") == [
        Decided("good", 0.25, called=False),
        Decided("spot", float("inf"), called=True),
    ]


def test_the_table_has_means_with_the_lowest_and_highest_of_the_seeds(tmp_path: Path) -> None:
    quality = Quality.of(IMAGES, pixel_aupro=0.5)
    first = Measured(quality, models=24, seconds=10, megabytes=30)
    second = replace(first, quality=replace(quality, image_auroc=0.95, false_alarms=0), seconds=20)
    results = [Result("aligned", "padim", seed, each) for seed, each in enumerate((first, second))]
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json") == results
    assert read_results(tmp_path / "none.json") == []
    lines = to_markdown(results).splitlines()
    assert lines[0] == "### Photographs, aligned"
    assert lines[2].startswith(
        "| method | image AUROC | scratch | spot | pixel AUPRO | false alarms of 2 | missed of 2 |"
    )
    assert lines[4] == (
        "| Padim, a model per tile | 0.85 (0.75–0.95) | 1.00 | 0.50 | 0.50 | 1, 0 | 1 | 24 | 15 | 30 | 2 |"
    )


def test_the_table_says_why_a_method_was_refused(tmp_path: Path) -> None:
    results = [Result("brick", "padim-rigid", 0, None, "The images show no common part")]
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json") == results
    row = to_markdown(results).splitlines()[4]
    assert row.startswith("| Padim, a model per tile, `Rigid` alignment | refused: The images show no common part |")
