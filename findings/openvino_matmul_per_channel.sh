#!/usr/bin/env bash
# OpenVINO's CPU plugin refuses to compile a matrix product of image planes that is followed by a subtraction per channel,
# but only if the batch size is open.
#
# Behaviour: images (n, 3, height, width) are multiplied from both sides by matrices, as a separable resizing does, and a
#   mean of shape (1, 3, 1, 1) is subtracted. With an open batch size, compile_model raises RuntimeError: the plugin joins
#   both steps, and compares the 3 channels with the width of the result. With a fixed batch size, or with a division in
#   place of the subtraction, the same model compiles, and its output equals that of onnxruntime.
# Versions: openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0.
# Wrong guess: a model that is valid and compiles for one batch size compiles for an open one.
# Matters to: people who resize by matrix products in front of a network that normalizes its input.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

SIDE, HEIGHT, WIDTH = 128, 64, 48
random = np.random.default_rng(0)


def saved(batch, operator):
    parts = {"rows": (HEIGHT, SIDE), "columns": (SIDE, WIDTH), "of_channels": (1, 3, 1, 1)}
    weights = [numpy_helper.from_array(random.random(shape, np.float32) + 0.5, name) for name, shape in parts.items()]
    nodes = [
        helper.make_node("MatMul", ["rows", "images"], ["lower"]),
        helper.make_node("MatMul", ["lower", "columns"], ["small"]),
        helper.make_node(operator, ["small", "of_channels"], ["out"]),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 3, HEIGHT, WIDTH])
    graph = helper.make_graph(nodes, "shrink", [given], [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    path = Path(sys.argv[1]) / f"{batch}_{operator}.onnx"
    onnx.save(model, path)
    return path


def outcome(batch, operator):
    path, images = saved(batch, operator), random.random((2, 3, SIDE, SIDE), np.float32)
    try:
        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        return next(line for line in str(error).splitlines() if "OC" in line).strip()
    expected = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"images": images})[0]
    return float(np.abs(compiled({"images": images})["out"] / expected - 1).max())


found = {case: outcome(*case) for case in (("n", "Sub"), (2, "Sub"), ("n", "Div"), (2, "Div"))}
print("openvino", openvino.__version__)
for (batch, operator), result in found.items():
    print(f"batch {batch}, {operator}: {result}")
refused = found.pop(("n", "Sub"))
as_described = isinstance(refused, str) and all(isinstance(each, float) and each < 1e-3 for each in found.values())
sys.exit(0 if as_described else "The behaviour has changed.")
PYTHON
