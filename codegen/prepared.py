"""Constants that an instance computes for itself when it is created, into memory that it keeps."""

from __future__ import annotations

import numpy as np

from ..ir.kernel import Buffer, Kernel
from .kernels import KernelTable
from .machine import Machine
from .program import Address, Call, Step
from .storage import Reference, Root
from .strategies.scheduled import Pack
from .strategies.strassen_weights import HalvedWeights, halved_weights_kernel
from .strategies.winograd_transforms import WinogradWeights
from .strategies.winograd_weights import weights_kernel


class PreparedConstants:
    """The steps that run once, before any other, and the memory they fill."""

    def __init__(self, kernels: KernelTable, machine: Machine) -> None:
        self.kernels, self.machine = kernels, machine
        self.steps: list[Step] = []
        self.roots: list[Root] = []
        self._made: dict[tuple[int, Pack], Root] = {}

    @staticmethod
    def takes(pack: Pack) -> bool:
        """Whether the constant is one that instances can make: transformed weights of convolutions and of large products."""
        return isinstance(pack.transform, HalvedWeights | WinogradWeights)

    def root(self, pack: Pack, param: Buffer, array: np.ndarray, raw: Root) -> Root:
        """The memory of a transformed constant; raw: where the constant itself lies."""
        key = (id(array), pack)
        if key not in self._made:
            root = self._made[key] = Root("transformed weights", "arena", param.size * 4)
            self.roots.append(root)
            source = Buffer("x0", param.dtype, array.shape)
            kernel = self._kernel(pack, source, Buffer("y0", "f32", pack.shape))
            args: tuple[Address, ...] = (Reference(root, 0), Reference(raw, 0))  # type: ignore[assignment]
            self.steps.append(Call(self.kernels.add(kernel), args, ops=("weights",)))
        return self._made[key]

    def _kernel(self, pack: Pack, source: Buffer, target: Buffer) -> Kernel:
        if isinstance(pack.transform, HalvedWeights):
            return halved_weights_kernel(pack, pack.transform, source, target, self.machine)
        assert isinstance(pack.transform, WinogradWeights)
        return weights_kernel(pack, pack.transform, source, target, self.machine)
