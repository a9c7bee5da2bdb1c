"""Models that mutations start from: the node tests of the standard (every operator), and small models of every family."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
from onnx.backend.test.loader import load_model_tests

LARGEST = 30_000  # bytes: mutations of a larger file mostly change weights
_DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"


def seed_models() -> list[bytes]:
    """The files, in the same order on every machine with the same onnx package."""
    from frontend.test_onnx_fuzz import control, text, vision
    from frontend.test_onnx_gradient import GRAPHS, derived
    from frontend.test_onnx_maps import CASES
    from frontend.test_onnx_roi import MODEL

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casts that overflow while the suite computes its expectations
        cases = load_model_tests(kind="node")
    models: list[onnx.ModelProto] = [c.model for c in sorted(cases, key=lambda c: c.name)]
    found = [m.SerializeToString() for m in models]
    own = [m().SerializeToString() for m in (vision, text, control)]
    rare = [m.SerializeToString() for m in (*(m for m, _, _ in CASES), *(derived(*g) for g in GRAPHS.values()), MODEL)]
    return [*(data for data in found if len(data) <= LARGEST), *own * 30, *rare, *[_DIGITS.read_bytes()] * 5]
