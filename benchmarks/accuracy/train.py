"""Train the models of the accuracy benchmarks on this machine, minutes of one core, and export them.

    python benchmarks/accuracy/train.py DIR         # needs torch, onnxscript; DIR as data.py wrote it

a.onnx  depthwise-separable convolutions with batch normalization and ReLU6 on digits
b.onnx  the mean of the text model's last hidden values, of length one: an embedding of a paragraph
c.onnx  a transformer over bytes (4 layers of 128, heads of 32): scores of the next byte
d_*.onnx  three fully connected layers
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as f

WINDOW, WIDTH, LAYERS, HEADS = 96, 128, 4, 4


def block(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False), nn.BatchNorm2d(inside), nn.ReLU6(),
        nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU6(),
    )


class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(), block(32, 64), block(64, 96, 2),
            block(96, 128),
        )
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean(dim=(2, 3)))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        y = self.n1(x)
        q, k, v = (p(y).view(n, t, HEADS, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        s = q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5 + mask
        x = x + self.o((s.softmax(-1) @ v).transpose(1, 2).reshape(n, t, WIDTH))
        return x + self.down(f.gelu(self.up(self.n2(x))))


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.place = nn.Embedding(128, WIDTH), nn.Embedding(WINDOW, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 128)
        self.register_buffer("mask", torch.full((WINDOW, WINDOW), -1e4).triu(1))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bytes(x) + self.place.weight[: x.shape[1]]
        for layer in self.layers:
            y = layer(y, self.mask)
        return self.norm(y)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(x))


class Embedding(nn.Module):
    def __init__(self, text: Text) -> None:
        super().__init__()
        self.text = text

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return f.normalize(self.text.hidden(x).mean(dim=1), dim=1)


def fit(model: nn.Module, batch, seconds: float, steps: int, rate: float) -> None:
    """batch(step) -> the loss's arguments (scores, labels)."""
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    start = time.time()
    for step in range(steps):
        scores, labels = batch(step)
        loss = f.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(step, round(float(loss), 3), f"{time.time() - start:.0f} s", flush=True)
        if time.time() - start > seconds:
            print(f"stopped after {step + 1} of {steps} steps")
            break
    model.eval()


def export(model: nn.Module, x: torch.Tensor, path: Path) -> None:
    torch.onnx.export(model, (x,), path, input_names=["x"], output_names=["y"], opset_version=18, external_data=False)


def main(place: Path) -> None:
    torch.manual_seed(0)
    r = np.random.default_rng(0)
    a = np.load(place / "a.npz")
    images, labels = torch.from_numpy(a["train_x"]), torch.from_numpy(a["train_y"])

    def shifted(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        at = torch.from_numpy(r.integers(0, len(images), 64))
        by = tuple(int(v) for v in r.integers(-1, 2, 2))
        moved = torch.roll(f.pad(images[at], (1, 1, 1, 1)), by, (2, 3))
        return digits(moved[..., 1:-1, 1:-1]), labels[at]

    digits = Digits()
    fit(digits, shifted, 60, 600, 4e-3)
    export(digits, images[:1], place / "a.onnx")
    for name in ("wine", "cancer"):
        d = np.load(place / f"d_{name}.npz")
        x, y = torch.from_numpy(d["train_x"]), torch.from_numpy(d["train_y"])
        net = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, int(y.max()) + 1))
        fit(net, lambda _, net=net, x=x, y=y: (net(x), y), 20, 300, 5e-3)
        export(net, x[:1], place / f"d_{name}.onnx")
    t = torch.from_numpy(np.load(place / "bc.npz")["train_x"])

    def windows(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = t[torch.from_numpy(r.integers(0, len(t), 32))]
        return text(rows[:, :-1].contiguous()).transpose(1, 2), rows[:, 1:]

    text = Text()
    text.mask = text.mask[: WINDOW - 1, : WINDOW - 1]
    fit(text, windows, float(sys.argv[2]) if len(sys.argv) > 2 else 240, 1500, 2e-3)
    export(text, t[:1, :-1].contiguous(), place / "c.onnx")
    export(Embedding(text), t[:1, :-1].contiguous(), place / "b.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
