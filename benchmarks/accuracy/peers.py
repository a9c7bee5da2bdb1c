"""The same models through ONNX Runtime's quantizers and, where it is installed, NNCF; and our files in ONNX Runtime.

    python benchmarks/accuracy/peers.py DIR         # needs onnxruntime (and nncf, openvino); after ours.py
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_dynamic,
    quantize_static,
)

MODELS = {"a": "a", "b": "bc", "c": "bc", "d_wine": "d_wine", "d_cancer": "d_cancer"}
COUNT = 256


class Reader(CalibrationDataReader):
    def __init__(self, name: str, xs: list[np.ndarray]) -> None:
        self.rows: Iterator[dict[str, np.ndarray]] = iter([{name: x} for x in xs])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.rows, None)


def rows(data: dict[str, np.ndarray], part: str, name: str) -> list[np.ndarray]:
    x = data[f"{part}_x"]
    return list((x[:, :-1] if MODELS[name] == "bc" else x)[:, None])


def outputs(path: Path, xs: list[np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x})[0] for x in xs])


def static(method: CalibrationMethod, **settings: object) -> Callable[[Path, Path, str, list[np.ndarray]], None]:
    def run(source: Path, target: Path, name: str, xs: list[np.ndarray]) -> None:
        quantize_static(
            source, target, Reader(name, xs), quant_format=QuantFormat.QDQ, calibrate_method=method, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, **settings,  # type: ignore[arg-type]
        )

    return run


def dynamic(per_channel: bool) -> Callable[[Path, Path, str, list[np.ndarray]], None]:
    return lambda source, target, name, xs: quantize_dynamic(source, target, per_channel=per_channel)


def four_bits(block: int) -> Callable[[Path, Path, str, list[np.ndarray]], None]:
    def run(source: Path, target: Path, name: str, xs: list[np.ndarray]) -> None:
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        q = MatMulNBitsQuantizer(onnx.load(source), block_size=block, is_symmetric=True, accuracy_level=4)
        q.process()
        onnx.save_model(q.model.model, target)

    return run


def nncf(**settings: object) -> Callable[[Path, Path, str, list[np.ndarray]], None]:
    def run(source: Path, target: Path, name: str, xs: list[np.ndarray]) -> None:
        import nncf as tool
        import onnx

        options = {k: getattr(tool.ModelType, str(v)) if k == "model_type" else v for k, v in settings.items()}
        made = tool.quantize(onnx.load(source), tool.Dataset([{name: x} for x in xs]), subset_size=len(xs), **options)
        onnx.save_model(made, target)

    return run


VARIANTS: dict[str, Callable[[Path, Path, str, list[np.ndarray]], None]] = {
    "ort-minmax": static(CalibrationMethod.MinMax), "ort-entropy": static(CalibrationMethod.Entropy),
    "ort-percentile": static(CalibrationMethod.Percentile),
    "ort-minmax-matmul": static(CalibrationMethod.MinMax, op_types_to_quantize=["MatMul", "Gemm", "Conv"]),
    "ort-dynamic": dynamic(False), "ort-dynamic-channel": dynamic(True), "ort-int4-32": four_bits(32),
    "ort-int4-128": four_bits(128), "nncf-default": nncf(), "nncf-transformer": nncf(model_type="TRANSFORMER"),
}


def main(place: Path, wanted: str) -> None:
    for name, source in MODELS.items():
        data = dict(np.load(place / f"{source}.npz"))
        calibrate, test = rows(data, "calibrate", name)[:COUNT], rows(data, "test", name)
        path, ready = place / f"{name}.onnx", place / f"{name}.ready.onnx"
        quant_pre_process(path, ready, skip_symbolic_shape=True)
        input_name = ort.InferenceSession(str(path)).get_inputs()[0].name
        if wanted in "ort":
            np.savez(place / f"ort.f32.{name}.npz", y=outputs(path, test))
            for ours in sorted(place.glob(f"ours.*.{name}.onnx")):
                np.savez(place / f"ort-runs-{ours.name.removesuffix('.onnx')}.npz", y=outputs(ours, test))
        for variant, run in VARIANTS.items():
            if not variant.startswith(wanted) or ("int4" in variant and name not in "bc"):
                continue
            target, start = place / f"{variant}.{name}.onnx", time.perf_counter()
            try:
                run(ready, target, input_name, calibrate)
                seconds = time.perf_counter() - start
                np.savez(place / f"{variant}.{name}.npz", y=outputs(target, test))
                print(f"{name} {variant}: {seconds:.1f} s", flush=True)
            except Exception as error:  # a peer that fails is a result
                print(f"{name} {variant}: failed: {type(error).__name__}: {str(error)[:200]}", flush=True)
                if "-v" in sys.argv:
                    traceback.print_exc()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "ort")
