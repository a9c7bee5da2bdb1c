"""Writes docs/operators.md from the importer's tables: python docs/operators.py"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import onnx
from onnx import NodeProto
from tilewright.compiler.target_support import lacks_class
from tilewright.compiler.targets import TARGETS
from tilewright.frontend.onnx.support import reason_for
from tilewright.frontend.onnx.table import op_versions
from tilewright.ir import ops
from tilewright.ir.ops import bounded
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.control import Fused
from tilewright.ir.ops.image_file import DecodeWithin
from tilewright.ir.ops.recurrent import Recurrent

PAGE = Path(__file__).with_suffix(".md")
DOMAINS = {"": "ai.onnx", "ai.onnx.ml": "ai.onnx.ml", "ai.onnx.preview.training": "ai.onnx.preview.training"}
EXTENSIONS = ("com.microsoft", "qonnx.custom_op.general")

HEAD = """# Operators

Written by `docs/operators.py` from the importer's tables; a test keeps it current. The standard is that of onnx {version},
up to opset {opset}. What an operator's row says holds for every target, unless the last column names an exception: all
operators are imported into the same core operators. The last table says which of these a target lacks.

- **since**: the first opset in which the operator can be imported. A meaning that changed later is followed.
- **definition**: the operator is imported as the standard's own definition by other operators.
- Not listed: ImageScaler, Crop, Scale, Affine, ScaledTanh and ParametricSoftplus, which never became part of the standard,
  but stand in models of old converters.
- The length of a sequence and whether an optional is there must be known while compiling. An input or output that is a
  sequence is one for each item, called `name.0`, `name.1`, ...; of an input the length is given, `--dim name_count=3`, or
  told by the shapes of the items, `--shape name.0=2,3`. An optional input is there unless `--dim name_present=0`. In Python
  a sequence may be given as a list: `module({{"name": [a, b]}})`.
- Strings: interpreter and cpu. They run in support code that is in the library of a model with strings. A string is UTF-8
  without a zero byte; case is that of Unicode, whatever the locale; regular expressions are those of RE2, in linear time.
- Image files: interpreter (with Pillow) and cpu, whose libraries decode them in support code: baseline and progressive JPEG,
  bit by bit as libjpeg-turbo; WebP, lossy (bit by bit as libwebp) and lossless, without animations; JPEG 2000 (5-3 and 9-7
  wavelets, all progressions; no palettes, regions of interest or changes of progression); TIFF (strips and tiles; PackBits,
  LZW and Deflate; up to 16 bits; no fax, JPEG or float samples); PNG, BMP and PNM of every kind. Colours of grey images are
  equal, transparency is left out, of more than 8 bits the upper ones are taken, EXIF orientation is not applied. What cannot
  be decoded is an error of the run, with a reason. Memory is kept for the size that the model declares for the result, or
  that `--dim OUTPUT_height=1..1080 --dim OUTPUT_width=1..1920` say, else for 4096 x 4096 pixels.
- Random numbers are a function of the attribute `seed` and the position of the element: the same on every run, target and
  number of threads. Without a seed, the name of the node's result is one. The generator is in `ops/random.py`.
- Floats of 8 and 4 bits and integers of 4 and 2 bits can be cast, quantized and moved. As inputs and outputs of an artifact
  they are bytes, one for each element: the value of an integer, the bits of a float.
"""

MAP = "an input that is a map is two tensors, `name.keys` and `name.values`"
SIZED = "a result sized by data: interpreter, cpu and cuda; other targets take constants"
NOTES: dict[tuple[str, str], str] = {
    ("", "NonZero"): SIZED,
    ("", "Unique"): SIZED,
    ("", "NonMaxSuppression"): SIZED,
    ("", "ImageDecoder"): "interpreter and cpu",
    ("", "Resize"): "antialias, exclude_outside, keep_aspect_ratio_policy and tf_crop_and_resize: of known sizes",
    ("", "Compress"): "a condition computed at run time: interpreter, cpu and cuda",
    ("", "LayerNormalization"): "before opset 17 as ONNX Runtime's optimizer writes it",
    ("", "Loop"): "unrolled while importing where values change their shapes; scanned outputs need a constant trip count",
    ("", "Scan"): "a known length, except in the interpreter",
    ("", "Det"): "up to 128 rows",
    ("", "DFT"): "a known length",
    ("", "STFT"): "known lengths",
    ("", "StringSplit"): "up to 64 pieces where maxsplit does not say less; more are an error of the run",
    ("", "StringNormalizer"): "stop words are whole elements, as in ONNX Runtime",
    ("", "Dropout"): "whether it trains must be known while compiling",
    ("", "CumProd"): "a known axis size",
    ("ai.onnx.preview.training", "Gradient"): "through arithmetic, functions, products, sums, softmax, norms, and what moves",
    ("ai.onnx.ml", "DictVectorizer"): MAP + "; gives a row [1, V], as ONNX Runtime",
    ("ai.onnx.ml", "CastMap"): MAP,
    ("ai.onnx.ml", "SVMClassifier"): "refused where runtimes disagree: a linear model of two classes, SOFTMAX of one score",
    ("ai.onnx.ml", "ZipMap"): "gives the matrix of numbers, columns in the order of the labels",
    ("ai.onnx.ml", "OneHotEncoder"): "unknown categories give zeros",
    ("com.microsoft", "GroupQueryAttention"): "without the output qk, quantized caches and sliding_window_cache",
    ("com.microsoft", "Attention"): "without do_rotary and a shared buffer",
    ("com.microsoft", "MultiHeadAttention"): "without a shared buffer and beams",
    ("com.microsoft", "MatMulNBits"): "2, 4 and 8 bits; g_idx without zero points",
    ("com.microsoft", "MoE"): "an expert runs if any row needs it, then on all rows; without the sparse mixer",
    ("com.microsoft", "QMoE"): "as MoE; integers of 2, 4 and 8 bits, normalized weights or weights of the router",
    ("com.microsoft", "MatMulBnb4"): "the weights become floats while compiling",
    ("com.microsoft", "LinearAttention"): "without a window of states",
    ("com.microsoft", "CausalConvWithState"): "along one dimension, without a window of states",
    ("com.microsoft", "MRotaryEmbedding"): "without scale",
    ("com.microsoft", "DynamicQuantizeLSTM"): "activations stay floats",
    ("com.microsoft", "GatherBlockQuantized"): "rows of a matrix, blocks along them",
}


def page() -> str:
    """The text of docs/operators.md."""
    newest = onnx.defs.onnx_opset_version()
    lines = [HEAD.format(version=onnx.__version__.partition("+")[0], opset=newest)]
    for domain, title in DOMAINS.items():
        schemas = {s.name: s.since_version for s in onnx.defs.get_all_schemas() if s.domain == domain and not s.deprecated}
        rows = [_standard_row(domain, name, version) for name, version in sorted(schemas.items())]
        good = sum(not row[1].startswith("no") for row in rows)
        lines += ["", f"## {title}: {good} of {len(rows)}", "", *_table(rows)]
    for domain in EXTENSIONS:
        names = sorted(name for d, name in op_versions() if d == domain)
        lines += ["", f"## {domain}: {len(names)}", "", *_table([(n, "any", NOTES.get((domain, n), "")) for n in names])]
    return "\n".join([*lines, "", *_targets()]) + "\n"


def _targets() -> list[str]:
    """The core operators that a target lacks."""
    lines = [
        "## Targets", "", "Core operators (`ir/ops`) that a target has no rule, loops or hardware for.",
        "`tilewright check` tells it for the operators of a model.", "", "| target | lacks |", "|---|---|",
    ]
    for target in TARGETS:
        lacking = [op.__name__ for op in _core_operators() if lacks_class(target, op)]
        lines.append(f"| {target} | {', '.join(lacking) or 'none'} |")
    return lines


def _core_operators() -> list[type[Op]]:
    """Those that graphs of models are made of; fused groups and the forms that results of unknown size are compiled in are
    the compiler's own."""
    for module in pkgutil.iter_modules(ops.__path__):
        import_module(f"{ops.__name__}.{module.name}")
    found, queue = set(), list(Op.__subclasses__())
    while queue:
        op = queue.pop()
        queue += op.__subclasses__()
        own = op.__module__.startswith(ops.__name__) and op.__module__ != bounded.__name__
        if own and not op.__name__.startswith("_") and op not in (DecodeWithin, Fused, Recurrent):
            found.add(op)
    return sorted(found, key=lambda op: op.__name__)


def _standard_row(domain: str, name: str, version: int) -> tuple[str, str, str]:
    note = NOTES.get((domain, name), "")
    versions = op_versions().get((domain, name))
    if versions:
        oldest = max(versions[-1][0], 1)
        return name, str(oldest), note
    node = NodeProto(op_type=name, domain=domain)
    newest = max(version, onnx.defs.onnx_opset_version() if not domain else version)
    reason = reason_for(node, {domain: newest, "": onnx.defs.onnx_opset_version()})
    return name, f"no: {reason}" if reason else "definition", note


def _table(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    return ["| operator | since | notes |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
