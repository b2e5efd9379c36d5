#!/usr/bin/env bash
# OpenCV turns an AVIF file only by its EXIF note, not by its own orientation properties.
#
# Behaviour: the properties irot and imir of the image hold the orientation of an AVIF file; an EXIF note is only
#   information. Pillow writes the properties, and leaves the note out. OpenCV does not turn such a file, although it turns
#   JPEG, PNG and WebP. A file that has the note besides, as OpenCV's own imwriteWithMetadata writes it, it does turn.
#   Pillow turns neither, and gives both as EXIF orientation, for ImageOps.exif_transpose.
# Versions: Pillow 13.0.0, OpenCV 5.0.0 (opencv-python-headless 5.0.0.93).
# Wrong guess: AVIF is turned as JPEG is, by the EXIF note, by every reader that turns JPEG.
# Matters to: people who draw regions from one reader into pixels from another.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet --disable-pip-version-check \
  pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import cv2
import numpy as np
import PIL
from PIL import Image

ORIENTATION = 274
QUARTER = 6  # to the right
STORED = np.zeros((40, 60, 3), np.uint8)
STORED[:20, :30] = 255


def note():
    exif = Image.Exif()
    exif[ORIENTATION] = QUARTER
    return exif


def by_pillow(path):
    Image.fromarray(STORED).save(path, exif=note(), quality=100)


def by_opencv(path):
    exif = np.frombuffer(note().tobytes().removeprefix(b"Exif\0\0"), np.uint8)[None]
    cv2.imwriteWithMetadata(str(path), STORED, [cv2.IMAGE_METADATA_EXIF], [exif], [cv2.IMWRITE_AVIF_QUALITY, 100])


def said(pixels):
    for name, expected in (("stored", STORED), ("turned", np.rot90(STORED, -1))):
        if pixels.shape == expected.shape and np.abs(pixels.astype(int) - expected).max() < 20:
            return name
    return "something else"


print(f"Pillow {PIL.__version__}, OpenCV {cv2.__version__}")
found = {}
for name, write in {"Pillow": by_pillow, "OpenCV": by_opencv}.items():
    path = Path(sys.argv[1]) / f"{name}.avif"
    write(path)
    with Image.open(path) as image:
        pillow, orientation = said(np.asarray(image.convert("RGB"))), image.getexif().get(ORIENTATION)
    opencv = [said(cv2.imread(str(path), flag)) for flag in (cv2.IMREAD_COLOR, cv2.IMREAD_UNCHANGED)]
    content = path.read_bytes()
    marks = {b"irot": "irot", b"MM\0*": "EXIF note", b"II*\0": "EXIF note"}
    has = tuple(said for mark, said in marks.items() if mark in content)
    found[name] = (has, pillow, orientation, *opencv)
    print(
        f"written by {name}, with {' and '.join(has)}: Pillow {pillow}, orientation {orientation}; "
        f"OpenCV {opencv[0]}, with IMREAD_UNCHANGED {opencv[1]}"
    )
expected = {
    "Pillow": (("irot",), "stored", QUARTER, "stored", "stored"),
    "OpenCV": (("irot", "EXIF note"), "stored", QUARTER, "turned", "stored"),
}
sys.exit(0 if found == expected else "the behaviour has changed")
PYTHON
