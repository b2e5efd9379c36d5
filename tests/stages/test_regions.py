"""Regions as people draw them: images, YAML, COCO, LabelMe."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.stages.region_files import decompressed
from anomalib_tiled.stages.region_shapes import Circle, Polygon
from anomalib_tiled.stages.regions import RegionMap, Regions

SIZE = Size(8, 12)

Write = Callable[[str, Any], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of regions, or an image of a mask, and give its path."""

    def to(name: str, content: np.ndarray | dict[str, Any]) -> str:
        path = tmp_path / name
        if isinstance(content, np.ndarray):
            Image.fromarray(content).save(path)
        else:
            path.write_text(json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content))
        return str(path)

    return to


def mask_of(rows: slice, columns: slice, size: Size = SIZE) -> np.ndarray:
    mask = np.zeros(size, dtype=np.bool_)
    mask[rows, columns] = True
    return mask


def read(file: str, size: Size = SIZE) -> RegionMap:
    return Regions(file=file).read(size)


def labelme(*shapes: dict[str, Any], size: Size = SIZE) -> dict[str, Any]:
    """What LabelMe writes."""
    rest = {"group_id": None, "description": "", "flags": {}, "mask": None}
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": [{**rest, **each} for each in shapes],
        "imagePath": "board.png",
        "imageData": None,
        "imageHeight": size.height,
        "imageWidth": size.width,
    }


def coco(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "board.png", "height": 8, "width": 12}],
        "categories": [{"id": 1, "name": "ignore"}, {"id": 2, "name": "connector"}],
        "annotations": [{"id": number, "image_id": 7, **each} for number, each in enumerate(annotations)],
    }


def test_white_is_ignored_or_inspected(write: Write) -> None:
    left = mask_of(slice(None), slice(0, 6))
    path = write("half.png", left.astype(np.uint8) * 255)
    assert (Regions(ignore=path).read(SIZE).ignored == left).all()
    assert (Regions(inspect=path).read(SIZE).ignored == ~left).all()


@pytest.mark.parametrize("size", [Size(4, 6), Size(80, 120), Size(5, 7)])
def test_a_mask_may_have_any_size_of_the_same_proportions(write: Write, size: Size) -> None:
    path = write("half.png", mask_of(slice(None), slice(0, size.width // 2), size).astype(np.uint8) * 255)
    ignored = Regions(ignore=path).read(SIZE).ignored
    assert ignored[:, :5].all()
    assert not ignored[:, 6:].any()


def test_a_mask_may_be_drawn_on_an_image_that_the_run_squeezes(write: Write) -> None:
    path = write("half.png", mask_of(slice(None), slice(0, 10), Size(8, 20)).astype(np.uint8) * 255)
    ignored = Regions(ignore=path).read(Size(8, 8), Size(16, 40)).ignored
    assert (ignored == mask_of(slice(None), slice(0, 4), Size(8, 8))).all()


def test_transparent_pixels_are_not_white(write: Write) -> None:
    pixels = np.full((8, 12, 4), 255, dtype=np.uint8)
    pixels[:, 6:, 3] = 0
    ignored = Regions(ignore=write("drawn.png", pixels)).read(SIZE).ignored
    assert (ignored == mask_of(slice(None), slice(0, 6))).all()


@pytest.mark.parametrize(
    ("image_size", "factor"), [([8, 12], (1, 1)), ([80, 120], (10, 10)), (None, (1 / 12, 1 / 8))], ids=str
)
def test_own_files(write: Write, image_size: list[int] | None, factor: tuple[float, float]) -> None:
    x, y = factor
    content = {
        "regions": {
            "ignore": [{"rectangle": [0, 0, 3 * x, 8 * y]}],
            "connector": [
                {"rectangle": [4 * x, 2 * y, 2 * x, 3 * y]},
                {"polygon": [[8 * x, 4 * y], [12 * x, 4 * y], [12 * x, 8 * y], [8 * x, 8 * y]]},
            ],
        }
    }
    found = read(write("own.yaml", content if image_size is None else {"image_size": image_size, **content}))
    assert (found.ignored == mask_of(slice(None), slice(0, 3))).all()
    assert [*found.named] == ["connector"]
    expected = mask_of(slice(2, 5), slice(4, 6)) | mask_of(slice(4, 8), slice(8, 12))
    assert (found.named["connector"] == expected).all()


def test_labelme(write: Write) -> None:
    content = labelme(
        {"label": "Ignore", "shape_type": "rectangle", "points": [[12.0, 8.0], [10.0, 0.0]]},
        {"label": "clip", "points": [[0, 0], [4, 0], [4, 4], [0, 4]]},
        {"label": "screw 1", "shape_type": "circle", "points": [[6.0, 4.0], [8.0, 4.0]]},
    )
    found = read(write("board.json", content))
    assert (found.ignored == mask_of(slice(None), slice(10, 12))).all()
    assert (found.named["clip"] == mask_of(slice(0, 4), slice(0, 4))).all()
    circle = ["....", "....", ".##.", "####", "####", ".##.", "....", "...."]
    assert ["".join(".#"[each] for each in row) for row in found.named["screw 1"][:, 4:8].astype(int)] == circle
    assert found.named["screw 1"].sum() == 12


def test_coco(write: Write) -> None:
    runs = {"size": [8, 12], "counts": [4, 2, 6, 2, 82]}
    content = coco(
        {"category_id": 1, "segmentation": [[0, 6, 12, 6, 12, 8, 0, 8]], "iscrowd": 0},
        {"category_id": 2, "segmentation": runs, "iscrowd": 1},
        {"category_id": 2, "bbox": [6, 0, 2, 3], "segmentation": []},
    )
    found = read(write("board.json", content))
    assert (found.ignored == mask_of(slice(6, 8), slice(None))).all()
    expected = mask_of(slice(4, 6), slice(0, 2)) | mask_of(slice(0, 3), slice(6, 8))
    assert (found.named["connector"] == expected).all()


def test_run_lengths_that_coco_tools_have_compressed(write: Write) -> None:
    """The text is that of pycocotools for three rectangles in an image of 9 x 14 pixels."""
    expected = mask_of(slice(2, 6), slice(1, 5), Size(9, 14)) | mask_of(slice(4, 9), slice(7, 12), Size(9, 14))
    expected[0, 13] = True
    runs = {"size": [9, 14], "counts": ";4500000d01[O00000005LO"}
    content = coco({"category_id": 2, "segmentation": runs})
    content["images"][0] |= {"height": 9, "width": 14}
    assert (read(write("board.json", content), Size(9, 14)).named["connector"] == expected).all()
    assert sum(decompressed(runs["counts"])) == 9 * 14


def test_a_pixel_belongs_to_a_shape_if_its_middle_does() -> None:
    """Compared with the cross products of edges and middles, for convex polygons."""
    random = np.random.default_rng(0)
    for _ in range(50):
        angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 7)))
        points = np.column_stack([6 + 7 * np.cos(angles), 4 + 5 * np.sin(angles)])  # may reach beyond the image
        y, x = np.mgrid[:8, :12] + 0.5
        edges = zip(points, np.roll(points, -1, axis=0), strict=True)
        sides = [(b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) > 0 for a, b in edges]
        assert (Polygon(points).pixels(SIZE, SIZE) == np.all(sides, axis=0)).all()


def test_half_of_an_image_is_half_of_it() -> None:
    half = Polygon.rectangle(0, 0, 50, 100).pixels(Size(100, 100), Size(512, 512))
    assert (half == mask_of(slice(None), slice(0, 256), Size(512, 512))).all()
    assert Circle(0, 0, 4).pixels(SIZE, SIZE)[0, :5].tolist() == [True, True, True, True, False]


def test_sources_are_joined(write: Write) -> None:
    image = write("top.png", mask_of(slice(0, 2), slice(None)).astype(np.uint8) * 255)
    file = write("own.yaml", {"image_size": [8, 12], "regions": {"inspect": [{"rectangle": [0, 0, 6, 8]}]}})
    ignored = Regions(ignore=image, file=file).read(SIZE).ignored
    assert (~ignored == mask_of(slice(2, 8), slice(0, 6))).all()


def test_named_regions_end_where_pixels_are_ignored(write: Write) -> None:
    shapes = {"ignore": [{"rectangle": [0, 0, 4, 8]}], "clip": [{"rectangle": [2, 0, 4, 2]}]}
    found = read(write("own.yaml", {"image_size": [8, 12], "regions": shapes}))
    assert (found.named["clip"] == mask_of(slice(0, 2), slice(4, 6))).all()


def test_tiles_without_a_pixel_to_inspect() -> None:
    grid = TileGrid(SIZE, Size(4, 4), Size(4, 4))
    ignored = mask_of(slice(0, 8), slice(0, 5))
    ignored[7, 0] = False
    assert RegionMap(ignored).ignored_tiles(grid) == ["r00_c00"]


OUTSIDE = {"image_size": [8, 12], "regions": {"clip": [{"rectangle": [8, 1, 6, 2]}]}}
TINY = {"image_size": [800, 1200], "regions": {"clip": [{"rectangle": [100, 100, 9, 9]}]}}
ALL = {"regions": {"ignore": [{"rectangle": [0, 0, 1, 1]}]}}
COVERED = {"regions": {"ignore": [{"rectangle": [0, 0, 0.5, 1]}], "clip": [{"rectangle": [0, 0, 0.25, 1]}]}}
WHOLE_IMAGE = [{"rectangle": [0, 0, 1, 1]}]
REFUSED = [
    (
        "own.yaml",
        OUTSIDE,
        "x = 12 and y = 8, but shape 1 ('clip') of PATH reaches from x = 8 to 14 and from y = 1 to 3. Correct it.",
    ),
    ("own.yaml", TINY, "A region must have a pixel, but shape 1 ('clip') of PATH covers none of an image of 8 x 12."),
    ("own.yaml", ALL, "Regions must leave pixels to inspect, but ignore all 96 of an image of 8 x 12. Ignore fewer"),
    ("own.yaml", COVERED, "A named region must have pixels that are inspected, but all 24 of 'clip' are ignored."),
    ("own.yaml", {"region": {}}, "there is no key 'region'. Did you mean 'regions'? Allowed: image_size, regions."),
    ("own.yaml", {"regions": {}}, "A file of regions must hold one at least, but PATH holds none. Draw one, or name"),
    ("board.json", labelme(), "A file of regions must hold one at least, but PATH holds none. Draw one, or name"),
    (
        "own.yaml",
        {"regions": {"clip": [{"rectangle": [8, 1, 6, 2]}]}},
        "from x = 8 to 14 and from y = 1 to 3. Correct it, or give the image_size if it is in pixels.",
    ),
    ("own.yaml", {"regions": {"clip": []}}, "region 'clip' must be a list of rectangles and polygons, but is []."),
    (
        "own.yaml",
        {"regions": {"clip": [{"circle": [1, 2, 3]}]}},
        "a shape of region 'clip' must be a rectangle or a polygon, but has the keys circle.",
    ),
    (
        "own.yaml",
        {"regions": {"clip": [{"rectangle": [0.5, 0.5, -0.25, 0.5]}]}},
        "width and height of a rectangle of region 'clip' must not be negative, but are -0.25 and 0.5. It is left,",
    ),
    (
        "own.yaml",
        {"regions": {"clip": [{"rectangle": [1, 2, 3]}]}},
        "a rectangle of region 'clip': left, top, width, height must be 4 numbers, but is [1, 2, 3].",
    ),
    (
        "own.yaml",
        {"regions": {"clip": [{"polygon": [[1, 2], [3, 4]]}]}},
        "region 'clip' must have 3 points [x, y] or more, but has [[1, 2], [3, 4]].",
    ),
    ("own.yaml", {"image_size": [0, 12], "regions": {}}, "must have height and width in pixels, but has 0 x 12."),
    ("own.yaml", {"regions": {"a/b": WHOLE_IMAGE}}, "unlike that of shape 1 ('a/b') of PATH. Rename it."),
    ("own.yaml", {"regions": {"r00_c01": WHOLE_IMAGE}}, "must not be the name of a tile"),
    ("own.yaml", {"regions": {"=SUM(A1)": WHOLE_IMAGE}}, "The label of a region must consist of letters, digits"),
    ("own.txt", ALL, "its name must end in .yaml, .yml or .json, but ends in '.txt'."),
    ("board.json", {"images": []}, "PATH cannot be used for regions: it must have shapes, as LabelMe writes, or"),
    ("board.json", {"annotations": [{"image_id": 1}, {"image_id": 2}]}, "of one image, but are of 2."),
    ("board.json", {"annotations": [{"image_id": 1}]}, "PATH cannot be used for regions: it lacks 'images'."),
    (
        "board.json",
        coco({"category_id": 1, "segmentation": {"size": [8, 12], "counts": [4, 2]}}),
        "the run lengths of annotation 0 must have the 96 pixels of its image of 8 x 12, but have 6",
    ),
    (
        "board.json",
        labelme({"label": "ignore", "shape_type": "linestrip", "points": [[1, 1], [2, 2]]}),
        "shape 1 ('ignore') must be a polygon, a rectangle or a circle, but is a linestrip.",
    ),
    ("board.json", {"shapes": [], "imageHeight": None, "imageWidth": None}, "in pixels, but has None x None."),
    ("board.json", {"shapes": [7], "imageHeight": 8, "imageWidth": 12}, "PATH cannot be read for regions: "),
]


@pytest.mark.parametrize(("name", "content", "message"), REFUSED, ids=[each[2][:40] for each in REFUSED])
def test_files_that_cannot_be_used(write: Write, name: str, content: dict[str, Any], message: str) -> None:
    path = write(name, content)
    with pytest.raises(ConfigurationError, match=re.escape(message.replace("PATH", path))):
        read(path)


def test_another_shape_than_that_of_the_images(write: Write) -> None:
    path = write("square.png", np.full((100, 100), 255, dtype=np.uint8))
    message = f"with the proportions of 8 x 12 pixels (height x width), but {path} has 100 x 100. Draw them on an image"
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Regions(ignore=path).read(SIZE)


def test_a_mask_without_white(write: Write) -> None:
    path = write("mask.png", np.eye(8, 12, dtype=np.uint8))
    message = f"{path} cannot be used for regions: a pixel must be white, that is 128 or more of 255, but the highest"
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Regions(ignore=path).read(SIZE)


def test_missing_files(tmp_path: Path) -> None:
    for given in ({"ignore": "no.png"}, {"file": "no.yaml"}):
        path = str(tmp_path / next(iter(given.values())))
        with pytest.raises(ConfigurationError, match=re.escape(f"but there is no {path}. Correct the path.")):
            Regions(**dict.fromkeys(given, path)).read(SIZE)


def test_a_file_is_no_image(write: Write) -> None:
    with pytest.raises(ConfigurationError, match=r"own.yaml cannot be read for regions: cannot identify image file"):
        Regions(ignore=write("own.yaml", {})).read(SIZE)


def test_nothing_is_given() -> None:
    with pytest.raises(ValueError, match="Regions needs an image to ignore or to inspect, or a file"):
        Regions()
