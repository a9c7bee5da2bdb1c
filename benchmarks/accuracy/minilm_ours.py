"""Benchmark B on real weights with Tilewright: outputs on the test paragraphs, and quantized and pruned files.

    python benchmarks/accuracy/minilm_ours.py DIR [VARIANT ...]     # after minilm.py; then table.py DIR
    python benchmarks/accuracy/minilm_ours.py DIR --time            # every file that is there, 16 x 64 tokens, one thread

Writes DIR/ours.VARIANT.minilm.npz and .onnx.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import tilewright
from minilm_runs import BATCH, TEST_BATCH, Run, best_ms, runs
from onnx import ModelProto
from tilewright.compiler.prune.api import prune
from tilewright.compiler.quantize.dynamic import quantize_dynamic
from tilewright.compiler.quantize.weight_only import quantize_weights

PRUNED_SAMPLES = 16  # batches of 16 paragraphs, of which two judge


def quantized(model: ModelProto, samples: list[Run]) -> ModelProto:
    done = tilewright.quantize(model, samples)
    print("   ", done.verdict, f"{len(done.quantized)} of {len(done.plans)} tensors in integers", done.seconds)
    return done.model


def weights(bits: int, group: int) -> Callable[[ModelProto, list[Run]], ModelProto]:
    return lambda model, samples: quantize_weights(model, samples, bits=bits, group=group).model


def pruned(pattern: str, sparsity: float, **options: object) -> Callable[[ModelProto, list[Run]], ModelProto]:
    def run(model: ModelProto, samples: list[Run]) -> ModelProto:
        done = prune(model, samples[:PRUNED_SAMPLES], pattern=pattern, sparsity=sparsity, **options)  # type: ignore[arg-type]
        print("   ", done.agreement)
        return done.model

    return run


VARIANTS: dict[str, Callable[[ModelProto, list[Run]], ModelProto]] = {
    "f32": lambda model, samples: model,
    "bf16": lambda model, samples: model,
    "int8": quantized,
    "dynamic": lambda model, samples: quantize_dynamic(model, samples).model,
    "int4-32": weights(4, 32), "int4-128": weights(4, 128), "int8-weights-128": weights(8, 128),
    "unstructured-30": pruned("unstructured", 0.3), "unstructured-50": pruned("unstructured", 0.5),
    "2-4": pruned("2:4", 0.5), "2x1-50": pruned("2x1", 0.5),
    "8x1-50": pruned("8x1", 0.5), "unstructured-70": pruned("unstructured", 0.7),
    "unstructured-50-int8": lambda model, samples: quantized(pruned("unstructured", 0.5)(model, samples), samples),
    "unstructured-30-int8": lambda model, samples: quantized(pruned("unstructured", 0.3)(model, samples), samples),
}


def load(model: ModelProto, variant: str, batch: int) -> tilewright.Module:
    shapes = dict.fromkeys(("input_ids", "attention_mask"), (batch, 64))
    precision = "bf16" if variant == "bf16" else "f32"
    return tilewright.compile(model, shapes=shapes, precision=precision).load(threads=1)


def outputs(model: ModelProto, variant: str, samples: list[Run]) -> np.ndarray:
    with load(model, variant, TEST_BATCH) as module:
        return np.concatenate([module(x)[0] for x in samples])


def main(place: Path, wanted: list[str]) -> None:
    model = onnx.load(place / "minilm.onnx")
    calibrate, test = runs(place, "calibrate", BATCH), runs(place, "test", TEST_BATCH)
    for variant in wanted or VARIANTS:
        start = time.perf_counter()
        made = VARIANTS[variant](model, calibrate)
        print(f"{variant}: {time.perf_counter() - start:.1f} s", flush=True)
        onnx.save_model(made, place / f"ours.{variant}.minilm.onnx")
        np.savez(place / f"ours.{variant}.minilm.npz", y=outputs(made, variant, test))


def clock(place: Path) -> None:
    first = runs(place, "calibrate", BATCH)[0]
    for path in sorted(place.glob("ours.*.minilm.onnx")):
        variant = path.name.split(".")[1]
        with load(onnx.load(path), variant, BATCH) as module:
            print(f"{variant}: {best_ms(lambda m=module: m(first)):.1f} ms", flush=True)


if __name__ == "__main__":
    if "--time" in sys.argv:
        clock(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
