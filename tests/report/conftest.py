"""Content that is made up: boards that are drawn, with defects, scores and names that nobody would choose."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from anomalib_tiled.drift.findings import Drift, Finding, Window
from anomalib_tiled.report.content import Content, Facts, Part, Scale, ShownImage, ShownRegion, ShownTile

HOSTILE = (
    "<img src=x onerror=alert(1)>.png",
    "</script><script>alert(2)</script>.png",
    "\"quoted\" & 'quoted' &amp; ${alert(3)} {{ 7 * 7 }}.png",
    "a/very/long/path/" + "without_a_place_to_break_" * 8 + ".png",
    "ענן/صورة-\u202egnp.exe",
    "a line\u2028separator and a stray byte \udcff.png",
)
WIDTH, HEIGHT = 480, 320
"""Of pictures, in pixels; the files are four times as large."""
FILE = 4
TILE = 4 * 120


@dataclass(frozen=True)
class Board:
    """What is drawn."""

    seed: int
    defect: tuple[int, int] | None = None
    kind: str = "good"
    name: str = ""
    score: float | None = 0.2
    truth: bool | None = False
    strength: float = 0.0
    extra: dict[str, object] = field(default_factory=dict)


def address(image: Image.Image, kind: str = "PNG") -> str:
    data = BytesIO()
    image.save(data, kind)
    return f"data:image/{kind.lower()};base64,{b64encode(data.getvalue()).decode()}"


def drawn(seed: int, defect: tuple[int, int] | None, kind: str) -> Image.Image:
    """Draw a board: pads, lines, and a defect at a place."""
    board = Image.new("RGB", (WIDTH, HEIGHT), (24, 84, 58))
    draw = ImageDraw.Draw(board)
    for column in range(30, WIDTH, 60):
        draw.line([(column, 20), (column, HEIGHT - 20)], fill=(38, 112, 78), width=5)
        for row in range(30, HEIGHT, 52):
            draw.ellipse([column - 9, row - 9, column + 9, row + 9], fill=(196, 170, 92))
            draw.ellipse([column - 4, row - 4, column + 4, row + 4], fill=(30, 34, 36))
    draw.rectangle([190, 120, 300, 200], fill=(26, 28, 32))
    draw.text((214, 152), "AT-2700", fill=(190, 195, 200))
    if defect is not None:
        x, y = defect
        if kind == "scratch":
            draw.line([(x - 20, y - 9), (x + 22, y + 10)], fill=(225, 228, 224), width=3)
        else:
            draw.ellipse([x - 9, y - 7, x + 9, y + 8], fill=(122, 62, 30))
    random = np.random.default_rng(seed)
    pixels = np.asarray(board, np.float32) + random.normal(0, 5, (HEIGHT, WIDTH, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def blob(defect: tuple[int, int] | None, reach: float, strength: float, seed: int) -> np.ndarray:
    """Give scores between 0 and 1: a bump at the defect, and low clouds elsewhere."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    noise = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 13), dtype=np.uint8))
    scores = np.asarray(noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32) / 255 * 0.3
    if defect is not None:
        bump = np.exp(-((columns - defect[0]) ** 2 + (rows - defect[1]) ** 2) / (2 * reach**2))
        scores = np.maximum(scores, strength * bump)
    return scores


def tiles_of(scores: np.ndarray) -> dict[str, float]:
    side = TILE // FILE
    return {
        f"r{row:02d}_c{column:02d}": float(
            round(scores[row * side : (row + 1) * side, column * side :][:, :side].max(), 4)
        )
        for row in range(3)
        for column in range(4)
    }


def region_of(defect: tuple[int, int], peak: float) -> ShownRegion:
    x, y = defect
    return ShownRegion(FILE * (x - 22), FILE * (y - 14), FILE * 44, FILE * 28, area=FILE * FILE * 700, peak=peak)


def shown(board: Board) -> ShownImage:
    scores = blob(board.defect, 11, board.strength, board.seed)
    is_region = board.defect is not None and board.strength > 0.5
    truth = Image.new("L", (WIDTH, HEIGHT))
    if board.truth and board.defect is not None:
        x, y = board.defect
        ImageDraw.Draw(truth).ellipse([x - 21, y - 11, x + 23, y + 12], fill=255)
    name = board.name or f"{board.kind}/{board.seed:03d}.png"
    return ShownImage(
        name=name,
        path=f"/data/boards/{name}",
        link=f"file:///data/boards/{board.seed:03d}.png",
        folder=board.kind,
        height=FILE * HEIGHT,
        width=FILE * WIDTH,
        truth=board.truth,
        score=board.score,
        regions=[region_of(board.defect, board.strength)] if is_region and board.defect else [],
        tiles=tiles_of(scores),
        named_regions={"chip": round(float(scores[120:200, 190:300].max()), 4), "edge": 0.1 + board.seed / 1000},
        picture=address(drawn(board.seed, board.defect, board.kind), "JPEG"),
        heat_map=address(Image.fromarray((255 * scores).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))),
        mask=address(Image.fromarray(((scores > 0.5) * 255).astype(np.uint8))),
        truth_mask=address(truth) if board.truth else None,
    )


def colours() -> list[tuple[int, int, int, int]]:
    """Give violet to yellow, transparent where scores are low."""
    dark, middle, light = np.array([60, 15, 112]), np.array([204, 71, 120]), np.array([252, 230, 60])
    values = []
    for value in range(256):
        share = value / 255
        mix = dark + (middle - dark) * 2 * share if share < 0.5 else middle + (light - middle) * (2 * share - 1)
        values.append((*(int(channel) for channel in mix), int(225 * min(1, max(0, share - 0.2) / 0.4))))
    return values


def boards() -> list[Board]:
    """Draw twenty images: some missed, some false alarms, some close to the threshold."""
    random = np.random.default_rng(7)
    normal = [Board(seed, score=round(float(score), 4)) for seed, score in enumerate(random.normal(0.31, 0.07, 12))]
    normal[3] = replace(normal[3], score=0.5721, defect=(92, 236), strength=0.57)
    normal[5] = replace(normal[5], score=0.5174, defect=(390, 60), strength=0.52)
    places = [(105, 78), (245, 160), (330, 250), (60, 270), (420, 210), (160, 40), (365, 140), (90, 160)]
    found = [0.93, 0.88, 0.79, 0.71, 0.62, 0.531, 0.462, 0.388]
    defects = [
        Board(20 + at, place, ("scratch", "burn")[at % 2], score=score, truth=True, strength=score)
        for at, (place, score) in enumerate(zip(places, found, strict=True))
    ]
    named = [*normal, *defects]
    for at, name in zip((3, 5, 13, 16, 19, 2), HOSTILE, strict=True):
        named[at] = replace(named[at], name=name)
    return named


def tiles() -> list[ShownTile]:
    random = np.random.default_rng(3)
    made = []
    for row in range(3):
        for column in range(4):
            height = min(TILE, FILE * HEIGHT - row * TILE)
            values = {
                "auroc": round(float(1 - 0.4 * random.random() ** 2), 4),
                "false_alarms": int(random.integers(0, 4)),
                "missed": int(random.integers(0, 3)),
                "anomalous": 4,
                "normal_mean": round(float(random.normal(0.3, 0.05)), 4),
            }
            name = f"r{row:02d}_c{column:02d}"
            made.append(ShownTile(name, row * TILE, column * TILE, height, TILE, **values))  # type: ignore[arg-type]
    made[7] = replace(made[7], auroc=None, false_alarms=None, missed=None, normal_mean=None, left_out=True)
    made[9] = replace(made[9], drifted="The score of tile r02_c01 rose from 0.29 to 0.41.")
    return sorted(made, key=lambda tile: 2.0 if tile.auroc is None else tile.auroc)


def drift() -> Drift:
    windows = [
        Window(
            first=f"/line/2026-11-{day:02d}/0001.png",
            last=f"/line/2026-11-{day:02d}/0050.png",
            images=50,
            medians={"score": 0.3 + 0.002 * day, "brightness": 0.52 - 0.006 * max(0, day - 4), "sharpness": 0.2},
            moved=[] if day < 8 else ["brightness", *(["tile r02_c01"] if day > 9 else [])],
        )
        for day in range(1, 13)
    ]
    findings = [
        Finding(
            "brightness", "", 0.521, 0.482, 0.61, 1.2e-9, has_moved=True, words="Brightness fell from 0.521 to 0.482."
        ),
        Finding(
            "tile",
            "r02_c01",
            0.29,
            0.41,
            0.44,
            3e-6,
            has_moved=True,
            words="The score of tile r02_c01 rose from 0.29 to 0.41.",
        ),
        Finding("score", "", 0.31, 0.318, 0.03, 0.21, has_moved=False, words="The score has not moved."),
        Finding("sharpness", "", 0.2, 0.2, 0.01, 0.8, has_moved=False, words="Sharpness has not moved."),
    ]
    sentences = [
        "Brightness fell from 0.521 to 0.482, since image 351.",
        "The score of tile r02_c01 rose from 0.29 to 0.41.",
    ]
    return Drift(600, 180, has_drifted=True, sentences=sentences, findings=findings, windows=windows)


@pytest.fixture(scope="session")
def content() -> Content:
    """A report of a run with labelled images, an uncertain band, and drift."""
    images = [shown(board) for board in boards()]
    images[11] = replace(
        images[11], score=None, unaligned="no 12 matches with the reference", link=None, tiles={}, regions=[]
    )
    mean = Image.blend(drawn(1, None, "good"), drawn(2, None, "good"), 0.5).convert("L")
    return Content(
        title="Padim/boards/v3",
        subtitle="20 test images",
        is_labelled=True,
        scale=Scale(
            0.5, (0.45, 0.55), 0.0, 1.0, 0.5, is_normalized=True, configured_by="sensitivity", quoted_run="results/v3"
        ),
        colours=colours(),
        images=images,
        part=Part(FILE * HEIGHT, FILE * WIDTH, tiles(), address(mean, "JPEG")),
        metrics={"image_AUROC": 0.9375, "image_F1Score": 0.7368421, "pixel_AUROC": None},
        facts=[
            Facts("Versions", [("anomalib-tiled", "0.2.0"), ("anomalib", "2.7.0"), ("Python", "3.12.3")]),
            Facts("Time and memory", [("Training", "41 s"), ("Testing", "12 s"), ("Device", "CPU, 2 cores")]),
            Facts(
                "Split",
                [("Training", "60 images"), ("Validation", "12 of them normal"), ("Folder", "/data/<b>boards</b>")],
            ),
        ],
        configuration="tiling:\n  image_size: [1280, 1920]\n  tile_size: 480\nmodel: <script>Padim\n",
        notes=[
            "The threshold was tuned on the test images, so the metrics are too high.",
            "<b>Two</b> images are in both sets.",
        ],
        drift=drift().to_json(),
    )


@pytest.fixture(scope="session")
def many(content: Content) -> Callable[[int], Content]:
    """Give content with many images, whose pictures have 40 kB each, as addresses."""
    heat_map = content.images[0].heat_map
    lines = (40_000 - len(heat_map or "")) * 3 // 4 // 100
    picture = address(Image.fromarray(np.random.default_rng(0).integers(0, 256, (lines, 100), dtype=np.uint8)))
    random = np.random.default_rng(1)

    def with_images(count: int) -> Content:
        images = [
            replace(
                content.images[at % 20],
                name=f"part {at:04d}.png",
                score=float(random.normal(0.6 if at % 5 == 0 else 0.3, 0.1)),
                truth=at % 5 == 0,
                picture=picture,
                heat_map=heat_map,
                mask=None,
                truth_mask=None,
            )
            for at in range(count)
        ]
        return replace(content, images=images)

    return with_images
