"""The public function `compile`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Union

from ..ir.errors import OptionError
from ..targets.artifact import Artifact
from .cache import open_cache
from .driver import Compilation, compile_model
from .options import Dims, Shapes, make_options, nearest
from .pipeline import STAGE_NAMES
from .progress import Progress, silent

if TYPE_CHECKING:
    from onnx import ModelProto

Model = Union[str, "os.PathLike[str]", bytes, "ModelProto"]


def compile(
    model: Model,
    target: str = "cpu",
    *,
    shapes: Shapes | None = None,
    dims: Dims | None = None,
    specialize: Mapping[str, int | Sequence[int]] | None = None,
    name: str | None = None,
    accuracy: str = "default",
    precision: str = "f32",
    transform_weights: str = "compile",
    profile: bool = False,
    debug_bounds: bool = False,
    tune: float | None = None,
    tuning_file: str | os.PathLike[str] | None = None,
    emit: str | Sequence[str] = (),
    cc: str | None = None,
    embed_limit: int | None = None,
    shard: str = "",
    fpga: Mapping[str, Any] | None = None,
    cache: bool = True,
    report: str | os.PathLike[str] | None = None,
    verify: bool = True,
    print_after: str | Sequence[str] = (),
    check_passes: bool = False,
    jobs: int | None = None,
    base_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **unknown: NoReturn,
) -> Artifact:
    """Compile an ONNX model to an artifact that needs neither Python nor this package at run time.

        artifact = tilewright.compile("model.onnx", dims={"batch": 4})
        artifact.save("out")                   # shared library, C header, manifest
        (y,) = artifact.load()(x)              # or tilewright.load("out")(x)

    model: the path of a file, its bytes, or an onnx.ModelProto.
    target: "cpu" (this machine), or "cpu:NAME+FEATURE+..." as `tilewright targets` lists them.
    shapes: dimensions of inputs, {"input": (1, 3, 224, 224)}; a string gives a dimension a name.
    dims: sizes of symbolic dimensions, {"batch": 4}, or ranges, {"batch": "1..64"}; what is not bound stays open with the
    CPU target: any size.  Several sizes, {"batch": (1, 8)}: the module chooses among code for each (not for cuda, fpga).
    specialize: for the CPU, sizes with code of their own beside that for any size, {"batch": (1, 8), "seq": 128}.
    name: prefix of the C symbols, a C identifier; default: from the file's name.
    accuracy: "default", or "strict" (no transformed convolutions and products, no reassociation beyond a register tile).
    precision: "f32"; "bf16" or "f16" store intermediate values and weights of products in 16 bits and sum in f32.
    "tf32", for CUDA targets: stored in f32, rounded to 10 bits of fraction where tensor cores multiply.
    tune: seconds to spend on running variants of the kernels on this machine and keeping the fastest; what is found is
    kept in a file and used again.  tuning_file: that file; without `tune` it is only read.  Default: one in the cache.
    profile: record the time of every step while the artifact runs: `Module.profile()`, `tilewright run --profile`.
    debug_bounds: check every index while the artifact runs (slow); a run that would leave a buffer fails and names it.
    transform_weights: "compile" or "create": when transformed weights, 1.75 to 4 times as large, are made.
    emit: what the artifact holds beside the library: "object", "llvm-ir", "asm".  cc: the C compiler to link with.
    embed_limit: bytes of weights above which they go to a file beside the library, default 1 GiB.
    shard: for a TPU of several chips, "data=4" (split the batch) or "model=4" (split the large weights).
    fpga: for an FPGA board: bits (of values and weights, or "auto"), max_error, calibration (an .npz), input_range, fps,
    max_dsp, max_lut, max_bram, interface, reloadable; see docs/fpga.md.
    cache: find and keep the artifact in the user's cache, by content.
    report: path of an HTML page to write about it.  verify: check the graph after every pass.  print_after: print the graph
    after these passes ("all").  check_passes: run the interpreter around every pass, fail at one that changes the numbers.
    jobs: processes that make machine code, default one per core.
    base_dir: the folder of external data when `model` is not a path.
    progress: called with (stage, done, total) before every step; total 0 where a stage is one step.

    Raises ModelError (the model is invalid, or uses something unsupported: all of it is listed), OptionError (an
    argument is wrong), TargetError (a tool or a capability is missing), OSError (a file cannot be written) and
    InternalError (a bug).
    """
    for word in unknown:
        near = nearest(word, compile.__kwdefaults__ or {}) or "; help(tilewright.compile) lists them"
        raise OptionError(f"compile: no option is called {word!r}{near}")
    done = compile_with(
        model, target, shapes=shapes, dims=dims, specialize=specialize, name=name, accuracy=accuracy, precision=precision,
        transform_weights=transform_weights, profile=profile, debug_bounds=debug_bounds,
        tune=tune, tuning_file=tuning_file, emit=emit, cc=cc,
        embed_limit=embed_limit, shard=shard, fpga=fpga, cache=cache, report=report, verify=verify, print_after=print_after,
        check_passes=check_passes, jobs=jobs, base_dir=base_dir, progress=progress,
    )
    for note in done.notes:
        warnings.warn(note, stacklevel=2)
    return done.artifact


def compile_with(
    model: Model,
    target: str = "cpu",
    *,
    cache: bool = True,
    report: str | os.PathLike[str] | None = None,
    base_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Compilation:
    """What `compile` does, with everything that is known about the result.  settings: arguments of `make_options`."""
    if not isinstance(model, (str, os.PathLike, bytes)) and not hasattr(model, "SerializeToString"):
        raise OptionError(f"model: expected a path, bytes or an onnx.ModelProto, got {type(model).__name__}")
    options = make_options(target, known_stages=STAGE_NAMES, **settings)
    done = compile_model(
        model, options, base_dir=None if base_dir is None else Path(base_dir), cache=open_cache() if cache else None,
        reuse=not (report or options.print_after or options.check_passes), progress=progress or silent, show=_show,
    )
    if report is not None:
        from .report import write_report

        write_report(done, Path(report))
    return done


def _show(stage: str, text: str) -> None:
    print(f"---- after {stage} ----\n{text}\n", file=sys.stdout)
