"""The data of the accuracy benchmarks, as one .npz per benchmark: train, calibrate and test are disjoint, seeds are fixed.

    python benchmarks/accuracy/data.py DIR          # needs scikit-learn; nothing is downloaded

A digits: scikit-learn's 1797 digits, odd ones train, even ones: first half calibrates, second half tests.
C text: the help topics that come with Python (pydoc_data/topics.py), as bytes: 80 % train, 10 % calibrate, 10 % test.
B paragraphs: of the calibration and the test part of C, 96 bytes each, with the topic they come from.
D tables: wine and breast cancer, standardized by the training part.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

WINDOW = 96


def main(place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    x, y = digits()
    even = np.arange(len(x)) % 2 == 0
    rest_x, rest_y = x[even], y[even]
    half = len(rest_x) // 2
    save(place / "a.npz", train_x=x[~even], train_y=y[~even], calibrate_x=rest_x[:half], calibrate_y=rest_y[:half],
         test_x=rest_x[half:], test_y=rest_y[half:])
    save(place / "bc.npz", **text())
    for name, load in (("wine", load_wine), ("cancer", load_breast_cancer)):
        save(place / f"d_{name}.npz", **table(load))
    print({p.name: hashlib.sha256(p.read_bytes()).hexdigest()[:12] for p in sorted(place.glob("*.npz"))})


def save(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **arrays)


def digits() -> tuple[np.ndarray, np.ndarray]:
    d = load_digits()
    return (d.images[:, None] / 16).astype(np.float32), d.target.astype(np.int64)


def text() -> dict[str, np.ndarray]:
    """Windows of bytes; the parts are cut by topic, so that no paragraph is in two of them."""
    parts: dict[str, list[np.ndarray]] = {"train": [], "calibrate": [], "test": []}
    labels: dict[str, list[int]] = {k: [] for k in parts}
    for n, name in enumerate(sorted(topics)):
        data = np.frombuffer(topics[name].encode("ascii", "replace"), np.uint8)
        part = "calibrate" if n % 10 == 8 else "test" if n % 10 == 9 else "train"
        count = len(data) // WINDOW
        parts[part].append(data[: count * WINDOW].reshape(count, WINDOW))
        labels[part] += [n] * count
    limits = {"train": None, "calibrate": 512, "test": 512}
    found: dict[str, np.ndarray] = {}
    for k, v in parts.items():
        order = np.random.default_rng(0).permutation(len(labels[k]))[: limits[k]]
        found[f"{k}_x"] = np.concatenate(v).astype(np.int64)[order]
        found[f"{k}_y"] = np.array(labels[k], np.int64)[order]
    return found


def table(load) -> dict[str, np.ndarray]:
    d = load()
    order = np.random.default_rng(0).permutation(len(d.data))
    x, y = d.data[order].astype(np.float32), d.target[order].astype(np.int64)
    a, b = int(0.5 * len(x)), int(0.7 * len(x))
    mean, spread = x[:a].mean(0), x[:a].std(0) + 1e-6
    x = (x - mean) / spread
    return {"train_x": x[:a], "train_y": y[:a], "calibrate_x": x[a:b], "calibrate_y": y[a:b], "test_x": x[b:], "test_y": y[b:]}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
