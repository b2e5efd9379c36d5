#!/usr/bin/env bash
# Three libraries fill a polygon with its right and lower edges; pycocotools, which COCO files are measured by, does not.
#
# Behaviour: of an image of 16 x 16 pixels, a polygon from x = 0 to 8 and one from x = 8 to 16 are the two halves. OpenCV's
#   fillPoly, Pillow's ImageDraw.polygon and skimage.draw.polygon fill nine columns for the left one, and share a column
#   with the right one. pycocotools fills eight each, as a box of width 8 has. A square of side 4 has 25, 25, 25 and 16 pixels.
# Versions: opencv-python-headless 5.0.0.93, pillow 13.0.0, scikit-image 0.26.0, pycocotools 2.0.11.
# Wrong guess: corners of an annotation are borders between pixels for each library, so halves cover an image once.
# Matters to: people who turn polygons of annotations (COCO, LabelMe) into masks: areas come out too large, by a quarter
#   for small shapes, and neighbouring shapes overlap.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet --disable-pip-version-check \
  opencv-python-headless==5.0.0.93 pillow==13.0.0 scikit-image==0.26.0 pycocotools==2.0.11
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import cv2
import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from skimage.draw import polygon

SIDE = 16


def by_opencv(corners):
    filled = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(filled, [np.array(corners, np.int32)], 1)
    return filled


def by_pillow(corners):
    image = Image.new("1", (SIDE, SIDE))
    ImageDraw.Draw(image).polygon(corners, fill=1)
    return np.asarray(image).astype(np.uint8)


def by_skimage(corners):
    filled = np.zeros((SIDE, SIDE), np.uint8)
    filled[polygon(*np.array(corners).T[::-1], filled.shape)] = 1
    return filled


def by_pycocotools(corners):
    flat = [float(number) for corner in corners for number in corner]
    return coco.decode(coco.merge(coco.frPyObjects([flat], SIDE, SIDE)))


def box(left, top, right, bottom):
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


expected = {by_opencv: (25, 144, 16), by_pillow: (25, 144, 16), by_skimage: (25, 144, 16), by_pycocotools: (16, 128, 0)}
found = {}
for fill in expected:
    square, left, right = fill(box(2, 2, 6, 6)), fill(box(0, 0, 8, SIDE)), fill(box(8, 0, SIDE, SIDE))
    found[fill] = int(square.sum()), int(left.sum()), int((left & right).sum())
for name in ("opencv-python-headless", "pillow", "scikit-image", "pycocotools"):
    print(name, version(name))
for fill, (square, left, both) in found.items():
    print(f"{fill.__name__}: square of side 4: {square} pixels; left half: {left} of 256; in both halves: {both}")
sys.exit(0 if found == expected else "The behaviour has changed.")
PYTHON
