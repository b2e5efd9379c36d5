from __future__ import annotations

from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.grid import Size
from anomalib_tiled.results.pictures import Pictures
from anomalib_tiled.results.predictions import PredictionFolder, PredictionSettings
from anomalib_tiled.results.recording import Recording

SIZES = [Size(4, 6), Size(8, 12)]
RAW = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(0))


def recording(tmp_path: Path, maps: str | None = "npy") -> Recording:
    files = Pictures(tmp_path, Path("/data"), stretch=False)
    return Recording(PredictionFolder(tmp_path), PredictionSettings(masks=True, maps=maps), files)


def batch(*, has_maps: bool = True) -> ImageBatch:
    return ImageBatch(
        image=torch.zeros(2, 3, 4, 6),
        image_path=["/data/a/1.png", "/data/b/1.png"],
        pred_score=torch.tensor([0.9, 0.1]),
        pred_label=torch.tensor([True, False]),
        anomaly_map=RAW,
        pred_mask=RAW > 0.8 if has_maps else None,
    )


@pytest.mark.parametrize("maps", ["npy", "tiff"])
def test_a_raw_map_is_kept_to_the_last_bit(tmp_path: Path, maps: str) -> None:
    kept = recording(tmp_path, maps)
    assert kept.write(batch(), SIZES, torch.tensor([9.0, 1.0]), RAW) == 1
    for path, raw in zip(("/data/a/1.png", "/data/b/1.png"), RAW, strict=True):
        assert torch.equal(kept.read_map(Path(path)), raw[0])
    assert sorted(path.name for path in (tmp_path / "maps").rglob("*.*")) == [f"1.{maps}"] * 2


def test_regions_are_in_pixels_of_each_image(tmp_path: Path) -> None:
    recording(tmp_path, None).write(batch(), SIZES, torch.tensor([9.0, 1.0]), RAW)
    areas = [sum(region.area for region in image.regions) for image in PredictionFolder(tmp_path).predicted()]
    counts = (RAW > 0.8).sum(dim=(1, 2, 3)).tolist()
    assert areas == [counts[0], 4 * counts[1]]
    assert not (tmp_path / "maps").exists()


def test_a_model_without_maps_has_scores_and_labels_only(tmp_path: Path) -> None:
    assert recording(tmp_path).write(batch(has_maps=False), SIZES, torch.tensor([9.0, 1.0]), RAW) == 1
    assert [image.regions for image in PredictionFolder(tmp_path).predicted()] == [(), ()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.csv", "predictions.jsonl"]


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_a_map_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    kept = recording(tmp_path)
    kept.write(batch(), SIZES, torch.tensor([9.0, 1.0]), RAW)
    path = tmp_path / "maps" / "a" / "1.npy"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-8] if damage == "cut" else b"text")
    with pytest.raises(RunFolderError, match=r"1\.npy cannot be read \(.*\)\. Predict its image again"):
        kept.read_map(Path("/data/a/1.png"))
