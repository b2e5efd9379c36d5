from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from anomalib_tiled.data import cache, scope
from anomalib_tiled.data.block_files import BlockFiles
from anomalib_tiled.data.cache import DecodedFiles, ImageCache, check_visible, open_source, reopen_cache
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.errors import DataError, StorageError
from anomalib_tiled.grid import Size, TileGrid

GRID = TileGrid(Size(8, 12), Size(4, 5), Size(3, 5))
WHOLE = slice(0, 8), slice(0, 12)


@pytest.fixture
def split(image_folder: Path) -> Split:
    """All images; those of the test are those of the validation too."""
    good = [Sample("train", path, None, 0) for path in sorted((image_folder / "good").iterdir())]
    test = [Sample("test", path, None, 0) for path in sorted((image_folder / "test").iterdir())]
    bad = [
        Sample("test", path, image_folder / "masks" / path.name, 1) for path in sorted((image_folder / "bad").iterdir())
    ]
    return Split((*good, *(replace(sample, subset="val") for sample in test + bad), *test, *bad))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was decoded."""
    count: Counter[str] = Counter()
    for name in ("read_image", "read_masks"):
        original = getattr(cache, name)

        def counting(paths: Path | tuple[Path, ...], *others: object, original: object = original) -> np.ndarray:
            count.update(f"{path.parent.name}/{path.name}" for path in ([paths] if isinstance(paths, Path) else paths))
            return original(paths, *others)

        monkeypatch.setattr(cache, name, counting)
    return count


def visible(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.exists() else []


@pytest.mark.parametrize("image_size", [Size(8, 12), Size(16, 15)])
def test_the_cache_gives_what_decoding_gives(split: Split, tmp_path: Path, image_size: Size) -> None:
    grid = TileGrid(image_size, Size(4, 5), Size(3, 5))
    cached, direct = open_source(split, grid, tmp_path / "cache"), open_source(split, grid, None)
    assert isinstance(cached, ImageCache)
    assert isinstance(direct, DecodedFiles)
    whole = slice(0, image_size.height), slice(0, image_size.width)
    for sample in split.samples:
        for area in [whole, *((tile.rows, tile.columns) for tile in grid.tiles)]:
            assert np.array_equal(cached.image(sample, *area), direct.image(sample, *area))
            assert np.array_equal(cached.mask(sample, *area), direct.mask(sample, *area))


def test_each_file_is_decoded_once_however_often_it_is_read(
    split: Split, tmp_path: Path, decoded: Counter[str]
) -> None:
    for _ in range(2):
        source = open_source(split, GRID, tmp_path / "cache")
        for sample in split.samples:
            for tile in GRID.tiles:
                source.image(sample, tile.rows, tile.columns)
                source.mask(sample, tile.rows, tile.columns)
    assert len(decoded) == 10
    assert set(decoded.values()) == {1}


def test_a_normal_image_has_an_empty_mask_where_defects_are_known(split: Split, tmp_path: Path) -> None:
    for source in (open_source(split, GRID, tmp_path / "cache"), open_source(split, GRID, None)):
        assert source.mask(split.samples[0], *WHOLE).tolist() == np.zeros((8, 12)).tolist()
        unknown = replace(split.samples[0], label=None)
        assert source.mask(unknown, *WHOLE) is None


def test_without_masks_nothing_is_known_of_normal_images_either(split: Split, tmp_path: Path) -> None:
    split = Split(tuple(replace(sample, mask_path=None) for sample in split.samples))
    for source in (open_source(split, GRID, tmp_path / "cache"), open_source(split, GRID, None)):
        assert source.mask(split.samples[0], *WHOLE) is None


def test_a_changed_image_is_read_again(split: Split, tmp_path: Path) -> None:
    before = open_source(split, GRID, tmp_path / "cache")
    path = split.samples[0].image_path
    Image.new("RGB", (12, 8), "white").save(path)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    after = open_source(split, GRID, tmp_path / "cache")
    assert after.folder != before.folder
    assert (after.image(split.samples[0], *WHOLE) == 255).all()
    os.utime(split.samples[-1].mask_path, ns=(0, 1))
    assert open_source(split, GRID, tmp_path / "cache").folder != after.folder, "of the same size, but newer"


def test_too_little_disk_is_an_error_before_anything_is_decoded(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: Counter[str]
) -> None:
    needed = 8 * 12 * (3 * 8 + 2) + 4 * len(GRID.blocks) * (8 + 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    message = (
        f"The image cache needs 0.0 MB in {tmp_path / 'cache'}, but only 0.0 MB are free. Make room, point cache.dir"
    )
    with pytest.raises(StorageError, match=message):
        open_source(split, GRID, tmp_path / "cache")
    assert not decoded
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    assert isinstance(open_source(split, GRID, tmp_path / "cache"), ImageCache)


def test_a_cache_that_is_cut_short_leaves_nothing(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, *_: object) -> np.ndarray:
        if path.name == "1.png":
            raise KeyboardInterrupt
        return np.zeros((8, 12, 3), np.uint8)

    with monkeypatch.context() as patched:
        patched.setattr(cache, "read_image", read)
        with pytest.raises(KeyboardInterrupt):
            open_source(split, GRID, tmp_path / "cache")
    assert visible(tmp_path / "cache") == []
    assert isinstance(open_source(split, GRID, tmp_path / "cache"), ImageCache)
    assert len(visible(tmp_path / "cache")) == 1


def test_what_is_not_to_be_built_is_decoded(split: Split, tmp_path: Path) -> None:
    assert isinstance(open_source(split, GRID, tmp_path / "cache", build=False), DecodedFiles)
    assert not (tmp_path / "cache").exists()
    open_source(split, GRID, tmp_path / "cache")
    assert isinstance(open_source(split, GRID, tmp_path / "cache", build=False), ImageCache)


@pytest.mark.parametrize("secret", ["good", "masks", "cache"])
def test_what_another_user_hides_is_as_good_as_gone(
    split: Split, tmp_path: Path, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(open_source(split, GRID, tmp_path / "cache"), ImageCache)
    look = os.stat

    def look_or_not(path: str | Path, **options: object) -> os.stat_result:
        if Path(path).is_relative_to(tmp_path / secret):
            raise PermissionError(13, "Permission denied")
        return look(path, **options)

    monkeypatch.setattr("os.stat", look_or_not)  # as root, who runs tests in containers, may look everywhere
    assert isinstance(open_source(split, GRID, tmp_path / "cache", build=False), DecodedFiles)


def test_an_image_that_cannot_be_decoded_is_named(split: Split, tmp_path: Path) -> None:
    split.samples[2].image_path.write_text("text")
    with pytest.raises(DataError, match=f"{split.samples[2].image_path} is no image that can be read"):
        open_source(split, GRID, tmp_path / "cache")
    assert visible(tmp_path / "cache") == []


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "altered":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        changed = {"cut short": content[:-1], "a list": b"[]", "text": b"{"}
        changed["of another form"] = content.replace(b'"form": 2', b'"form": 3')
        path.write_bytes(changed[how])


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("index.json", "a list"),
        ("index.json", "text"),
        ("index.json", "missing"),
        ("index.json", "of another form"),
        ("image_r01_c01.npy", "missing"),
        ("image_r01_c01.npy", "cut short"),
        ("mask_r01_c01.npy", "cut short"),
    ],
)
def test_a_cache_that_is_not_whole_is_made_anew(
    split: Split, tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = open_source(split, GRID, tmp_path / "cache").folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    damaged(folder / name, how)
    caplog.clear()
    assert isinstance(open_source(split, GRID, tmp_path / "cache", build=False), DecodedFiles)
    message = f"The image cache {folder} is not used, because files in it are missing, cut short or changed."
    assert caplog.messages == ([] if (name, how) == ("index.json", "missing") else [message])
    source = open_source(split, GRID, tmp_path / "cache")
    assert isinstance(source, ImageCache)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert visible(tmp_path / "cache") == [folder]


def as_of_version_1(folder: Path, split: Split) -> dict[str, bytes]:
    """Give a cache the form that earlier versions wrote; return its new content."""
    checksums: dict[str, list[np.ndarray]] = {"image": [], "mask": []}
    for block in GRID.blocks:
        for kind, of_kind in checksums.items():
            parts = np.load(path := folder / f"{kind}_{block.name}.npy")
            np.save(path, parts["pixels"])
            of_kind.append(parts["crc32"])
    np.save(folder / "checksums.npy", np.concatenate([np.stack(each, axis=1) for each in checksums.values()]))
    index = {"images": [], "masks": [], "files": [], "checksums": zlib.crc32((folder / "checksums.npy").read_bytes())}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "files.csv").unlink()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_cache_of_an_earlier_version_is_read_as_it_is(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, direct = open_source(split, GRID, tmp_path / "cache").folder, open_source(split, GRID, None)
    before = as_of_version_1(folder, split)
    monkeypatch.setattr(BlockFiles, "_decoded", lambda *_: pytest.fail("an image is decoded"))
    for source in (open_source(split, GRID, tmp_path / "cache"), reopen_cache(split, GRID, folder)):
        assert source.fingerprint == folder.name, "predictions that were kept under it stay valid"
        for sample in split.samples:
            assert np.array_equal(source.image(sample, *WHOLE), direct.image(sample, *WHOLE))
            assert np.array_equal(source.mask(sample, *WHOLE), direct.mask(sample, *WHOLE))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("how", ["missing", "altered", "cut short"])
def test_a_cache_of_an_earlier_version_without_its_checksums_is_made_anew(
    split: Split, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = open_source(split, GRID, tmp_path / "cache").folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    as_of_version_1(folder, split)
    damaged(folder / "checksums.npy", how)
    caplog.clear()
    assert isinstance(open_source(split, GRID, tmp_path / "cache", build=False), DecodedFiles)
    assert caplog.messages == [
        f"The image cache {folder} is not used, because files in it are missing, cut short or changed."
    ]
    assert open_source(split, GRID, tmp_path / "cache").folder == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_cache_is_reopened_without_a_look_at_images_and_blocks(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, looked, look = open_source(split, GRID, tmp_path / "cache").folder, [], os.stat

    def counted(path: str | Path, **options: object) -> os.stat_result:
        looked.append(str(path))
        return look(path, **options)

    monkeypatch.setattr("os.stat", counted)
    reopen_cache(split, GRID, folder)
    assert {Path(path).parent for path in looked} == {folder}
    assert len(looked) < 5


def test_a_cache_that_is_not_visible_is_never_done_without(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_source(split, GRID, tmp_path / "cache").folder
    monkeypatch.setattr(cache, "gethostname", lambda: "node7")
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    message = f"must see its image cache, but {folder} is not visible from this machine, node7. Mount the disk that it"
    for look in (partial(check_visible, folder), partial(reopen_cache, split, GRID, folder)):
        with pytest.raises(DataError, match=message):
            look()


def test_a_cache_of_other_images_is_not_reopened(split: Split, tmp_path: Path) -> None:
    folder = open_source(split, GRID, tmp_path / "cache").folder
    message = f"The image cache {folder} must hold the images of the run, but was changed while"
    with pytest.raises(DataError, match=message):
        reopen_cache(Split(split.samples[1:]), GRID, folder)
    other = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))
    with pytest.raises(DataError, match=message):
        reopen_cache(split, other, folder)


def test_a_cache_names_its_files(split: Split, tmp_path: Path) -> None:
    first, second = (sample for sample in split.subset("test") if sample.label == 1)
    split = Split((replace(first, further_masks=(second.mask_path,)), second))
    folder = open_source(split, GRID, tmp_path / "cache").folder
    with (folder / "files.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["position"], row["path"]) for row in rows] == [
        ("image", "0", str(first.image_path)),
        ("image", "1", str(second.image_path)),
        ("mask", "0", str(first.mask_path)),
        ("mask", "0", str(second.mask_path)),
        ("mask", "1", str(second.mask_path)),
    ]
    status = first.image_path.stat()
    assert (rows[0]["bytes"], rows[0]["modified"]) == (str(status.st_size), str(status.st_mtime_ns))


def test_a_cache_may_be_deleted_while_it_is_read(split: Split, tmp_path: Path) -> None:
    cached, direct = open_source(split, GRID, tmp_path / "cache"), open_source(split, GRID, None)
    shutil.rmtree(tmp_path / "cache")
    for sample in split.samples:
        assert np.array_equal(cached.image(sample, *WHOLE), direct.image(sample, *WHOLE))
        assert np.array_equal(cached.mask(sample, *WHOLE), direct.mask(sample, *WHOLE))


def anonymous_memory() -> int:
    """Memory of this process that is in no file, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc")
def test_reading_takes_no_memory(split: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grid = TileGrid(Size(1024, 1024), Size(256, 256), Size(256, 256))
    caplog.set_level(logging.INFO)
    source = open_source(split, grid, tmp_path / "cache")
    assert f"The image cache {source.folder} takes 27.3 MB." in caplog.messages
    for sample in split.samples:
        source.image(sample, slice(0, 1024), slice(0, 1024))
    before = anonymous_memory()
    for _ in range(3):
        for sample in split.samples:
            for tile in grid.tiles:
                source.image(sample, tile.rows, tile.columns)
    assert 3 * len(split.samples) * 3 * 1024**2 > 100e6
    assert anonymous_memory() - before < 10e6


def test_a_disk_that_gets_full_meanwhile(
    split: Split, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, grid = small_disk(4), TileGrid(Size(256, 256), Size(128, 128), Size(128, 128))
    ballast, read = disk / "ballast", cache.read_image

    def filling(path: Path, *others: object) -> np.ndarray:
        if path.name == "2.png":
            with suppress(OSError), ballast.open("wb") as file:
                file.write(bytes(2**23))
        return read(path, *others)

    monkeypatch.setattr(cache, "read_image", filling)
    with pytest.raises(StorageError, match=f"No space left on the disk while writing {disk / 'cache'}.*. Make room"):
        open_source(split, grid, disk / "cache")
    assert visible(disk / "cache") == [], "nothing half done is left"
    monkeypatch.undo()
    ballast.unlink()
    cached, direct = open_source(split, grid, disk / "cache"), DecodedFiles(grid.image_size, has_masks=True)
    assert isinstance(cached, ImageCache)
    for sample in split.samples:
        area = slice(0, 256), slice(0, 256)
        assert np.array_equal(cached.image(sample, *area), direct.image(sample, *area))


def test_several_masks_of_an_image_are_joined_once(split: Split, tmp_path: Path, decoded: Counter[str]) -> None:
    first, second = (sample for sample in split.subset("test") if sample.label == 1)
    both = replace(first, further_masks=(second.mask_path,))
    split = Split((both, second))
    cached, direct = open_source(split, GRID, tmp_path / "cache"), open_source(split, GRID, None)
    assert decoded == {"bad/0.png": 1, "bad/1.png": 1, "masks/0.png": 1, "masks/1.png": 2}
    for sample, pixels in ((both, [(1, 2), (1, 3)]), (second, [(1, 3)])):
        assert list(zip(*np.nonzero(cached.mask(sample, *WHOLE)), strict=True)) == pixels
        assert np.array_equal(cached.mask(sample, *WHOLE), direct.mask(sample, *WHOLE))


def test_a_cache_knows_which_masks_were_joined(split: Split, tmp_path: Path) -> None:
    """The same files in the same order, but not the same masks."""
    one, two, three, four = split.samples[:4]
    masks = [sample.mask_path for sample in split.subset("test") if sample.label == 1]
    joined = Split((replace(one, mask_path=masks[0], further_masks=(masks[1],)), two, three, four))
    apart = Split((replace(one, mask_path=masks[0]), replace(two, mask_path=masks[1]), three, four))
    first, second = (open_source(each, GRID, tmp_path / "cache") for each in (joined, apart))
    assert first.folder != second.folder


def test_without_a_cache_every_file_can_be_checked(split: Split) -> None:
    source = open_source(split, GRID, None)
    source.check(split)
    path = split.samples[-1].mask_path
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(DataError, match=f"{path} is damaged"):
        source.check(split)


def moved(split: Split, *shifts: float) -> Split:
    """Align each image by a shift to the right, in the order of the table; NaN for one that cannot be."""
    given = [(1, 0, x, 0, 1, 0, 0, 0, 1) if x == x else (np.nan,) * 9 for x in shifts]  # noqa: PLR0124  # NaN
    return split.with_transforms(np.array(given, np.float64))


def test_a_cache_holds_aligned_images(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "BESIDE", 0)
    aligned = moved(split, *range(8))
    cached, direct = (open_source(aligned, GRID, directory) for directory in (tmp_path / "cache", None))
    assert isinstance(cached, ImageCache)
    for sample in aligned.samples:
        image = cached.image(sample, *WHOLE)
        assert np.array_equal(image, direct.image(sample, *WHOLE))
        assert np.array_equal(cached.mask(sample, *WHOLE), direct.mask(sample, *WHOLE))
        by = round(sample.matrix[2])
        plain = open_source(split, GRID, None).image(
            sample=replace(sample, matrix=None), rows=WHOLE[0], columns=WHOLE[1]
        )
        assert np.array_equal(image[:, : 12 - by], plain[:, by:]), "the image is moved to the left"
        assert cached.hidden(sample, *WHOLE).tolist() == [[column >= 12 - by for column in range(12)]] * 8
    masked = [sample for sample in aligned.subset("test") if sample.label == 1]
    assert [np.argwhere(cached.mask(sample, *WHOLE)).tolist() for sample in masked] == [[], []], "moved out"


def test_the_mask_of_an_aligned_image_is_moved_with_it(split: Split, tmp_path: Path) -> None:
    aligned = moved(split, *[2] * 8)
    masked = [sample for sample in aligned.subset("test") if sample.label == 1]
    source = open_source(aligned, GRID, tmp_path / "cache")
    assert [np.argwhere(source.mask(sample, *WHOLE)).tolist() for sample in masked] == [[[1, 0]], [[1, 1]]]


def test_other_transforms_need_another_cache(split: Split, tmp_path: Path) -> None:
    sources = [split, moved(split, *[0] * 8), moved(split, *[0] * 7, 1), moved(split, *[0] * 7, np.nan)]
    prints = [open_source(each, GRID, tmp_path / "cache").fingerprint for each in sources]
    assert len(set(prints)) == len(prints)
    assert open_source(moved(split, *[0] * 7, 1), GRID, tmp_path / "cache").fingerprint == prints[2]
    assert len(visible(tmp_path / "cache")) == len(prints)


def test_damaged_parts_of_aligned_images_are_decoded_again_with_their_transform(split: Split, tmp_path: Path) -> None:
    aligned = moved(split, *range(8))
    folder = open_source(aligned, GRID, tmp_path / "cache").folder
    sample = aligned.subset("test")[-1]
    expected = DecodedFiles(GRID.image_size, has_masks=True)
    for path in folder.glob("*.npy"):
        content = bytearray(path.read_bytes())
        content[-5] ^= 1  # a pixel of the last image; the checksum follows
        path.write_bytes(content)
    for reopened in (open_source(aligned, GRID, tmp_path / "cache"), reopen_cache(aligned, GRID, folder)):
        assert np.array_equal(reopened.image(sample, *WHOLE), expected.image(sample, *WHOLE))
        assert np.array_equal(reopened.mask(sample, *WHOLE), expected.mask(sample, *WHOLE))
