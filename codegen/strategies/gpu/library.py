"""Products by cuBLASLt, where measurement has found it faster than every tile of ours (`Choice.library`, a tuning file).

    y[b, m, n] = sum_k left[b, m, k] * right[b, k, n]   ->   Do cublaslt(y, left, right, sizes.., strides..)

The kernel is this one statement: no CUDA C++ is printed for it, the artifact's library calls cuBLASLt instead, which must then
be on the machine.  Only plain products: operands and result with a contiguous axis, nothing left to do with the sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ....ir.dims import split_index
from ....ir.expr import Const, Expr, Load, Type, as_expr, linear
from ....ir.kernel import Buffer, Do, Kernel, axis, flat_index
from ....ir.traverse import substitute
from ...machine_gpu import GpuMachine
from ..choices import Choice
from ..scheduled import Group, Scheduled
from .operand import MatrixProduct, operand_strides

CALL = "cublaslt"
TYPES = ("f16", "bf16", "f32")


@dataclass(frozen=True)
class LibraryProduct:
    """offsets: of result, left and right, in elements.  left: elements from one batch, row and k to the next; right: batch,
    column, k; out: batch, row.  tf32: f32 may be rounded to it."""

    batches: int
    rows: int
    columns: int
    depth: int
    left: tuple[int, int, int]
    right: tuple[int, int, int]
    out: tuple[int, int]
    dtype: str
    out_dtype: str
    tf32: bool

    library: ClassVar[str] = "cuBLASLt"


def schedule_library_product(group: Group, p: MatrixProduct, machine: GpuMachine) -> Scheduled | None:
    """The call, or None where the product is not one that the library makes."""
    c = p.compute
    types = (p.left.dtype, p.right.dtype)
    if c.finish is not None or c.init is not None or len(set(types)) > 1 or types[0] not in TYPES or c.acc != "f32":
        return None
    left, right = (operand_strides(x, p.sizes[0]) for x in (p.left, p.right))
    out = _result(p)
    if left is None or right is None or out is None or c.out.dtype not in (types[0], "f32"):
        return None
    if not all(1 in s[1][1:] for s in (left, right)):
        return None
    firsts = [(c.out, out[0]), (p.left.buffer, left[0]), (p.right.buffer, right[0])]
    if any(offset for _, offset in firsts):
        return None  # parts of larger tensors
    tf32 = machine.precision == "tf32"
    numbers = (*p.sizes, *left[1], *right[1], *out[1], int(tf32))
    args = (*(first_element(b) for b, _ in firsts), *map(as_expr, numbers))
    kernel = Kernel("library_product", tuple(dict.fromkeys(group.params)), (Do(CALL, args),))
    b, m, n, k = p.sizes
    note = f"product of {f'{b} x ' if b > 1 else ''}{m} x {n} x {k} by cuBLASLt; from the tuning file"
    return Scheduled(kernel, note=note, choice=Choice(library=1))


def first_element(b: Buffer) -> Expr:
    """The address of a buffer, as an argument of a statement that is a call."""
    return Load.of(b, (as_expr(0),) * len(b.shape), Type(b.dtype))


def _result(p: MatrixProduct) -> tuple[int, tuple[int, int]] | None:
    """(offset, elements from one batch and row to the next) of a result whose columns follow each other."""
    sizes = p.sizes[:3]
    flat = tuple(axis(f"n{d}", n) for d, n in enumerate(sizes))
    values: dict[Expr, Expr] = {}
    for axes, number in zip((p.batch, p.rows, p.columns), flat, strict=True):
        values.update(zip(axes, split_index([int(a.extent) for a in axes], number), strict=True))  # type: ignore[arg-type]
    offset, terms = linear(flat_index(p.compute.out, tuple(substitute(i, values) for i in p.compute.out_index)))
    if not set(terms) <= set(flat) or (sizes[2] > 1 and terms.get(flat[2]) != 1):
        return None
    return offset, (terms.get(flat[0], 0), terms.get(flat[1], 0) or sizes[2])


def read_library_product(kernel: Kernel) -> tuple[LibraryProduct, tuple[Buffer, Buffer, Buffer]] | None:
    """The call that a kernel is, with (result, left, right), or None."""
    if len(kernel.body) != 1 or not isinstance(kernel.body[0], Do) or kernel.body[0].fn != CALL:
        return None
    out, left, right, *rest = kernel.body[0].args
    assert isinstance(out, Load) and isinstance(left, Load) and isinstance(right, Load)
    n = [int(e.value) for e in rest if isinstance(e, Const)]
    made = LibraryProduct(n[0], n[1], n[2], n[3], (n[4], n[5], n[6]), (n[7], n[8], n[9]), (n[10], n[11]), left.buf.dtype,
                          out.buf.dtype, bool(n[12]))
    return made, (out.buf, left.buf, right.buf)


