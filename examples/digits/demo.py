"""Run the compiled digit classifier on real test images and show what it sees: `python demo.py ARTIFACT [--show N]`.

Only NumPy and the artifact are needed here: no ONNX, no compiler.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import tilewright

SHADES = " .:-=+*#%@"


def drawn(image: np.ndarray) -> list[str]:
    """Eight lines of text for u8[8, 8] in 0..16, two characters a pixel so that it looks square."""
    return ["".join(SHADES[int(v) * (len(SHADES) - 1) // 16] * 2 for v in row) for row in image]


def gallery(images: np.ndarray, labels: np.ndarray, scores: np.ndarray, columns: int = 4) -> str:
    """Images side by side, each over its prediction, its confidence and the true label."""
    chance = np.exp(scores - scores.max(1, keepdims=True))
    chance /= chance.sum(1, keepdims=True)
    lines: list[str] = []
    for start in range(0, len(images), columns):
        part = range(start, min(start + columns, len(images)))
        lines += ["   ".join(row) for row in zip(*(drawn(images[i]) for i in part), strict=True)]
        captions = [f"saw {scores[i].argmax()} ({chance[i].max():.0%}), is {labels[i]}" for i in part]
        lines += ["   ".join(f"{c:<16}" for c in captions), ""]
    return "\n".join(lines)


def classify(module: tilewright.Module, images: np.ndarray) -> tuple[np.ndarray, float]:
    """The scores f32[n, 10] and the seconds one image took (median)."""
    scores, seconds = [], []
    for image in images:
        pixels = (image.astype(np.float32) / 16).reshape(1, 1, 8, 8)
        start = time.perf_counter()
        (row,) = module(pixels)
        seconds.append(time.perf_counter() - start)
        scores.append(row[0])
    return np.stack(scores), float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", help="folder that `tilewright compile` wrote")
    parser.add_argument("--show", type=int, default=8, metavar="N", help="draw the first N images (default 8)")
    arguments = parser.parse_args()
    with np.load(Path(__file__).with_name("digits.npz")) as data:
        images, labels = data["images"], data["labels"]
    module = tilewright.load(arguments.artifact, threads=1)  # a model this small is fastest on one thread
    scores, seconds = classify(module, images)
    wrong = np.flatnonzero(scores.argmax(1) != labels)
    shown = np.concatenate([np.arange(arguments.show), wrong[: max(0, arguments.show // 2)]])
    print(gallery(images[shown], labels[shown], scores[shown]))
    right = len(images) - len(wrong)
    print(f"{right} of {len(images)} test digits right ({right / len(images):.1%}), {seconds * 1e6:.0f} us an image")


if __name__ == "__main__":
    main()
