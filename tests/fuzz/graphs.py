"""Random models through the interpreter, every target and other implementations.

    python tests/fuzz/graphs.py --count 10000 --seed 0 --targets cpu,xla --out DIR      (PYTHONPATH must hold tests/)

Model number N is a function of N.  A model that fails is made small, and written to DIR with its inputs, with what its values
should be, and with what happened.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from fuzz import unsafe
from fuzz.draw import BF16, F16, FLOATS, Tensor
from fuzz.models import RandomModel, random_model
from fuzz.pool import Limits, run_cases
from fuzz.runners import PEERS, RUNNERS, Declined, too_coarse
from fuzz.shrink import shrink

LIMITS = Limits(seconds=120, memory=48 << 30)  # XLA and TVM reserve address space
_TOLERANCE = {F16: 1e-2, BF16: 6e-2}
_FLOAT_TOLERANCE = 1e-4
_FPGA_TOLERANCE = 0.05  # of the largest value: 16 bits for all values of a tensor, at every step


def difference(got: np.ndarray, tensor: Tensor, target: str) -> str:
    """What is wrong with an output, or ""."""
    want, twin = tensor.value, tensor.twin
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{tensor.name}: got {got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}"
    if want.dtype not in FLOATS:
        wrong = got != want
    else:
        a, b = got.astype(np.float64), want.astype(np.float64)
        largest = np.abs(b).max() if b.size else 0.0
        share = _TOLERANCE.get(want.dtype, _FLOAT_TOLERANCE)
        allowed = share * (1 + np.abs(b)) + 0.02 * share * largest + 30 * np.abs(twin.astype(np.float64) - b)
        if target == "fpga":
            allowed = allowed + _FPGA_TOLERANCE * largest
        wrong = ~(np.abs(a - b) <= allowed)
    if not wrong.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{tensor.name}{list(at)}: got {got[at]}, expected {want[at]} (twin {twin[at]}); {int(wrong.sum())} of {want.size}"


def verdict(model: onnx.ModelProto, tensors: dict[str, Tensor], target: str) -> str:
    """"ok", "declined: ...", or what is wrong."""
    arrays = {v.name: tensors[v.name].value for v in model.graph.input}
    if target in PEERS and unsafe.reason(model, target):
        return f"declined: {unsafe.reason(model, target)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = RUNNERS[target](model, arrays)
    except Declined as error:
        return f"declined: {str(error).splitlines()[0][:200]}"
    except Exception:
        return f"failed: {traceback.format_exc()}"
    for got, v in zip(outputs, model.graph.output, strict=True):
        found = difference(got, tensors[v.name], target)
        coarse = too_coarse(model, arrays) if found and target == "fpga" and got.dtype in FLOATS else ""
        if coarse:
            return f"declined: {coarse}"  # 16 bits for a wide range, and users are told
        if found:
            return f"wrong: {found}"
    return "ok"


def check(targets: Sequence[str], case: int) -> dict[str, str]:
    made = random_model(case)
    return {t: verdict(made.model, dict(made.tensors), t) for t in targets}


def isolated(model: onnx.ModelProto, tensors: dict[str, Tensor], target: str) -> str:
    """The verdict from a process of its own, which the model may end."""
    (outcome,) = run_cases(lambda _: verdict(model, tensors, target), [0], limits=LIMITS)
    return outcome.value if outcome.kind == "done" else f"{outcome.kind}: {outcome.value}"


def report(folder: Path, made: RandomModel, target: str, first: str) -> None:
    """Makes the model small and writes it."""
    kind = first.partition(":")[0]

    def fails(model: onnx.ModelProto) -> bool:
        return isolated(model, dict(made.tensors), target).partition(":")[0] == kind

    small = shrink(made.model, made.tensors, fails)
    name = folder / f"graph-{made.seed}-{target}"
    last = isolated(small, dict(made.tensors), target)
    name.with_suffix(".onnx").write_bytes(small.SerializeToString())
    arrays = {v.name: made.tensors[v.name].value for v in (*small.graph.input, *small.graph.output)}
    np.savez(name.with_suffix(".npz"), **arrays)
    name.with_suffix(".txt").write_text(f"{last}\n\nbefore it was made small: {first}\n\n{onnx.printer.to_text(small)}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="number of the first model")
    parser.add_argument("--targets", default="interpreter,cpu", help=f"of {','.join(RUNNERS)}")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("fuzz-out"))
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # of LLVM, which took most of the time
    targets = a.targets.split(",")
    counts = {t: collections.Counter[str]() for t in targets}
    start, failed = time.monotonic(), []
    task = functools.partial(check, targets)
    for outcome in run_cases(task, range(a.seed, a.seed + a.count), workers=a.workers, limits=LIMITS):
        if outcome.kind == "done":
            verdicts = outcome.value
        else:  # the process ended: find out for which target
            made = random_model(outcome.case)
            verdicts = {t: isolated(made.model, dict(made.tensors), t) for t in targets}
        for target, said in verdicts.items():
            kind = said.partition(":")[0]
            counts[target][kind] += 1
            if kind not in ("ok", "declined"):
                failed.append((outcome.case, target, said))
                (a.out / f"graph-{outcome.case}-{target}.txt").write_text(said)
        if time.monotonic() - start > a.seconds:
            break
    done = sum(counts[targets[0]].values())
    seconds = round(time.monotonic() - start)
    print(json.dumps({"first": a.seed, "models": done, "seconds": seconds, "failed": len(failed), **counts}), flush=True)
    for case, target, said in failed[:40]:
        report(a.out, random_model(case), target, said)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
