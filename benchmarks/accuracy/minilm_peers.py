"""Benchmark B on real weights with ONNX Runtime's quantizers and NNCF, where they are installed.

    python benchmarks/accuracy/minilm_peers.py DIR [VARIANT ...]    # after minilm.py and minilm_ours.py; then table.py DIR
    python benchmarks/accuracy/minilm_peers.py DIR --time           # every file in ONNX Runtime, 16 x 64 tokens, one thread

Calibration data and test data are those of minilm_ours.py.  Our files run in ONNX Runtime too (ort-runs-ours.*).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from minilm_runs import BATCH, TEST_BATCH, Run, best_ms, runs
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_dynamic,
    quantize_static,
)


class Reader(CalibrationDataReader):
    def __init__(self, samples: list[Run]) -> None:
        self.samples: Iterator[Run] = iter(samples)

    def get_next(self) -> Run | None:
        return next(self.samples, None)


def static(method: CalibrationMethod, **settings: object) -> Callable[[Path, Path, list[Run]], None]:
    return lambda source, target, samples: quantize_static(
        source, target, Reader(samples), quant_format=QuantFormat.QDQ, calibrate_method=method, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, **settings,  # type: ignore[arg-type]
    )


def four_bits(block: int) -> Callable[[Path, Path, list[Run]], None]:
    def run(source: Path, target: Path, samples: list[Run]) -> None:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        q = MatMulNBitsQuantizer(onnx.load(source), block_size=block, is_symmetric=True, accuracy_level=4)
        q.process()
        onnx.save_model(q.model.model, target)

    return run


def nncf(**settings: str) -> Callable[[Path, Path, list[Run]], None]:
    def run(source: Path, target: Path, samples: list[Run]) -> None:
        import nncf as tool

        options = {k: getattr(tool.ModelType, v) for k, v in settings.items()}
        made = tool.quantize(onnx.load(source), tool.Dataset(samples), subset_size=len(samples), **options)
        onnx.save_model(made, target)

    return run


VARIANTS: dict[str, Callable[[Path, Path, list[Run]], None]] = {
    "ort-dynamic": lambda source, target, samples: quantize_dynamic(source, target),
    "ort-dynamic-channel": lambda source, target, samples: quantize_dynamic(source, target, per_channel=True),
    "ort-minmax": static(CalibrationMethod.MinMax),
    "ort-minmax-matmul": static(CalibrationMethod.MinMax, op_types_to_quantize=["MatMul"]),
    "ort-int4-32": four_bits(32), "ort-int4-128": four_bits(128),
    "nncf-default": nncf(), "nncf-transformer": nncf(model_type="TRANSFORMER"),
}


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options)


def save_outputs(path: Path, name: str, samples: list[Run]) -> None:
    s = session(path)
    np.savez(path.parent / f"{name}.minilm.npz", y=np.concatenate([s.run(None, x)[0] for x in samples]))


def main(place: Path, wanted: list[str]) -> None:
    calibrate, test = runs(place, "calibrate", BATCH), runs(place, "test", TEST_BATCH)
    ready = place / "minilm.ready.onnx"
    quant_pre_process(place / "minilm.onnx", ready, skip_symbolic_shape=True)
    save_outputs(place / "minilm.onnx", "ort.f32", test)
    for path in () if wanted else sorted(place.glob("ours.*.minilm.onnx")):
        save_outputs(path, f"ort-runs-{path.name.removesuffix('.minilm.onnx')}", test)
    for variant in wanted or VARIANTS:
        target, start = place / f"{variant}.minilm.onnx", time.perf_counter()
        try:
            VARIANTS[variant](ready, target, calibrate)
            seconds = time.perf_counter() - start
            save_outputs(target, variant, test)
            print(f"{variant}: {seconds:.1f} s", flush=True)
        except Exception as error:  # a peer that fails is a result
            print(f"{variant}: failed: {type(error).__name__}: {str(error)[:200]}", flush=True)


def clock(place: Path) -> None:
    first = runs(place, "calibrate", BATCH)[0]
    for path in (place / "minilm.onnx", *sorted(place.glob("*.minilm.onnx"))):
        s = session(path)
        print(f"{path.name.removesuffix('.onnx')}: {best_ms(lambda s=s: s.run(None, first)):.1f} ms", flush=True)


if __name__ == "__main__":
    if "--time" in sys.argv:
        clock(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
