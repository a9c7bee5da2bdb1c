"""Accuracy of digits after one-shot pruning: the same network as a.onnx, trained for 30 epochs, judged on what nothing saw.

    python benchmarks/accuracy/pruned.py DIR [SEEDS]     # torch, onnxscript, scikit-learn; DIR is made

Odd digits train (898); 449 of them, without labels, are the samples that pruning is given; all even ones (899) test.  Prints
the mean over the seeds, and writes DIR/pruned.SEED.onnx.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from data import digits
from ours import outputs
from tilewright.compiler.onnx_edit import OnnxEdit
from tilewright.compiler.prune.api import prune
from torch.nn import functional as f
from train import Digits, export

EPOCHS, BATCH, RATE = 30, 64, 4e-3
METHODS = {  # name -> arguments of prune
    "magnitude": {"importance": "magnitude", "allocation": "uniform", "reconstruct": False},
    "magnitude, fitted": {"importance": "magnitude", "allocation": "uniform"},
    "wanda": {"importance": "wanda", "allocation": "uniform"},
    "obd": {"importance": "obd", "allocation": "uniform"},
    "obs": {"importance": "obs", "allocation": "uniform"},
    "obs, allocated": {"importance": "obs", "allocation": "auto"},
}
PATTERNS = (("unstructured", 0.5), ("unstructured", 0.7), ("2:4", 0.5), ("8x1", 0.5), ("channels", 0.3), ("channels", 0.5))


def trained(seed: int, x: np.ndarray, y: np.ndarray) -> Digits:
    torch.manual_seed(seed)
    r = np.random.default_rng(seed)
    model = Digits()
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    steps = EPOCHS * -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for _ in range(EPOCHS):
        for at in np.array_split(r.permutation(len(x)), -(-len(x) // BATCH)):
            dx, dy = (int(v) for v in r.integers(-1, 2, 2))
            moved = torch.roll(f.pad(images[at], (1, 1, 1, 1)), (dx, dy), (2, 3))[..., 1:-1, 1:-1]
            optimizer.zero_grad()
            f.cross_entropy(model(moved), labels[at]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def main(place: Path, seeds: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    x, y = digits()
    odd = np.arange(len(x)) % 2 == 1
    samples, test, labels = list(x[odd][:449, None]), list(x[~odd][:, None]), y[~odd]
    found: dict[tuple[str, str], list[float]] = {}
    for seed in range(seeds):
        path = place / f"pruned.{seed}.onnx"
        export(trained(seed, x[odd], y[odd]), torch.from_numpy(x[:1]), path)
        original = OnnxEdit(path).finish()

        def accuracy(model: onnx.ModelProto) -> float:
            return 100 * float((outputs(model, test).argmax(-1) == labels).mean())

        found.setdefault(("original", ""), []).append(accuracy(original))
        for pattern, sparsity in PATTERNS:
            for name, arguments in METHODS.items():
                made = prune(original, samples, pattern=pattern, sparsity=sparsity, **arguments)  # type: ignore[arg-type]
                found.setdefault((f"{100 * sparsity:.0f} % {pattern}", name), []).append(accuracy(made.model))
        for (what, how), values in found.items():
            print(f"seed {seed}: {what}, {how}: {values[-1]:.2f}", flush=True)
    print("\n| | " + " | ".join(METHODS) + " |\n|---" + "|---" * len(METHODS) + "|")
    print(f"| original | {np.mean(found['original', '']):.2f} |")
    for pattern, sparsity in PATTERNS:
        what = f"{100 * sparsity:.0f} % {pattern}"
        print(f"| {what} | " + " | ".join(f"{np.mean(found[what, m]):.1f}" for m in METHODS) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
