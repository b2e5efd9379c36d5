#!/usr/bin/env bash
# Three libraries read a TIFF file with packed 12-bit samples in three ways, and OpenCV by default not at all.
#
# Behaviour: two samples share three bytes (BitsPerSample 12, no compression, grey), as many machine-vision cameras
#   write. For the values 0, 1, 255, 256, 1000, 2048, 4000, 4095
#   - tifffile gives these values, as uint16;
#   - Pillow gives these values in mode I;16, but 255 for each above 255 once converted to RGB or L;
#   - OpenCV with IMREAD_UNCHANGED gives 16 times these values, up to 65520; with its default flag, and with
#     IMREAD_GRAYSCALE, it gives None, and a warning in its log.
# Versions: Pillow 13.0.0, OpenCV 5.0.0 (opencv-python-headless 5.0.0.93), tifffile 2026.3.3 with imagecodecs 2026.3.6.
# Wrong guess: TIFF is lossless, so readers agree on the values; or readers scale 12 bits to 8.
# Matters to: people who train on camera files with one reader and predict with another, or treat 12-bit images as
#   8-bit ones: read by Pillow and converted, an image brighter than a sixteenth of the range is all white.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet --disable-pip-version-check \
  pillow==13.0.0 opencv-python-headless==5.0.0.93 tifffile==2026.3.3 imagecodecs==2026.3.6 numpy
"$folder/venv/bin/python" - "$folder/packed.tif" 2> "$folder/log" <<'PYTHON'
import struct
import sys
from pathlib import Path

import cv2
import PIL
import numpy as np
import tifffile
from PIL import Image

VALUES = [0, 1, 255, 256, 1000, 2048, 4000, 4095]


def packed():
    """Write the values as one row: two in three bytes, the higher bits first."""
    pairs = zip(VALUES[::2], VALUES[1::2])
    return b"".join((first << 12 | second).to_bytes(3, "big") for first, second in pairs)


def tiff(data):
    short, long = 3, 4
    tags = [
        (256, long, len(VALUES)),  # width
        (257, long, 1),  # height
        (258, short, 12),  # bits per sample
        (259, short, 1),  # no compression
        (262, short, 1),  # zero is black
        (273, long, 8),  # where the data begins
        (277, short, 1),  # samples per pixel
        (278, long, 1),  # rows in the strip
        (279, long, len(data)),  # bytes in the strip
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


path = sys.argv[1]
Path(path).write_bytes(tiff(packed()))
with Image.open(path) as image:
    found = {f"Pillow, {image.mode}": np.asarray(image), "Pillow, to RGB": np.asarray(image.convert("RGB"))[..., 0]}
found["tifffile"] = tifffile.imread(path)
for flag in ("IMREAD_UNCHANGED", "IMREAD_COLOR", "IMREAD_GRAYSCALE"):
    found[f"OpenCV, {flag}"] = cv2.imread(path, getattr(cv2, flag))
found = {reader: None if pixels is None else pixels.ravel().tolist() for reader, pixels in found.items()}

print(f"Pillow {PIL.__version__}, OpenCV {cv2.__version__}, tifffile {tifffile.__version__}")
print(f"written: {VALUES}")
for reader, pixels in found.items():
    print(f"{reader}: {pixels}")
expected = {
    "Pillow, I;16": VALUES,
    "Pillow, to RGB": [min(value, 255) for value in VALUES],
    "tifffile": VALUES,
    "OpenCV, IMREAD_UNCHANGED": [16 * value for value in VALUES],
    "OpenCV, IMREAD_COLOR": None,
    "OpenCV, IMREAD_GRAYSCALE": None,
}
sys.exit(0 if found == expected else "the behaviour has changed")
PYTHON
echo "log of OpenCV: $(grep --max-count=1 --only-matching 'TIFFRGBAImageOK.*' "$folder/log")"
