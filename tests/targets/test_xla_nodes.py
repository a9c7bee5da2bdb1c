"""The node tests of the ONNX standard through xla:cpu: what the interpreter passes, passes here, less a stated few."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from frontend.test_onnx_suite import DIFFERENT, INCOMPARABLE, as_array, refusal
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from tilewright.compiler.onnx_backend import XlaCpuBackend
from tilewright.ir.errors import TilewrightError

pytest.importorskip("jaxlib", reason="XLA runs through jaxlib: pip install 'tilewright[tpu]'")

CHUNKS = 8
DYNAMIC = "the size of the result depends on data"
STRINGS = "XLA has no strings"
IMAGES = "XLA decodes no image files"
SKIPPED = {  # 53 of 1865; the CPU target refuses the 18 of the first row too
    r"test_(nonmaxsuppression|unique|nonzero)_.*": DYNAMIC,
    r"test_image_decoder_.*": IMAGES,
    r"test_(equal_string|regex_full_match_|string_concat|string_split_|strnormalizer_).*": STRINGS,
    r"test_ai_onnx_ml_label_encoder_(string_int|tensor_(value_only_)?mapping).*": STRINGS,
}


def problem(case: TestCase) -> str:
    """What is wrong with the result of a test, or ""."""
    skipped = any(re.fullmatch(name, case.name) for name in SKIPPED)
    try:
        prepared = XlaCpuBackend.prepare(case.model)
        for inputs, expected in case.data_sets or ():
            outputs = prepared.run([as_array(x) for x in inputs])
            Runner.assert_similar_outputs([as_array(x) for x in expected], outputs, case.rtol, case.atol)
    except (TilewrightError, AssertionError) as e:
        return "" if skipped else f"{case.name}: {type(e).__name__}: {' '.join(str(e).split())[:300]}"
    return f"{case.name}: passes, but is on the skip list" if skipped else ""


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_node_tests_of_the_standard(chunk: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casts that overflow while the suite computes its expectations
        cases = load_model_tests(kind="node")[chunk::CHUNKS]
    cases = [c for c in cases if c.name not in INCOMPARABLE]
    known = [c for c in cases if not refusal(c) and not any(re.fullmatch(name, c.name) for name in DIFFERENT)]
    with np.errstate(all="ignore"):
        problems = [p for p in map(problem, known) if p]
    assert len(known) > 100
    assert not problems, "\n".join(problems)
