"""The strategies of each kind of machine: what lowering asks for schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Union

import numpy as np

from ...ir.kernel import Buffer
from ...ir.ops.base import Op
from ...ir.types import TensorType
from ..machine import Machine
from ..machine_gpu import GpuMachine
from . import select
from .gpu import select as gpu_select
from .scheduled import Group, Scheduled

AnyMachine = Union[Machine, GpuMachine]


class Strategies(Protocol):
    """A module with these functions."""

    def schedule_group(self, group: Group, machine: Any, accuracy: str = "default") -> Scheduled: ...

    def with_sparsity(
        self, group: Group, arrays: Mapping[str, np.ndarray], machine: Any, accuracy: str = "default"
    ) -> Group: ...

    def schedule_irregular(self, op: Op, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...], machine: Any) -> Scheduled: ...

    def is_native(self, machine: Any, op: Op, types: tuple[TensorType, ...]) -> bool: ...


def strategies_of(machine: AnyMachine) -> Strategies:
    return gpu_select if isinstance(machine, GpuMachine) else select
