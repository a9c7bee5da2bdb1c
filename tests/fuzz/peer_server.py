"""ONNX Runtime in a process and Python environment of its own: reads (model, inputs), writes outputs or what went wrong.

Messages are pickles after their length in eight bytes.  Runs without Tilewright; needs onnxruntime and numpy.
"""

from __future__ import annotations

import pickle
import struct
import sys

import onnxruntime


def answer(model: bytes, inputs: dict) -> tuple[str, object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return "ok", session.run(None, inputs)
    except Exception as error:
        return "refused", f"{type(error).__name__}: {error}"[:300]


while len(header := sys.stdin.buffer.read(8)) == 8:
    result = pickle.dumps(answer(*pickle.loads(sys.stdin.buffer.read(struct.unpack("<q", header)[0]))))
    sys.stdout.buffer.write(struct.pack("<q", len(result)) + result)
    sys.stdout.buffer.flush()
