#!/usr/bin/env bash
# Pillow and OpenCV, with any flags, follow the orientation of a TIFF file; OpenCV cannot turn by a quarter.
#
# Behaviour: of the eight orientations of TIFF (tag 274),
#   - Pillow follows all while it decodes, unlike those of JPEG, PNG and WebP, which it leaves to ImageOps.exif_transpose;
#   - OpenCV follows 2 to 4 with IMREAD_UNCHANGED and IMREAD_IGNORE_ORIENTATION too, which leave a JPEG file as stored;
#   - OpenCV gives None for 5 to 8, which exchange height and width, unless these are equal; its log says
#     "'original_ptr == real_mat.data' must be 'true'";
#   - tifffile follows none.
# Versions: Pillow 13.0.0, OpenCV 5.0.0 (opencv-python-headless 5.0.0.93), tifffile 2026.3.3.
# Wrong guess: a reader follows such notes for all formats or for none, and a flag to ignore them does that.
# Matters to: people who draw regions from one reader into pixels from another.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet --disable-pip-version-check \
  pillow==13.0.0 opencv-python-headless==5.0.0.93 tifffile==2026.3.3 numpy
"$folder/venv/bin/python" - "$folder" 2> "$folder/log" <<'PYTHON'
import sys
from pathlib import Path

import cv2
import numpy as np
import PIL
import tifffile
from PIL import Image

ORIENTATION = 274
FLAGS = {
    "IMREAD_COLOR": cv2.IMREAD_COLOR,
    "IMREAD_UNCHANGED": cv2.IMREAD_UNCHANGED,
    "IMREAD_COLOR | IMREAD_IGNORE_ORIENTATION": cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
}


def turned(pixels, orientation):
    """Turn and mirror stored pixels as the note says."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    flips = {1: (), 2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}[orientation]
    return np.flip(pixels, flips)


def said(pixels, stored, orientation):
    if pixels is None:
        return "none"
    for name, expected in (("stored", stored), ("turned", turned(stored, orientation))):
        if pixels.shape == expected.shape and np.array_equal(pixels, expected):
            return name
    return "something else"


def read(path, stored, orientation):
    with Image.open(path) as image:
        found = [said(np.asarray(image.convert("RGB")), stored, orientation)]
    for flag in FLAGS.values():
        pixels = cv2.imread(str(path), flag)
        found.append(said(None if pixels is None else pixels[..., ::-1], stored, orientation))
    return found


def written(path, stored, orientation):
    note = Image.Exif()
    note[ORIENTATION] = orientation
    Image.fromarray(stored).save(path, exif=note)
    return path


print(f"Pillow {PIL.__version__}, OpenCV {cv2.__version__}, tifffile {tifffile.__version__}")
print(f"size, orientation: Pillow, OpenCV with {', '.join(FLAGS)}, tifffile")
random = np.random.default_rng(0)
as_described = True
for shape in ((40, 60, 3), (40, 40, 3)):
    stored = random.integers(0, 256, shape, dtype=np.uint8)
    for orientation in range(2, 9):
        path = written(Path(sys.argv[1]) / "turned.tif", stored, orientation)
        found = [*read(path, stored, orientation), said(tifffile.imread(path), stored, orientation)]
        print(f"{shape[0]} x {shape[1]}, {orientation}: {', '.join(found)}")
        by_opencv = "none" if orientation > 4 and shape[0] != shape[1] else "turned"
        as_described &= found == ["turned", by_opencv, by_opencv, by_opencv, "stored"]
stored = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
found = read(written(Path(sys.argv[1]) / "turned.png", stored, 6), stored, 6)
print(f"PNG, 6: {', '.join(found)}")
as_described &= found == ["stored", "turned", "stored", "stored"]
sys.exit(0 if as_described else "the behaviour has changed")
PYTHON
echo "log of OpenCV: $(grep --max-count=1 'original_ptr' "$folder/log")"
