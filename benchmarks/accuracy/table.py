"""The table of the accuracy benchmarks, from the outputs that ours.py and peers.py wrote.

    python benchmarks/accuracy/table.py DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

MODELS = {"a": "a", "b": "bc", "c": "bc", "d_wine": "d_wine", "d_cancer": "d_cancer", "minilm": "minilm"}
TIE = 1e-5  # of cosines


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)


def similarities(y: np.ndarray) -> np.ndarray:
    s = y.astype(np.float64) @ y.T.astype(np.float64)
    np.fill_diagonal(s, -np.inf)
    return s


def neighbours(y: np.ndarray) -> np.ndarray:
    """Some paragraphs occur twice: of those equally near the first counts, not the one that rounding prefers."""
    s = similarities(y)
    return (s >= s.max(1, keepdims=True) - TIE).argmax(1)


def agreement(y: np.ndarray, expected: np.ndarray) -> float:
    """Share of rows whose nearest other row is, in the original, as near as the nearest."""
    s = similarities(expected)
    found = s[np.arange(len(s)), similarities(y).argmax(1)]
    return float((found >= s.max(1) - TIE).mean())


def scores(name: str, y: np.ndarray, expected: np.ndarray, data: dict[str, np.ndarray]) -> dict[str, float]:
    labels = data["test_y"]
    found = {"cos mean": float(cosines(expected, y).mean()), "cos min": float(cosines(expected, y).min())}
    noise = np.square((y - expected).astype(np.float64)).sum() / np.square(expected.astype(np.float64)).sum()
    found["SNR dB"] = float(-10 * np.log10(max(noise, 1e-20)))
    if name in ("b", "minilm"):
        found["agreement %"] = 100 * agreement(y, expected)
        same = similarities(y).argmax(1) == similarities(expected).argmax(1)
        found["same row %"] = 100 * float(same.mean())  # ties decided by rounding: two engines in f32 differ, too
        found["1-NN topic %"] = 100 * float((labels[neighbours(y)] == labels).mean())
    elif name == "c":
        target = data["test_x"][:, 1:]
        z = y.astype(np.float64) - y.max(-1, keepdims=True)
        logs = z - np.log(np.exp(z).sum(-1, keepdims=True))
        found["bits per byte"] = float(-np.take_along_axis(logs[:, :-1], target[:, :-1, None], 2).mean() / np.log(2))
        found["agreement %"] = 100 * float((y.argmax(-1) == expected.argmax(-1)).mean())
    else:
        found["accuracy %"] = 100 * float((y.argmax(-1) == labels).mean())
        found["agreement %"] = 100 * float((y.argmax(-1) == expected.argmax(-1)).mean())
    return found


def main(place: Path) -> None:
    for name, source in MODELS.items():
        if not (place / f"ours.f32.{name}.npz").is_file():
            print(f"\n{name}: not measured")
            continue
        data = dict(np.load(place / f"{source}.npz"))
        expected = np.load(place / f"ours.f32.{name}.npz")["y"]
        print(f"\n{name} ({len(data['test_y'])} test rows)\n")
        head: list[str] = []
        for path in sorted(place.glob(f"*.{name}.npz")):
            found = scores(name, np.load(path)["y"], expected, data)
            if not head:
                head = list(found)
                print("| variant | " + " | ".join(head) + " |\n|---" * 1 + "|---" * len(head) + "|")
            print(f"| {path.name.removesuffix(f'.{name}.npz')} | " + " | ".join(f"{found[k]:.5g}" for k in head) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
