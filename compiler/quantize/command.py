"""`tilewright quantize`: the arguments as settings, the result as a table, JSON, a page and files."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...ir.errors import OptionError
from ..cli import OK, USER_ERROR
from ..writing import check_writable

WEIGHTS = ("int2", "int3", "int4", "int8")


def quantize_command(a: argparse.Namespace) -> int:
    """Exit code 0 if the contract holds, 1 if not: the best that was found is written all the same."""
    check_writable(Path(a.output), "-o", folder=True)
    if a.report:
        check_writable(Path(a.report), "--report")
    if a.weights_only or a.dynamic:
        return _narrow(a)
    if a.data is None:
        raise OptionError("--data is needed: a folder of .npz files with arrays named as the model's inputs, or one such file")
    from .api import quantize
    from .report import as_json, as_text, write_page

    done = quantize(
        a.model, a.data, max_drop=None if a.max_drop is None else parse_share("max-drop", a.max_drop), metric=a.metric,
        rounding=a.rounding, equalize=not a.no_equalize, bias_correction=not a.no_bias_correction, search=not a.no_search,
        blame=not a.no_blame, timing=not a.no_timing, keep=a.keep,
    )
    place = done.save(a.output, a.target)
    if a.report:
        write_page(done, Path(a.report))
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    if a.json:
        print(json.dumps({**as_json(done), "output": str(place)}))
    elif not a.quiet:
        print(as_text(done))
        print(f"\nwrote {place / (done.name + '.int8.onnx')} and {place / 'artifact'}")
    return OK if done.met else USER_ERROR


def _narrow(a: argparse.Namespace) -> int:
    """--weights-only, --dynamic."""
    from .activations import declared_inputs
    from .dynamic import quantize_dynamic
    from .weight_only import as_text, quantize_weights

    max_drop = None if a.max_drop is None else parse_share("max-drop", a.max_drop)
    if a.weights_only and a.dynamic:
        raise OptionError("--weights-only, --dynamic: expected one of them")
    if a.dynamic:
        done = quantize_dynamic(a.model, a.data, max_drop=max_drop, metric=a.metric, keep=a.keep, timing=not a.no_timing)
    elif a.weights_only in WEIGHTS:
        done = quantize_weights(
            a.model, a.data, bits=int(a.weights_only[3:]), group=a.group, rounding=a.rounding, in_bytes=not a.exact,
            max_drop=max_drop, metric=a.metric, keep=a.keep,
        )
    else:
        raise OptionError(f"--weights-only: expected {', '.join(WEIGHTS)}, got {a.weights_only!r}")
    place = done.save(a.output, a.target)
    onnx_file = place / f"{done.name}.int{done.bits}.onnx"
    if any(not t.is_static for t in declared_inputs(done.model).values()):
        why = "is for the sizes of the samples" if done.signature else "takes any size, for which its weights are f32"
        print(f"note: the artifact {why}; compile {onnx_file} with --dim for others", file=sys.stderr)
    if a.json:
        verdict = None if done.verdict is None else asdict(done.verdict)
        print(json.dumps({"model": done.name, "met": done.met, "verdict": verdict, "bytes": list(done.bytes),
                          "layers": [asdict(n) for n in done.layers], "refused": dict(done.refused), "output": str(place)}))
    elif not a.quiet:
        print(as_text(done))
        print(f"\nwrote {onnx_file} and {place / 'artifact'}")
    return OK if done.met else USER_ERROR


def parse_share(option: str, text: str) -> float:
    """0.5% or 0.005.  Raises OptionError."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise OptionError(f"--{option} {text}: expected a share such as 0.5% or 0.005")
    return value


def add_arguments(parser: argparse.ArgumentParser, completed: Any) -> None:
    """The arguments of the command.  completed(argument, kind): for shell completion."""
    completed(parser.add_argument("model", metavar="MODEL", help="a float .onnx file"), "FILE")
    completed(parser.add_argument(
        "--data", metavar="PATH", help="samples: a folder of .npz files, or one; arrays by input name, `labels` if there are"
    ), "FILE")
    completed(parser.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="folder for the QDQ file and the artifact"
    ), "DIRECTORY")
    parser.add_argument("--target", default="cpu", help="machine of the artifact (default cpu: this one)")
    parser.add_argument("--report", metavar="FILE.html", help="write the blame report as a page")
    parser.add_argument("--quiet", action="store_true", help="no table")
    contract = parser.add_argument_group("contract")
    contract.add_argument("--max-drop", metavar="0.5%", help="what the metric may lose on held-out samples (by metric)")
    contract.add_argument(
        "--metric", metavar="NAME",
        help="accuracy, r2 (with labels), top1, neighbour, cosine (agreement with the original); default: what fits",
    )
    contract.add_argument("--keep", action="append", default=[], metavar="LAYER", help="leave this layer in floats")
    parser.add_argument("--dynamic", action="store_true", help="ranges of activations are found by each run; samples optional")
    narrow = parser.add_argument_group("narrow weights, float activations")
    narrow.add_argument("--weights-only", metavar="TYPE", help="int2, int3, int4 or int8; samples are optional, worth giving")
    narrow.add_argument("--group", type=int, default=32, metavar="N", help="weights that share a scale: 32, 64 or 128 (32)")
    narrow.add_argument("--exact", action="store_true", help="products in floats, not in bytes")
    method = parser.add_argument_group("method")
    method.add_argument("--rounding", default="auto", metavar="HOW", help="nearest, gptq, or auto: where weights matter")
    for name, what in (
        ("equalize", "move no outlier channels into weights"), ("bias-correction", "do not correct biases"),
        ("search", "put no layers back where the contract does not hold"), ("blame", "do not measure what each layer costs"),
        ("timing", "keep integers where they are slower"),
    ):
        method.add_argument(f"--no-{name}", action="store_true", help=what)
