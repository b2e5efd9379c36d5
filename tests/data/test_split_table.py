"""The file of a split in columns: it is what was written, or it is not used."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_tiled.data.split import Sample, Split, StoredSamples
from anomalib_tiled.data.split_table import HEADER, SplitTable

SPLIT = Split(
    (
        Sample("train", Path("/a.png"), None, 0),
        Sample("val", Path("/b.png"), Path("/masks/b.png"), 1, (Path("/masks/b_2.png"),)),
        Sample("test", Path("/b.png"), Path("/masks/b.png"), 1, (Path("/masks/b_2.png"),)),
        Sample("test", Path("/c \udcfc.png"), None, None),
        Sample("test", Path("/d.png"), Path("/masks/b.png"), 1),
    )
)
SOURCE, OTHER = "0a" * 32, "0b" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    SPLIT.table.write(tmp_path / "split.table", SOURCE)
    return tmp_path / "split.table"


def test_what_is_written_is_opened(path: Path) -> None:
    table = SplitTable.open(path, SOURCE)
    assert StoredSamples(table) == SPLIT.samples
    assert [*table.images] == ["/a.png", "/b.png", "/c \udcfc.png", "/d.png"], "each image once"
    assert [*table.masks] == ["/masks/b.png\0/masks/b_2.png", "/masks/b.png"]
    assert table.images.place_of("/d.png") == 3


def test_a_split_may_be_empty(tmp_path: Path) -> None:
    Split(()).table.write(tmp_path / "split.table", SOURCE)
    assert len(StoredSamples(SplitTable.open(tmp_path / "split.table", SOURCE))) == 0


def test_the_table_of_another_split_is_not_used(path: Path) -> None:
    assert SplitTable.open(path, OTHER) is None
    assert SplitTable.open(path.with_name("none"), SOURCE) is None


def test_one_other_bit_is_noticed_wherever_it_is(path: Path) -> None:
    content = path.read_bytes()
    assert len(content) > HEADER.size
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert SplitTable.open(path, SOURCE) is None, place


@pytest.mark.parametrize("left", [0, 1, HEADER.size, -1])
def test_a_table_that_was_cut_short_is_not_used(path: Path, left: int) -> None:
    path.write_bytes(path.read_bytes()[:left])
    assert SplitTable.open(path, SOURCE) is None
