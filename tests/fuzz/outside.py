"""Models of another generator through the targets: folders with model.onnx and oracle.pkl, as NNSmith writes them.

    python tests/fuzz/outside.py FOLDER --targets interpreter,cpu,library      (PYTHONPATH must hold tests/)

NNSmith (pip install nnsmith onnx torch onnxscript, in an environment of its own) makes a folder by

    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    runpy.run_module("nnsmith.cli.model_gen", run_name="__main__")
    model.type=onnx mgen.max_nodes=10 mgen.seed=SEED mgen.save=FOLDER debug.viz=false

What PyTorch computed is compared where another implementation, ONNX Runtime, agrees with it; NNSmith's models may have
values that rounding decides.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from fuzz.graphs import LIMITS
from fuzz.pool import run_cases
from fuzz.runners import RUNNERS, Arrays, Declined

TOLERANCE = 1e-3


def disagreement(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> str:
    for n, (a, b) in enumerate(zip(got, want, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"output {n}: got {a.dtype}{list(a.shape)}, expected {b.dtype}{list(b.shape)}"
        if not np.allclose(a.astype(np.float64), b.astype(np.float64), TOLERANCE, TOLERANCE, equal_nan=True):
            return f"output {n}: {a.reshape(-1)[:5]}, expected {b.reshape(-1)[:5]}"
    return ""


def check(folders: Sequence[Path], targets: Sequence[str], case: int) -> dict[str, str]:
    folder = folders[case]
    model = onnx.load(folder / "model.onnx")
    oracle = pickle.loads((folder / "oracle.pkl").read_bytes())
    arrays: Arrays = {v.name: np.asarray(oracle["input"][v.name]) for v in model.graph.input}
    want = [np.asarray(oracle["output"][v.name]) for v in model.graph.output]
    try:
        trusted = not disagreement(RUNNERS["onnxruntime"](model, arrays), want)
    except Declined:
        trusted = True
    said: dict[str, str] = {}
    for target in targets:
        try:
            found = disagreement(RUNNERS[target](model, arrays), want)
            said[target] = "ok" if not found else f"wrong: {found}" if trusted else f"disputed: {found}"
        except Declined as error:
            said[target] = f"declined: {error}"
        except Exception as error:
            said[target] = f"failed: {type(error).__name__}: {error}"
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds a folder for each model")
    parser.add_argument("--targets", default="interpreter,library")
    a = parser.parse_args()
    folders = sorted(p.parent for p in a.folder.glob("*/oracle.pkl"))
    targets = a.targets.split(",")
    counts = {t: collections.Counter[str]() for t in targets}
    bad = 0
    for outcome in run_cases(functools.partial(check, folders, targets), range(len(folders)), limits=LIMITS):
        verdicts = outcome.value if outcome.kind == "done" else dict.fromkeys(targets, f"{outcome.kind}: {outcome.value}")
        for target, said in verdicts.items():
            kind = said.partition(":")[0]
            counts[target][kind] += 1
            if kind not in ("ok", "declined"):
                print(f"{folders[outcome.case].name} {target}: {said[:300]}")
                bad += kind != "disputed"
    print(json.dumps({"models": len(folders), **counts}))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
