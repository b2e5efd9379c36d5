#!/usr/bin/env bash
# AUPIMO of anomalib raises an error with fewer than about 100,000 pixels in normal images; sometimes with more, too.
#
# Behaviour: AUPIMO integrates over rates of false positives from 1e-5 to 1e-4, which it measures on the pixels of images
#   without any anomalous pixel. A rate of 1e-5 exists from 1 / 1e-5 = 100,000 such pixels on. With fewer, compute()
#   raises ValueError "Invalid `fpr_level` because it's out of the range of `shared_fpr`". Its 300,000 thresholds lie evenly
#   between the lowest and the highest score; where too few of them fall between the two rates, as with evenly
#   spread scores, compute() raises RuntimeError "Cannot compute AUPIMO".
# Versions: anomalib 2.7.0, torch 2.14.1.
# Wrong guess: a metric that is computed from pixels is defined as soon as there is one normal and one anomalous image.
# Matters to: people who measure small images or few of them, such as three normal images of 128 x 128 pixels.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet --disable-pip-version-check anomalib==2.7.0 torch==2.14.1 torchvision==0.29.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import logging
import sys

import anomalib
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPIMO

logging.disable(logging.WARNING)


def outcome(side, normal, power):
    """Measure two anomalous images and so many normal ones, with random scores; a power above 1 makes high ones rare."""
    torch.manual_seed(0)
    number = normal + 2
    masks = torch.zeros(number, side, side, dtype=torch.bool)
    masks[-2:, 5:20, 5:20] = True
    maps = torch.rand(number, side, side) ** power
    metric = AUPIMO(fields=("anomaly_map", "gt_mask"))
    metric.update(ImageBatch(image=torch.rand(number, 3, side, side), anomaly_map=maps, gt_mask=masks))
    try:
        return f"{float(metric.compute()):.4f}"
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


print(f"anomalib {anomalib.__version__}, torch {torch.__version__}")
found = {}
for side, normal, power in ((100, 9, 8), (100, 10, 8), (128, 6, 8), (128, 7, 8), (400, 4, 1)):
    found[side, normal] = outcome(side, normal, power)
    print(f"{normal} normal images of {side} x {side}, {normal * side * side:,} pixels: {found[side, normal]}")
few = [found[100, 9], found[128, 6]]
many = [found[100, 10], found[128, 7]]
as_described = (
    all(each.startswith("ValueError: Invalid `fpr_level`") for each in few)
    and not any("Error" in each for each in many)
    and found[400, 4].startswith("RuntimeError: Cannot compute AUPIMO")
)
sys.exit(0 if as_described else "the behaviour has changed")
PYTHON
