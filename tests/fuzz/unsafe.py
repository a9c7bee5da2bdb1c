"""Where other implementations are no judges: operators whose results there differ from the standard, with the reason.

Each row was found by the fuzzer and decided by the text of the standard, by its node tests, or by the other implementation.
"""

from __future__ import annotations

import onnx

_EVER = 999
_RECURRENT = "the reference has neither clip, lengths, peepholes nor several directions"
_ROUNDED = "the reference rounds after it has added the zero point"
REFERENCE: dict[str, tuple[int, str]] = {
    "BatchNormalization": (13, "before opset 14 the reference mixes in statistics of the batch"),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), (12, "the reference has the meaning of opset 13 only")),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (_EVER, _RECURRENT)),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul"), (_EVER, _ROUNDED)),
    "DynamicQuantizeLinear": (_EVER, "the scale of zeros is open"),
    "LpNormalization": (_EVER, "the reference takes no absolute values for p = 1"),
    "Loop": (_EVER, "the reference joins scanned values instead of stacking them, and sees no captured value of one name"),
    "LRN": (_EVER, "the reference takes the batch for the channels"),
    "GlobalMaxPool": (_EVER, "the reference repeats axes for f64"),
    "MaxPool": (_EVER, "the reference has other sizes for auto_pad, and other indices"),
    "LpPool": (_EVER, "the reference ignores ceil_mode"),
    "ConvTranspose": (_EVER, "the reference has no groups, and no auto_pad with gaps"),
    "ReduceSumSquare": (_EVER, "the reference makes 64-bit integers of others"),
    "SoftmaxCrossEntropyLoss": (_EVER, "the reference takes the logarithm of a softmax, which may be 0"),
    "Slice": (_EVER, "the reference slices as NumPy where a start lies before the first element"),
}
"""Operator -> (newest opset that is not to be trusted, why)."""
ONNXRUNTIME: dict[str, tuple[int, str]] = {
    "MeanVarianceNormalization": (_EVER, "ONNX Runtime divides by zero where the standard adds 1e-9"),
    "Resize": (_EVER, "with a fractional size ONNX Runtime rounds it first; the node tests of the standard do not"),
    "LpPool": (_EVER, "ONNX Runtime pads by negative numbers where strides leave gaps"),
    "GridSample": (_EVER, "ONNX Runtime clamps positions before the weights of a cubic are taken"),
}


def reason(model: onnx.ModelProto, peer: str) -> str:
    """Why a peer is no judge of a model, or ""."""
    opset = next((e.version for e in model.opset_import if not e.domain), 0)
    table = REFERENCE if peer == "reference" else ONNXRUNTIME
    for node in model.graph.node:
        newest, why = table.get(node.op_type, (0, ""))
        if opset <= newest:
            return f"{node.op_type}: {why}"
    return ""
