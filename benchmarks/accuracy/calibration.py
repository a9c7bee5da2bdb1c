"""What calibration costs beside the runs themselves: benchmark B, 512 docstrings in batches of 16, one thread.

    python benchmarks/accuracy/calibration.py DIR      # after minilm.py

Times are of the runs, compilations left out (they are in the cache); peaks are of the whole process, each in one of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
from minilm_runs import BATCH, runs
from tilewright.compiler.quantize.activations import ActivationRunner
from tilewright.compiler.quantize.layers import find_layers
from tilewright.compiler.quantize.prepare import prepared
from tilewright.compiler.quantize.statistics import collect

TURNS = 3


def main(place: Path, what: str) -> None:
    edit = prepared(onnx.load(place / "minilm.onnx"), None)
    layers, _ = find_layers(edit)
    samples = runs(place, "calibrate", BATCH)
    plain = ActivationRunner(edit.finish(), threads=1)
    exposing = ActivationRunner(edit.finish(), list(dict.fromkeys(n.x for n in layers)), threads=1)

    def infer() -> None:
        for _ in plain.stream(samples):
            pass

    def calibrate() -> None:
        collect(layers, exposing.stream(samples))

    if what == "times":
        race({"inference": infer, "calibration": calibrate})
    elif what == "one run":
        plain.run(samples[0])
    elif what == "calibration":
        calibrate()
    print(f"{what}: peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB", flush=True)


def race(contestants: dict[str, Callable[[], None]]) -> None:
    best = dict.fromkeys(contestants, float("inf"))
    for run in contestants.values():
        run()  # compiles
    for _ in range(TURNS):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    base = best["inference"]
    print(", ".join(f"{name} {1e3 * t:.0f} ms ({t / base:.2f} x)" for name, t in best.items()))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(Path(sys.argv[1]), sys.argv[2])
    else:
        for case in ("times", "nothing", "one run", "calibration"):
            subprocess.run([sys.executable, __file__, sys.argv[1], case], check=True)
