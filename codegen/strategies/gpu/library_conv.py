"""Convolutions by cuDNN, where measurement has found it faster than every tile of ours (`Choice.library`, a tuning file).

    y = relu(conv(x, w) + bias + residual)   ->   Do cudnn(y, x, w', bias, residual, sizes.., strides..)

As with products (`library.py`) the kernel is this one statement.  Images are channels last, w' is w[o, kh, kw, c]; bias,
residual and relu are what may follow the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import product
from typing import ClassVar

from ....ir.compute import Compute, acc_var
from ....ir.expr import Bin, Cast, Const, Expr, Load, Select, Var, as_expr, linear
from ....ir.kernel import Buffer, Do, Kernel
from ....ir.traverse import substitute, uses, walk
from ...machine_gpu import GpuMachine
from ..choices import Choice
from ..scheduled import Group, Pack, Scheduled
from .library import TYPES, first_element
from .operand import unclamped

CALL = "cudnn"
_FIELD_SIZES = (4, 3, 2, 2, 4, 2, 4, 4, 4)  # of LibraryConvolution, those that are several numbers


@dataclass(frozen=True)
class LibraryConvolution:
    """image: its n, height, width and channels; out: height, width and channels of the result; window: height, width.
    strides, pads (top, left, bottom, right), dilations.  x_steps, y_steps, z_steps: elements from one image, row, column
    and channel to the next; those of a residual.  has_bias, has_residual, has_relu, tf32: 0 or 1.  dtypes: of
    the result, the image, the weights, bias and residual where there are some."""

    image: tuple[int, int, int, int]
    out: tuple[int, int, int]
    window: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    x_steps: tuple[int, int, int, int]
    y_steps: tuple[int, int, int, int]
    z_steps: tuple[int, int, int, int]
    has_bias: int
    has_residual: int
    has_relu: int
    tf32: int
    dtypes: tuple[str, ...] = ()

    library: ClassVar[str] = "cuDNN"

    def numbers(self) -> tuple[int, ...]:
        """All but the types, for `from_numbers`."""
        return tuple(n for field in astuple(self)[:-1] for n in (field if isinstance(field, tuple) else (field,)))

    @classmethod
    def from_numbers(cls, numbers: Sequence[int], dtypes: tuple[str, ...]) -> LibraryConvolution:
        rest = list(numbers)
        groups = [tuple(rest.pop(0) for _ in range(n)) for n in _FIELD_SIZES]
        return cls(*groups, *rest, dtypes)  # type: ignore[arg-type]


def schedule_library_convolution(group: Group, machine: GpuMachine) -> Scheduled | None:
    """The call, or None where the group is not a convolution that the library makes."""
    found = _convolution(group, machine)
    if found is None:
        return None
    c, buffers = found
    w = buffers[2]
    kh, kw, channels, filters = w.static_shape
    packed = Buffer("w", w.dtype, (filters, kh, kw, channels))
    pack = Pack(w.name, packed.shape, (0,) * 4, ((0, 0, 0, 1), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)))
    operands = (*buffers[:2], packed, *buffers[3:])
    args = (*map(first_element, operands), *map(as_expr, c.numbers()))
    kernel = Kernel("library_convolution", (*dict.fromkeys(group.params), packed), (Do(CALL, args),))
    shape = " x ".join(map(str, (*c.image[:3], channels)))
    then = "".join(f" + {n}" for n, has in (("bias", c.has_bias), ("residual", c.has_residual)) if has)
    note = (f"convolution {kh} x {kw} of {shape} to {filters}{then}{', relu' if c.has_relu else ''} by cuDNN; from the "
            "tuning file")
    return Scheduled(kernel, ((packed.name, pack),), note, choice=Choice(library=1))


def _convolution(group: Group, machine: GpuMachine) -> tuple[LibraryConvolution, tuple[Buffer, ...]] | None:
    """(facts, (result, image, weights, bias and residual where there are some))."""
    (c,) = group.computes
    factors = _factors(c)
    if factors is None or len(c.axes) != 4 or len(c.reduce) != 3 or c.acc != "f32" or c.init is not None:
        return None
    (x, inside), w = factors
    n, oh, ow, oc = c.axes
    kh, kw, ic = c.reduce
    fits = w.idx == (kh, kw, ic, oc) and w.buf.name in group.constants and c.out_index == c.axes
    fits = fits and len(x.buf.shape) == 4 and x.buf.dtype == w.buf.dtype and x.buf.dtype in TYPES
    if not fits or x.idx[0] is not n or x.idx[3] is not ic:
        return None
    lines = _line(x.idx[1], oh, kh), _line(x.idx[2], ow, kw)
    finish = _finish(c)
    if lines[0] is None or lines[1] is None or finish is None:
        return None
    outs = [(int(a.extent), int(b.extent)) for a, b in ((oh, kh), (ow, kw))]  # type: ignore[arg-type]
    sizes = x.buf.static_shape
    if not _is_border(inside, x, ((oh, kh), (ow, kw))):
        return None
    ends = [max(0, (o - 1) * s + (k - 1) * d - p - (size - 1))
            for (o, k), (s, d, p), size in zip(outs, lines, sizes[1:3], strict=True)]  # type: ignore[misc]
    bias, residual, relu = finish
    more = tuple(b for b in (bias, residual) if b is not None)
    if any(b.align % 16 for b in (c.out, x.buf, *more)) or c.out.dtype not in TYPES:
        return None
    pads = (lines[0][2], lines[1][2], *ends)
    made = LibraryConvolution(
        sizes, (outs[0][0], outs[1][0], int(oc.extent)), (outs[0][1], outs[1][1]),  # type: ignore[arg-type]
        (lines[0][0], lines[1][0]), pads, (lines[0][1], lines[1][1]),  # type: ignore[arg-type]
        _steps(x.buf), _steps(c.out), (0,) * 4 if residual is None else _steps(residual),  # type: ignore[arg-type]
        int(bias is not None), int(residual is not None), int(relu), int(machine.precision == "tf32"),
    )
    return made, (c.out, x.buf, w.buf, *more)


def _factors(c: Compute) -> tuple[tuple[Load, Expr | None], Load] | None:
    """((the image's load without clamps, where it is not replaced by zero), the weights' load)."""
    if c.combine != "add" or not isinstance(c.body, Bin) or c.body.op != "mul":
        return None
    x, w, inside = c.body.a, _bare(c.body.b), None
    if isinstance(x, Select) and isinstance(x.b, Const) and x.b.value == 0:
        inside, x = x.cond, x.a
    x = _bare(x)
    if not (isinstance(x, Load) and isinstance(w, Load)):
        return None
    return (x if inside is None else unclamped(x), inside), w


def _bare(e: Expr) -> Expr:
    return e.a if isinstance(e, Cast) else e


def _line(e: Expr, out: Var, k: Var) -> tuple[int, int, int] | None:
    """(stride, dilation, zeros in front) of the place along one axis."""
    start, found = linear(e)
    terms = dict(found)
    stride, dilation = terms.pop(out, 0), terms.pop(k, 0)
    # An axis of one step has no stride of its own.
    stride, dilation = stride or int(out.extent == 1), dilation or int(k.extent == 1)
    return None if terms or min(stride, dilation) < 1 or start > 0 else (stride, dilation, -start)


def _is_border(inside: Expr | None, x: Load, pairs: Sequence[tuple[Var, Var]]) -> bool:
    """Whether the elements that are replaced by zero are those outside of the image, and no others."""
    if inside is not None and (any(isinstance(e, Load) for e in walk(inside)) or any(
            uses(inside, v) for v in walk(inside) if isinstance(v, Var) and all(v not in p for p in pairs))):
        return False
    ranges = [[(o, k) for o in range(int(a.extent)) for k in range(int(b.extent))] for a, b in pairs]  # type: ignore[arg-type]
    middle = [next((p for p in r if _is_inside(x, n + 1, pairs[n], p)), None) for n, r in enumerate(ranges)]
    if None in middle:
        return False
    cases = [(p, middle[1]) for p in ranges[0]] + [(middle[0], p) for p in ranges[1]]
    cases += list(product((ranges[0][0], ranges[0][-1]), (ranges[1][0], ranges[1][-1])))
    for case in cases:
        expected = all(_is_inside(x, n + 1, pairs[n], p) for n, p in enumerate(case))  # type: ignore[arg-type]
        values: dict[Expr, Expr] = {v: as_expr(n) for pair, p in zip(pairs, case, strict=True)  # type: ignore[misc]
                                    for v, n in zip(pair, p, strict=True)}  # type: ignore[arg-type]
        if (True if inside is None else _holds(substitute(inside, values))) is not expected:
            return False
    return True


def _holds(e: Expr) -> bool | None:
    """The value of a condition of constants, None for another one."""
    if isinstance(e, Const):
        return bool(e.value)
    if not isinstance(e, Bin) or e.op != "and":
        return None
    both = _holds(e.a), _holds(e.b)
    return None if None in both else all(both)


def _is_inside(x: Load, d: int, pair: tuple[Var, Var], at: tuple[int, int]) -> bool:
    place = substitute(x.idx[d], {v: as_expr(n) for v, n in zip(pair, at, strict=True)})
    return isinstance(place, Const) and 0 <= place.value < x.buf.static_shape[d]


def _finish(c: Compute) -> tuple[Buffer | None, Buffer | None, bool] | None:
    """(bias, residual, whether negative results become zero), or None if something else is done with the sums."""
    acc = acc_var(c.acc)
    value = _bare(c.finish) if c.finish is not None else acc
    relu = isinstance(value, Bin) and value.op == "max" and isinstance(value.b, Const) and value.b.value == 0
    if relu:
        value = value.a  # type: ignore[union-attr]
    bias: Buffer | None = None
    residual: Buffer | None = None
    while isinstance(value, Bin) and value.op == "add":
        term = _bare(value.b)
        if not isinstance(term, Load) or term.buf.dtype not in TYPES:
            return None
        if bias is None and term.idx == c.axes[3:]:
            bias = term.buf
        elif residual is None and term.idx == c.axes:
            residual = term.buf
        else:
            return None
        value = value.a
    return (bias, residual, relu) if value is acc else None


def _steps(b: Buffer) -> tuple[int, int, int, int]:
    if b.strides is not None:
        return tuple(int(s) for s in b.strides)  # type: ignore[return-value,arg-type]
    _, h, w, channels = b.static_shape
    return h * w * channels, w * channels, channels, 1


def read_library_convolution(kernel: Kernel) -> tuple[LibraryConvolution, tuple[Buffer, ...]] | None:
    """The call that a kernel is, with (result, image, weights, bias and residual where there are some), or None."""
    if len(kernel.body) != 1 or not isinstance(kernel.body[0], Do) or kernel.body[0].fn != CALL:
        return None
    args = kernel.body[0].args
    buffers = tuple(a.buf for a in args if isinstance(a, Load))
    numbers = [int(a.value) for a in args if isinstance(a, Const)]
    return LibraryConvolution.from_numbers(numbers, tuple(b.dtype for b in buffers)), buffers
