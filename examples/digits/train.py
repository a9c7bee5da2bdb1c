"""Train the digit classifier that the demo compiles, and write digits.onnx and digits.npz beside this file.

    pip install torch onnx onnxscript scikit-learn
    python examples/digits/train.py

The data is scikit-learn's bundled set of 1797 handwritten digits of 8 x 8 pixels (E. Alpaydin and C. Kaynak, "Optical
Recognition of Handwritten Digits", UCI Machine Learning Repository, CC BY 4.0).  Every fifth one is kept for testing
and goes into digits.npz (`images` u8[n, 8, 8] in 0..16, `labels` i64[n]), so that the demo needs no training tools.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import nn

HERE = Path(__file__).parent
EPOCHS, BATCH = 60, 64


class DigitNet(nn.Module):
    """A small residual network: f32[batch, 1, 8, 8] in 0..1 -> the scores f32[batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16),
        )
        self.down = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        )
        self.head = nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        x = torch.relu(x + self.block(x))
        x = self.down(x)
        return self.head(x.mean(dim=(2, 3)))


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(training images, training labels, test images, test labels); images are u8[n, 8, 8] in 0..16."""
    data = load_digits()
    images, labels = data.images.astype(np.uint8), data.target.astype(np.int64)
    test = np.arange(len(images)) % 5 == 0
    return images[~test], labels[~test], images[test], labels[test]


def tensors(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images[:, None].astype(np.float32) / 16)


def shifted(images: torch.Tensor) -> torch.Tensor:
    """The same images moved by up to one pixel, so that the small set teaches more."""
    moved = [torch.roll(images, (int(dy), int(dx)), (2, 3)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    pick = torch.randint(len(moved), (len(images),))
    return torch.stack(moved)[pick, torch.arange(len(images))]


def train(images: np.ndarray, labels: np.ndarray) -> DigitNet:
    torch.manual_seed(0)
    net, x, y = DigitNet(), tensors(images), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x))
        total = 0.0
        for rows in order.split(BATCH):
            loss = nn.functional.cross_entropy(net(shifted(x[rows])), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        schedule.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3d}  loss {total / len(x):.4f}")
    return net.eval()


def export(net: DigitNet, path: Path) -> None:
    """Write the model without the notes on its origin that the exporter adds: they name folders of this machine."""
    program = torch.onnx.export(
        net, (torch.zeros(1, 1, 8, 8),), input_names=["image"], output_names=["scores"], dynamo=True, verbose=False
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program; expected torch 2.6 or newer")
    model = program.model_proto
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer,
                 *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save_model(model, str(path))


def main() -> None:
    train_images, train_labels, test_images, test_labels = split()
    net = train(train_images, train_labels)
    with torch.inference_mode():
        right = net(tensors(test_images)).argmax(1).numpy() == test_labels
    print(f"test accuracy {right.mean():.2%} of {len(right)} images")
    export(net, HERE / "digits.onnx")
    np.savez_compressed(HERE / "digits.npz", images=test_images, labels=test_labels)


if __name__ == "__main__":
    main()
