"""Damaged files against the importer and the compiler: each is refused by an error made for users, or compiles.

    python tests/fuzz/damaged.py --count 100000 --seed 0 --out DIR      (PYTHONPATH must hold tests/)

Every case is a function of (seed, number).  A failing file is written to DIR with what happened.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import io
import json
import random
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

from tilewright.codegen.llvm import emit_main, emit_module
from tilewright.codegen.lower import lower
from tilewright.compiler.options import make_options
from tilewright.compiler.pipeline import run_passes
from tilewright.compiler.progress import Stages
from tilewright.compiler.targets import find_target
from tilewright.frontend.onnx.importer import import_graph
from tilewright.frontend.onnx.reader import read_model
from tilewright.ir.errors import InternalError, TilewrightError

from fuzz.mutations import mutate
from fuzz.pool import Limits, Outcome, run_cases
from fuzz.seeds import seed_models

WHOLE = 60  # every so many cases, the command line with machine code and linking
LIMITS = Limits(seconds=60, memory=3 << 30)


@functools.cache
def seeds(folder: Path | None = None) -> tuple[bytes, ...]:
    """The files that are changed: those of `seed_models`, or of a folder (recorded.py)."""
    return tuple(seed_models()) if folder is None else tuple(p.read_bytes() for p in sorted(folder.glob("*.onnx")))


def damaged(seed: int, case: int, folder: Path | None = None) -> bytes:
    return mutate(seeds(folder), random.Random(f"{seed}/{case}"))


def examine(data: bytes) -> str:
    """"imported", "compiled", or "refused ...".  Every other error is raised."""
    stage = "import"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = read_model(data)
            graph = import_graph(source)
            stage = "passes"
            options, target = make_options("cpu"), find_target("cpu")
            machine = target.machine("cpu")
            fused = run_passes(graph, options, Stages(lambda *_: None), lambda *_: None, target.passes_for(options),
                               target.native(machine))
            stage = "lower"
            program = lower(fused, machine, source.name)
            emit_main(program, machine)
            emit_module(list(program.kernels.values()), machine)
    except InternalError:
        raise
    except TilewrightError as error:
        assert str(error), "an error without a message"
        return f"refused by {type(error).__name__} in {stage}"
    return "compiled"


def whole(data: bytes) -> str:
    """The same through the command line, machine code and linking included."""
    from tilewright.compiler.cli import OK, USER_ERROR, main

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            code = main(["compile", str(path), "-o", f"{folder}/out", "--quiet", "--no-cache", "--jobs", "1"])
        if code not in (OK, USER_ERROR) or (code == USER_ERROR and "tilewright compile: " not in said.getvalue()):
            raise AssertionError(f"exit code {code}: {said.getvalue()[:3000]}")
        if code == USER_ERROR and "not enough memory" in said.getvalue():
            raise MemoryError(said.getvalue())
        return f"command line: exit code {code}"


def run(seed: int, case: int, folder: Path | None = None) -> str:
    data = damaged(seed, case, folder)
    return whole(data) if case % WHOLE == WHOLE - 1 else examine(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--models", type=Path, help="a folder of files to change, instead of the usual ones")
    parser.add_argument("--out", type=Path, default=Path("fuzz-out"))
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    seeds(a.models)
    find_target("cpu").machine("cpu")
    counts: collections.Counter[str] = collections.Counter()
    start, slowest, bad = time.monotonic(), 0.0, 0
    cases = range(a.first, a.first + a.count)
    limits = replace(LIMITS)
    for outcome in run_cases(functools.partial(run, a.seed, folder=a.models), cases, workers=a.workers, limits=limits):
        slowest = max(slowest, outcome.seconds)
        counts[outcome.value if outcome.kind == "done" else outcome.kind] += 1
        if outcome.kind != "done":
            bad += 1
            keep(a.out, a.seed, outcome, a.models)
        if time.monotonic() - start > a.seconds:
            break
    done = sum(counts.values())
    print(json.dumps({"seed": a.seed, "first": a.first, "done": done, "bad": bad, "slowest_s": round(slowest, 1),
                      "seconds": round(time.monotonic() - start), **dict(sorted(counts.items()))}))
    return 1 if bad else 0


def keep(folder: Path, seed: int, outcome: Outcome, models: Path | None) -> None:
    name = f"damaged-{seed}-{outcome.case}"
    (folder / f"{name}.onnx").write_bytes(damaged(seed, outcome.case, models))
    (folder / f"{name}.txt").write_text(f"{outcome.kind} after {outcome.seconds:.1f} s\n{outcome.value}\n")


if __name__ == "__main__":
    sys.exit(main())
