#!/usr/bin/env bash
# The ONNX exporter of PyTorch refuses torch.cdist where both sides have 25 rows or fewer, and takes it where one has more.
#
# Behaviour: torch.cdist multiplies matrices if one side has more than 25 rows, and calls an operator of its own otherwise.
#   The exporter knows the multiplication only: "No ONNX function found for <OpOverload(op='aten._cdist_forward', ...)>".
#   compute_mode="use_mm_for_euclid_dist" multiplies always, and is exported whatever the number of rows.
# Versions: torch 2.14.1, onnx 1.23.2, onnxscript 0.7.2.
# Wrong guess: whether a model can be exported depends on its code, not on the size of its memory.
# Matters to: models with a memory bank or cluster centres, tried out with a small one, such as 10 patches.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet --disable-pip-version-check torch==2.14.1 onnx==1.23.2 onnxscript==0.7.2 numpy
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import re
import sys
from pathlib import Path

import onnx
import onnxscript
import torch


class Distance(torch.nn.Module):
    def __init__(self, rows, mode):
        super().__init__()
        self.bank = torch.nn.Buffer(torch.rand(rows, 8))
        self.mode = mode

    def forward(self, given):
        return torch.cdist(given, self.bank, compute_mode=self.mode).amin(dim=1)


def exported(rows, bank, mode):
    try:
        file = Path(sys.argv[1]) / "model.onnx"
        torch.onnx.export(Distance(bank, mode), (torch.rand(rows, 8),), file, dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        return re.search(r"No ONNX function found for \S+ overload='\w+'\)>|$", str(error))[0] or "another error"
    return "exported"


print(f"torch {torch.__version__}, onnx {onnx.__version__}, onnxscript {onnxscript.__version__}")
AUTOMATIC, MULTIPLIED = "use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist"
found = {}
for case in ((25, 25, AUTOMATIC), (1, 25, AUTOMATIC), (26, 3, AUTOMATIC), (3, 26, AUTOMATIC), (3, 3, MULTIPLIED)):
    found[case] = exported(*case)
    print(f"{case[0]} rows, bank of {case[1]}, {case[2]}: {found[case]}")
refused = ["_cdist_forward" in each for each in found.values()]
expected = [True, True, False, False, False]
sys.exit(0 if refused == expected and "another error" not in found.values() else "the behaviour has changed")
PYTHON
