"""Regions of interest whose samples the data count, by loops in NumPy; as graphs and as one compiled library."""

from __future__ import annotations

import math

import numpy as np
import pytest
from frontend.onnx_models import I64, draw, model, node, run, value
from tilewright import compile

X = draw(2, 3, 13, 17)
CORNERS = np.sort(np.random.default_rng(3).uniform(-4, 40, (9, 2, 2)), axis=1).astype(np.float32)
ROIS = CORNERS.reshape(9, 4)
ROIS[4, 2:] = ROIS[4, :2]  # of no size
BATCH = np.arange(9) % 2
BINS = (4, 3)


def elements(image: np.ndarray, y: float, x: float) -> list[np.ndarray]:
    """The four weighted elements around a point."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return [np.zeros(len(image), np.float32)] * 4
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    low, left = int(y), int(x)
    high, right = min(low + 1, height - 1), min(left + 1, width - 1)
    fy, fx = y - low, x - left
    return [image[:, r, c] * w for r, c, w in ((low, left, (1 - fy) * (1 - fx)), (low, right, (1 - fy) * fx),
                                               (high, left, fy * (1 - fx)), (high, right, fy * fx))]  # fmt: skip


def aligned(mode: str, half: bool) -> np.ndarray:
    y = np.zeros((9, 3, *BINS), np.float32)
    for r, (roi, n) in enumerate(zip(ROIS, BATCH, strict=True)):
        x0, y0, x1, y1 = roi * 0.5 - (0.5 if half else 0)
        sizes = [v if half else max(v, 1) for v in (y1 - y0, x1 - x0)]
        counts = [math.ceil(s / bins) for s, bins in zip(sizes, BINS, strict=True)]
        for p, q in np.ndindex(*BINS):
            steps = [s / bins for s, bins in zip(sizes, BINS, strict=True)]
            found = [
                elements(X[n], y0 + (p + (i + 0.5) / counts[0]) * steps[0], x0 + (q + (j + 0.5) / counts[1]) * steps[1])
                for i in range(counts[0]) for j in range(counts[1])
            ]
            if found:
                together = np.array(found)
                y[r, :, p, q] = together.sum(1).mean(0) if mode == "avg" else together.max((0, 1))
    return y


def window(k: int, first: int, step: float, n: int) -> slice:
    low, high = math.floor(k * step) + first, math.ceil((k + 1) * step) + first
    return slice(min(max(low, 0), n), min(max(high, 0), n))


def pooled() -> np.ndarray:
    y = np.zeros((9, 3, *BINS), np.float32)
    for r, (roi, n) in enumerate(zip(ROIS, BATCH, strict=True)):
        x0, y0, x1, y1 = (math.floor(v * 0.5 + 0.5) for v in roi)
        for p, q in np.ndindex(*BINS):
            part = X[n, :, window(p, y0, max(y1 - y0 + 1, 1) / BINS[0], 13), window(q, x0, max(x1 - x0 + 1, 1) / BINS[1], 17)]
            y[r, :, p, q] = part.max((1, 2)) if part.size else 0
    return y


NODES = {
    f"{mode}_{coordinates}": node(
        "RoiAlign", ["x", "rois", "batch"], [f"{mode}_{coordinates}"], mode=mode, coordinate_transformation_mode=coordinates,
        output_height=BINS[0], output_width=BINS[1], sampling_ratio=0, spatial_scale=0.5,
    )
    for mode in ("avg", "max") for coordinates in ("half_pixel", "output_half_pixel")
}  # fmt: skip
NODES["pool"] = node("MaxRoiPool", ["x", "rois5"], ["pool"], pooled_shape=BINS, spatial_scale=0.5)
EXPECTED = {name: pooled() if name == "pool" else aligned(name[:3], name[4:] == "half_pixel") for name in NODES}
ROIS5 = np.concatenate([BATCH[:, None].astype(np.float32), ROIS], 1)
MODEL = model(
    list(NODES.values()), [value("x", *X.shape), value("rois", 9, 4), value("batch", 9, dtype=I64), value("rois5", 9, 5)],
    list(NODES), opset=16,
)  # fmt: skip


@pytest.mark.parametrize("way", ["interpreter", "cpu"])
def test_regions_of_interest(way: str) -> None:
    arrays = (X, ROIS, BATCH, ROIS5)
    made = run(MODEL, *arrays) if way == "interpreter" else compile(MODEL, cache=False).load()(*arrays)
    for name, got in zip(NODES, made, strict=True):
        np.testing.assert_allclose(got, EXPECTED[name], rtol=1e-5, atol=1e-5, err_msg=name)
