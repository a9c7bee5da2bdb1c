"""What every operator is: a frozen record of its attributes with its types, its NumPy meaning, and one lowering."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..errors import InternalError
from ..types import Dim, TensorType

if TYPE_CHECKING:
    from ..compute import Compute
    from ..graph import Builder, Value
    from ..kernel import Buffer, Kernel


class Op:
    """Base of the operators; subclasses are frozen dataclasses, their fields are the attributes.

    Every operator has `infer` and `evaluate`, and exactly one of
    - `expand`: into other operators (composite);
    - `compute`: axes, index maps, scalar body, combiner (primitive, one output);
    - `kernel`: loops written directly, for what `compute` cannot say (sorting, recurrences);
    - `support`: a C function of the artifact's support code (strings).
    A control-flow operator has none of them: its graphs are lowered as steps.
    """

    pure: ClassVar[bool] = True
    """False for operators with an effect or a random result: they are neither shared nor removed nor folded."""
    folds: ClassVar[bool] = True
    """False for operators that stay over constants too, because a later pass reads what they say."""
    weight: ClassVar[int] = 1
    """How many elementwise operators it is worth where the size of a kernel is limited."""

    @property
    def told(self) -> tuple[Dim, ...]:
        """The symbolic sizes that only its run determines."""
        return ()

    @property
    def name(self) -> str:
        """What the text form, reports and messages call it."""
        return type(self).__name__

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        """Output types.  Raises ModelError for operands that the operator does not take.  Also the verifier."""
        raise InternalError(f"{self.name} has no infer")

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """The NumPy meaning, written independently of the lowering."""
        raise InternalError(f"{self.name} has no evaluate")

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        """The outputs, made of other operators."""
        raise InternalError(f"{self.name} has no expand")

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        """The loop-level meaning over one buffer per operand, of the operand's shape (rank 0 for scalars)."""
        raise InternalError(f"{self.name} has no compute")

    def kernel(self, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...]) -> Kernel:
        """The loops, with parameters (*outs, *ins)."""
        raise InternalError(f"{self.name} has no kernel")


    def support(self, *types: TensorType) -> tuple[str, tuple[Dim, ...]]:
        """The C function and its integer arguments, for operands of these types: void f(void *runtime, results...,
        operands..., int64_t...), on dense arrays.  One thread calls it."""
        raise InternalError(f"{self.name} has no support")


def form_of(op: Op) -> str:
    """Which lowering the operator has: "expand", "compute", "kernel", "support" or "control"."""
    return form_of_class(type(op))


def form_of_class(op: type[Op]) -> str:
    for form in ("expand", "compute", "kernel", "support"):
        if getattr(op, form) is not getattr(Op, form):
            return form
    return "control"
