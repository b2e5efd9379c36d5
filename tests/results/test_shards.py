"""Cutting images into batches and shards; no files."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_tiled.grid import Size
from anomalib_tiled.results.shards import ImageShard, batches_of, shards_of

IMAGES = [Path(f"{number:03d}.png") for number in range(100)]


@pytest.mark.parametrize("batch_size", [1, 7, 32, 50, 200])
@pytest.mark.parametrize("size", [Size(8, 12), Size(2048, 4096), Size(16_384, 16_384)])
def test_shards_are_the_batches_of_the_whole_list(batch_size: int, size: Size) -> None:
    shards = list(shards_of(IMAGES, batch_size, size))
    assert [batch for shard in shards for batch in shard.batches] == list(batches_of(IMAGES, batch_size))
    assert [image for shard in shards for image in shard.images] == IMAGES


def lengths(batch_size: int, size: Size) -> list[int]:
    return [len(shard.images) for shard in shards_of(IMAGES, batch_size, size)]


def test_a_shard_is_bounded_by_images_and_by_pixels_but_has_at_least_a_batch() -> None:
    assert lengths(10, Size(256, 256)) == [30, 30, 30, 10]
    assert lengths(1, Size(2048, 4096)) == [8] * 12 + [4]
    assert lengths(1, Size(16_384, 16_384)) == [1] * 100
    assert lengths(50, Size(256, 256)) == [50, 50]


def test_the_file_of_a_shard_is_named_by_its_images() -> None:
    first, second = shards_of(IMAGES[:64], 32, Size(8, 8))
    named = {shard.file_in(Path("parts")) for shard in (first, second, ImageShard((IMAGES[:16], IMAGES[16:32])))}
    assert len(named) == 3
    assert ImageShard(first.batches, alone=True).file_in(Path("parts")) in named
    assert first.name == "the shard of 32 images from 000.png on"


def test_names_of_any_bytes_name_a_file() -> None:
    name = b"\xff\xfe.png".decode(errors="surrogateescape")
    assert ImageShard(((Path(name),),)).file_in(Path("parts")).suffix == ".jsonl"
