"""One artifact for any size beside artifacts for known sizes, run in turns in one process.

    python benchmarks/open_dims.py /path/to/models [minilm_l6 bert_base resnet50 ...] [--threads 1]

The folder holds NAME.onnx as exported for fixed sizes (`CASES`); `opened` makes their batch, sequence, cache, height and width
symbolic, as an exporter with dynamic axes writes them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import tilewright
from onnx import helper, numpy_helper

Sizes = dict[str, int]
TEXT = ({"batch": 1, "seq": 128}, {"batch": 4, "seq": 37}, {"batch": 8, "seq": 128})
IMAGES = ({"batch": 1}, {"batch": 8})
ANY_IMAGES = ({"batch": 1, "height": 224, "width": 224}, {"batch": 2, "height": 160, "width": 288})
SEGMENTS = ({"batch": 1, "height": 256, "width": 256}, {"batch": 2, "height": 192, "width": 320})
STEPS = ({"batch": 1, "seq": 64}, {"batch": 16, "seq": 30})
CACHES = ({"cache": 255}, {"cache": 1023}, {"cache": 17})
CASES: dict[str, tuple[Sizes, ...]] = {
    "minilm_l6": TEXT, "bert_base": TEXT, "gpt2_prefill": TEXT[:2], "llama_decode": CACHES, "lstm": STEPS, "resnet50": IMAGES,
    "mobilenet_v2": IMAGES, "convnext_tiny": ANY_IMAGES, "unet": SEGMENTS, "yolov8n": (*IMAGES[:1], {"batch": 3}),
    "vit_b16": (*IMAGES[:1], {"batch": 3}), "deit_tiny": IMAGES,
}
OPEN_AXES = {  # of the inputs, where they are not `batch`, and for texts `seq`
    "llama_decode": {"past": {2: "cache"}}, "lstm": {"x": {0: "batch", 1: "seq"}},
    "convnext_tiny": {"x": {0: "batch", 2: "height", 3: "width"}}, "unet": {"x": {0: "batch", 2: "height", 3: "width"}},
}
VOCABULARY = 30000


def opened(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with symbolic sizes: `OPEN_AXES`, or dimension 0 of every input is `batch`, dimension 1 of integers `seq`."""
    g = model.graph
    arrays = {t.name: numpy_helper.to_array(t) for t in g.initializer}
    text = g.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64
    usual = {0: "batch", 1: "seq"} if text else {0: "batch"}
    given = OPEN_AXES.get(name)
    for v in g.input:
        axes = usual if given is None else given.get(v.name.split("_")[0], {})
        for axis, dim in axes.items():
            v.type.tensor_type.shape.dim[axis].dim_param = dim
    del g.value_info[:]
    for v in g.output:
        v.type.tensor_type.ClearField("shape")
    if given is None:
        makers = {n.output[0]: n.op_type for n in g.node}
        makers |= {n.output[0]: "heads" for n in g.node if n.op_type == "Reshape" and _joins_heads(arrays[n.input[1]].tolist())}
        nodes = [made for n in g.node for made in _opened_node(n, arrays, makers, g)]
        del g.node[:]
        g.node.extend(nodes)
    return model


def _joins_heads(shape: list[int]) -> bool:
    """[batch * heads, seq, width], of which a transposition makes the keys' other side."""
    return len(shape) == 3 and shape[0] == -1 and shape[2] <= 128


def _opened_node(
    n: onnx.NodeProto, arrays: dict[str, np.ndarray], makers: dict[str, str], g: onnx.GraphProto
) -> list[onnx.NodeProto]:
    def constant(values: object) -> str:
        name = f"{n.output[0]}/{len(g.initializer)}"
        g.initializer.append(numpy_helper.from_array(np.array(values), name))
        return name

    out = list(n.output)
    shape_of_input, size = f"{out[0]}_shape", f"{out[0]}_size"
    if n.op_type == "Concat" and n.input[0] in arrays:  # a token in front of those of each image
        return [
            helper.make_node("Shape", [g.input[0].name], [size], start=0, end=1),
            helper.make_node("Concat", [size, constant([1, 1])], [shape_of_input], axis=0),
            helper.make_node("Expand", [n.input[0], shape_of_input], [f"{out[0]}_first"]),
            helper.make_node("Concat", [f"{out[0]}_first", n.input[1]], out, axis=1),
        ]
    if n.op_type == "And" and all(i in arrays for i in n.input):
        return []
    if n.op_type == "And" and n.input[1] in arrays and arrays[n.input[1]].ndim == 4:  # keys that are no later than queries
        start, step, line = constant(0), constant(1), f"{out[0]}_line"
        return [
            helper.make_node("Shape", [g.input[0].name], [size], start=1, end=2),
            helper.make_node("Squeeze", [size], [f"{size}0"]),
            helper.make_node("Range", [start, f"{size}0", step], [line]),
            helper.make_node("Unsqueeze", [line, constant([0, 1, 2])], [f"{line}0"]),
            helper.make_node("Unsqueeze", [line, constant([0, 1, 3])], [f"{line}1"]),
            helper.make_node("LessOrEqual", [f"{line}0", f"{line}1"], out),
        ]
    if n.op_type == "Gather" and n.input[1] in arrays and arrays[n.input[1]].ndim == 2:  # positions 0, 1, ...
        row = f"{out[0]}_row"
        return [
            helper.make_node("Shape", [g.input[0].name], [size], start=1, end=2),
            helper.make_node("Slice", [n.input[0], constant([0]), size, constant([0])], [row]),
            helper.make_node("Unsqueeze", [row, constant([0])], out),
        ]
    if n.op_type == "GatherND":  # the mask of the keys
        return [helper.make_node("Unsqueeze", [n.input[0], constant([1, 2])], out)]
    if n.op_type == "And" and n.input[0] in arrays:  # with a constant mask of ones
        return [helper.make_node("Identity", [n.input[1]], out)]
    if n.op_type == "Reshape":
        shape = arrays[n.input[1]].tolist()
        if _joins_heads(shape):  # the batch of the heads, as it was
            return [helper.make_node("Reshape", [n.input[0], constant([0, 0, 0, 0])], out)]
        if len(shape) == 4 and makers.get(n.input[0]) == "Transpose":  # after a transposition of [heads, seq, width]
            return [helper.make_node("Identity", [n.input[0]], out)]
        if makers.get(n.input[0]) == "Gemm":  # rows of all sequences
            return [
                helper.make_node("Shape", [g.input[0].name], [size], start=0, end=2),
                helper.make_node("Concat", [size, constant(shape[2:])], [shape_of_input], axis=0),
                helper.make_node("Reshape", [n.input[0], shape_of_input], out),
            ]
        if len(shape) == 2 and shape[1] > 128:
            return [helper.make_node("Reshape", [n.input[0], constant([-1, shape[1]])], out)]
        if n.input[0] == g.input[0].name or (shape[0] == -1 and len(shape) != 2):
            return [helper.make_node("Identity", [n.input[0]], out)]
        kept = [0] * (2 if len(shape) > 2 and "seq" in _dims_of(g) else 1)
        return [helper.make_node("Reshape", [n.input[0], constant([*kept, *shape[len(kept):]])], out)]
    if n.op_type == "Transpose" and makers.get(n.input[0]) == "heads":
        return [helper.make_node("Transpose", list(n.input), out, perm=[0, 1, 3, 2])]
    return [n]


def _dims_of(g: onnx.GraphProto) -> set[str]:
    return {d.dim_param for v in g.input for d in v.type.tensor_type.shape.dim if d.dim_param}


def inputs_of(module: tilewright.Module, sizes: dict[str, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = []
    for spec in module.inputs:
        shape = [sizes[d] if isinstance(d, str) else d for d in spec.shape]
        if spec.dtype != "i64":
            made.append(rng.standard_normal(shape).astype(np.float32))
        elif "mask" in spec.name:
            made.append(np.ones(shape, np.int64))
        else:
            made.append(rng.integers(0, 2 if "type" in spec.name else VOCABULARY, shape))
    return made


def load(model: onnx.ModelProto, threads: int, **options: object) -> tilewright.Module:
    with tempfile.TemporaryDirectory() as folder:  # what is mapped stays
        tilewright.compile(model, **options).save(folder)  # type: ignore[arg-type]
        return tilewright.load(folder, threads=threads)


def compare(name: str, path: Path, threads: int, seconds: float, strict: bool) -> None:
    model = opened(onnx.load(path), name)
    common = {"name": name, "accuracy": "strict" if strict else "default"}
    any_size = load(model, threads, **common)
    for sizes in CASES[name]:
        known = load(model, threads, dims=sizes, **common)
        ins = inputs_of(any_size, sizes)
        results = [known(*ins), any_size(*ins)]
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3 * float(np.abs(a).max()))
        steps = [m.bind(ins, r) for m, r in zip((known, any_size), results, strict=True)]
        best = [float("inf")] * 2
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for n, step in enumerate(steps):
                start = time.perf_counter()
                step()
                best[n] = min(best[n], time.perf_counter() - start)
        label = ", ".join(f"{d} {n}" for d, n in sizes.items())
        print(f"| {name} | {label} | {best[0] * 1e3:.2f} | {best[1] * 1e3:.2f} | {best[1] / best[0]:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each size")
    parser.add_argument("--strict", action="store_true", help="without transformed products and convolutions")
    a = parser.parse_args()
    print("| model | sizes | known, ms | any size, ms | ratio |\n|---|---|---|---|---|")
    for name in a.models:
        compare(name, a.folder / f"{name}.onnx", a.threads, a.seconds, a.strict)


if __name__ == "__main__":
    main()
