#!/usr/bin/env bash
# MulticlassAccuracy of torchmetrics takes one score in [0, 1] for each sample without a word, and counts all as class 0.
#
# Behaviour: BinaryAccuracy thresholds scores at 0.5. MulticlassAccuracy(num_classes=2) expects classes or a score for each
#   class. Given one float for each sample, it does not refuse it, although it validates its arguments by default: it cuts
#   the float to a whole number, so every score below 1 is class 0. Perfect scores give 0.5, the mean over both classes.
# Versions: torchmetrics 1.9.0, torch 2.14.1.
# Wrong guess: the check of arguments (validate_args=True) refuses floats of this shape, or they are thresholded or rounded.
# Matters to: who measures an anomaly detector by a metric of several classes, for example from a configuration of a classifier.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.14.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
import torchmetrics
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy, MulticlassConfusionMatrix

scores, labels = torch.tensor([0.1, 0.9, 0.8, 0.2]), torch.tensor([0, 1, 1, 0])


def measured(metric):
    """Update a metric with scores, and give its value or the error."""
    try:
        metric.update(scores, labels)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return metric.compute().tolist()


found = [measured(metric) for metric in (BinaryAccuracy(), MulticlassAccuracy(2), MulticlassConfusionMatrix(2))]
print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__}")
print(f"scores {scores.tolist()}, labels {labels.tolist()}")
for name, value in zip(("BinaryAccuracy", "MulticlassAccuracy(2)", "confusion matrix, rows are labels"), found, strict=True):
    print(f"{name}: {value}")
sys.exit(0 if found == [1.0, 0.5, [[2, 0], [2, 0]]] else "the behaviour has changed")
PYTHON
