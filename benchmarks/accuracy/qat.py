"""Training with rounding in the loop: the exported graph of torch's fake quantization, compiled, against torch's simulation.

    python benchmarks/accuracy/qat.py DIR       # torch, scikit-learn; after pruned.py's training code

Activations are u8 with one scale, weights i8 with a scale per output channel, three epochs of training with both.  Prints the
test accuracy (899 even digits) of torch's simulation and of the compiled artifact, and how many answers are equal.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from data import digits
from ours import outputs
from pruned import trained
from torch import nn
from torch.nn import functional as f

EPOCHS, BATCH, RATE = 3, 64, 5e-4


class Rounded(nn.Module):
    """A layer whose input and weights are rounded, with a range of the input that follows what it sees while training."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.low, self.high = 0.0, 0.0
        self.scales: torch.Tensor | None = None  # constants of the exported graph

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            low, high = min(0.0, float(x.min())), float(x.max())
            seen = self.high > 0
            self.low = 0.95 * self.low + 0.05 * low if seen else low
            self.high = 0.95 * self.high + 0.05 * high if seen else high
        scale = max((self.high - self.low) / 255, 1e-8)
        x = torch.fake_quantize_per_tensor_affine(x, scale, int(np.clip(round(-self.low / scale), 0, 255)), 0, 255)
        w = self.layer.weight
        scales = (w.detach().abs().flatten(1).amax(1) / 127).clamp(min=1e-8) if self.scales is None else self.scales
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        w = torch.fake_quantize_per_channel_affine(w, scales, zeros, 0, -128, 127)
        if isinstance(self.layer, nn.Linear):
            return f.linear(x, w, self.layer.bias)
        c = self.layer
        return f.conv2d(x, w, c.bias, c.stride, c.padding, c.dilation, c.groups)


def folded(model: nn.Module) -> nn.Module:
    """Batch normalization inside of the convolutions, layers rounded."""
    for name, child in list(model.named_children()):
        setattr(model, name, folded(child))
    if isinstance(model, nn.Sequential):
        made: list[nn.Module] = []
        for layer in model:
            if isinstance(layer, nn.BatchNorm2d) and made and isinstance(made[-1], Rounded):
                fused = torch.nn.utils.fusion.fuse_conv_bn_eval(made[-1].layer, layer)  # type: ignore[arg-type]
                made[-1] = Rounded(fused)
            else:
                made.append(layer)
        return nn.Sequential(*made)
    return Rounded(model) if isinstance(model, (nn.Conv2d, nn.Linear)) else model


def main(place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    x, y = digits()
    odd = np.arange(len(x)) % 2 == 1
    plain = trained(0, x[odd], y[odd])
    test, answers = torch.from_numpy(x[~odd]), y[~odd]
    with torch.no_grad():
        print(f"f32: {100 * float((plain(test).argmax(1).numpy() == answers).mean()):.2f} %")
    model = folded(plain).train()
    images, labels = torch.from_numpy(x[odd]), torch.from_numpy(y[odd])
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    r = np.random.default_rng(0)
    for _ in range(EPOCHS):
        for at in np.array_split(r.permutation(len(images)), -(-len(images) // BATCH)):
            optimizer.zero_grad()
            f.cross_entropy(model(images[at]), labels[at]).backward()
            optimizer.step()
    model.eval()
    for part in model.modules():
        if isinstance(part, Rounded):
            part.scales = (part.layer.weight.detach().abs().flatten(1).amax(1) / 127).clamp(min=1e-8)
    names = {"input_names": ["x"], "output_names": ["y"]}
    torch.onnx.export(model, (test[:1],), place / "qat.onnx", **names, opset_version=17, dynamo=False)
    with torch.no_grad():
        simulated = model(test).numpy().argmax(1)
    compiled = outputs(place / "qat.onnx", list(x[~odd][:, None])).argmax(1)
    for name, got in (("torch's simulation", simulated), ("compiled", compiled)):
        print(f"{name}: {100 * float((got == answers).mean()):.2f} %")
    print(f"equal answers: {int((simulated == compiled).sum())} of {len(answers)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
