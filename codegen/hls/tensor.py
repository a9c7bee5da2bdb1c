"""Tensors between processes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from .fixed import Fixed


@dataclass(frozen=True, eq=False)
class Tensor:
    """name: of the value in the model, for people.  base: the tensor whose stream this is under another shape."""

    name: str
    shape: tuple[int, ...]
    type: Fixed
    base: Tensor | None = None

    @property
    def stream(self) -> Tensor:
        return self if self.base is None else self.base

    def reshaped(self, shape: tuple[int, ...]) -> Tensor:
        """The same elements in the same order."""
        return self if shape == self.shape else Tensor(self.name, shape, self.type, self.stream)

    @property
    def size(self) -> int:
        return prod(self.shape)

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}{list(self.shape)}"
