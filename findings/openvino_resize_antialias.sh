#!/usr/bin/env bash
# OpenVINO reads the Resize of ONNX with antialias=1 and resizes without antialiasing, without a warning.
#
# Behaviour: the model is converted and compiled without an error or a warning; its output equals, to rounding, that of
#   the same model with antialias 0. Against onnxruntime, which obeys the attribute, random pixels differ by up to 139 of
#   255 grey levels, white dots on black by up to 213.
# Versions: openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0.
# Wrong guess: an attribute that a converter does not support is an error.
# Matters to: people who resize within an exported model, and people who compare OpenVINO with another runtime only on
#   images that have the right size already.
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
from onnx import TensorProto, helper

SIDE, HEIGHT, WIDTH = 512, 112, 150


def saved(antialias):
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 3, HEIGHT, WIDTH])
    options = {"mode": "linear", "antialias": antialias, "coordinate_transformation_mode": "half_pixel"}
    node = helper.make_node("Resize", ["images", "", "", "sizes"], ["out"], **options)
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])
    graph = helper.make_graph([node], "resize", [given], [out], [sizes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    path = Path(sys.argv[1]) / f"antialias_{antialias}.onnx"
    onnx.save(model, path)
    return path


def by_onnxruntime(path, images):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"images": images})[0]


def by_openvino(path, images):
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled({"images": images})["out"]


print(f"openvino {openvino.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
with_it, without = saved(1), saved(0)
random = np.random.default_rng(0).integers(0, 256, (1, 3, SIDE, SIDE)).astype(np.float32)
on_a_dot = (np.indices((SIDE, SIDE)) % 4 == 0).all(axis=0)
dots = np.broadcast_to(255.0 * on_a_dot, (1, 3, SIDE, SIDE)).astype(np.float32)
dropped = []
for name, images in {"random pixels": random, "white dots": dots}.items():
    found = by_openvino(with_it, images)
    apart, plain = (np.abs(found - by_onnxruntime(path, images)).max() for path in (with_it, without))
    print(f"{name}: {apart:.0f} grey levels from onnxruntime with antialias, {plain:.5f} from it without")
    dropped.append(apart > 50 and plain < 0.01)
sys.exit(0 if all(dropped) else "the behaviour has changed")
PYTHON
