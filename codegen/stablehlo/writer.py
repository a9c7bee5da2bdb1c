"""Writes one StableHLO function, operation by operation: every method is one operation and gives its result.

    %relu = stablehlo.maximum %conv, %zero : tensor<1x112x112x64xf32> loc("relu1")

Results are named after the value of the graph that is being computed, and carry the model's node as their location.
Constants are shared inside a region and the regions within it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ...ir.types import DTYPES, TensorType
from .text import dense_text, i64_array, identifier, numbers, quoted, scalar_text, type_text, types_text

_DIRECTIONS = {"lt": "LT", "le": "LE", "gt": "GT", "ge": "GE", "eq": "EQ", "ne": "NE"}


@dataclass(frozen=True, slots=True)
class Ref:
    """A result or argument: its name with the %, and its type."""

    name: str
    type: TensorType

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.static_shape

    @property
    def dtype(self) -> str:
        return self.type.dtype


Region = Callable[..., Sequence[Ref]]


class Writer:
    """hint, where: the name that results get, and the origin they are marked with."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.hint = "v"
        self.where = ""
        self._depth = 1
        self._names: dict[str, int] = {}
        self._constants: list[dict[tuple[object, ...], Ref]] = [{}]

    # -- naming

    def unique(self, hint: str) -> str:
        """A new name, with the %."""
        base = identifier(hint)
        count = self._names.get(base, 0)
        self._names[base] = count + 1
        return f"%{base}" if count == 0 else self.unique(f"{base}_{count}")

    def _line(self, text: str) -> None:
        origin = f" loc({quoted(self.where)})" if self.where else ""
        self.lines.append("  " * self._depth + text + origin)

    def emit(self, text: str, type: TensorType) -> Ref:
        """One operation with one result."""
        ref = Ref(self.unique(self.hint), type)
        self._line(f"{ref.name} = {text}")
        return ref

    # -- constants

    def constant(self, array: np.ndarray, dtype: str) -> Ref:
        array = np.asarray(array).astype(DTYPES[dtype].numpy, copy=False)
        return self._shared(dense_text(array), TensorType(dtype, array.shape))

    def splat(self, value: object, dtype: str, shape: Sequence[int] = ()) -> Ref:
        """A tensor with one value everywhere."""
        with np.errstate(over="ignore"):
            scalar = np.asarray(value).astype(DTYPES[dtype].numpy)
        t = TensorType(dtype, tuple(shape))
        return self._shared(f"dense<{scalar_text(scalar) if t.size else ''}>", t)

    def _shared(self, text: str, t: TensorType) -> Ref:
        key = (text, t)
        for scope in self._constants:
            if key in scope:
                return scope[key]
        hint, self.hint = self.hint, "c"
        ref = self.emit(f"stablehlo.constant {text} : {type_text(t)}", t)
        self.hint = hint
        self._constants[-1][key] = ref
        return ref

    # -- element by element

    def unary(self, op: str, x: Ref) -> Ref:
        return self.emit(f"stablehlo.{op} {x.name} : {type_text(x.type)}", x.type)

    def binary(self, op: str, a: Ref, b: Ref) -> Ref:
        return self.emit(f"stablehlo.{op} {a.name}, {b.name} : {type_text(a.type)}", a.type)

    def barrier(self, x: Ref) -> Ref:
        """x, of which no rewrite knows what made it."""
        return self.emit(f"stablehlo.optimization_barrier {x.name} : {type_text(x.type)}", x.type)

    def compare(self, direction: str, a: Ref, b: Ref) -> Ref:
        kind = {"f": "FLOAT", "i": "SIGNED"}.get(DTYPES[a.dtype].kind, "UNSIGNED")
        out = TensorType("bool", a.shape)
        head = f"stablehlo.compare {_DIRECTIONS[direction]}, {a.name}, {b.name}, {kind}"
        return self.emit(f"{head} : {self.signature((a, b), out)}", out)

    def select(self, condition: Ref, a: Ref, b: Ref) -> Ref:
        types = types_text((condition.type, a.type))
        return self.emit(f"stablehlo.select {condition.name}, {a.name}, {b.name} : {types}", a.type)

    def convert(self, x: Ref, dtype: str) -> Ref:
        """x in another element type; to bool: whether it is not 0.  From u8 to floats through i32: XLA's processor backend
        (jaxlib 0.10) takes bytes for signed where it fuses what makes them, this and an extremum."""
        if x.dtype == dtype:
            return x
        if dtype == "bool":
            return self.compare("ne", x, self.splat(0, x.dtype, x.shape))
        if x.dtype == "u8" and DTYPES[dtype].kind == "f":
            x = self.convert(x, "i32")
        return self.simple("convert", (x,), TensorType(dtype, x.shape))

    def simple(self, op: str, operands: Sequence[Ref], out: TensorType, attributes: str = "") -> Ref:
        """An operation in its short form with a full signature."""
        names = ", ".join(x.name for x in operands)
        comma = ", " if attributes else ""
        return self.emit(f"stablehlo.{op} {names}{comma}{attributes} : {self.signature(operands, out)}", out)

    @staticmethod
    def signature(operands: Sequence[Ref], *out: TensorType) -> str:
        results = types_text(out) if len(out) == 1 else f"({types_text(out)})"
        return f"({types_text(x.type for x in operands)}) -> {results}"

    # -- shapes

    def broadcast(self, x: Ref, shape: Sequence[int], dims: Sequence[int]) -> Ref:
        """Dimension i of x becomes dimension dims[i]."""
        out = TensorType(x.dtype, tuple(shape))
        return x if out == x.type else self.simple("broadcast_in_dim", (x,), out, f"dims = [{numbers(dims)}]")

    def broadcast_to(self, x: Ref, shape: Sequence[int]) -> Ref:
        """As NumPy: dimensions are aligned at the end."""
        return self.broadcast(x, shape, range(len(shape) - len(x.shape), len(shape)))

    def reshape(self, x: Ref, shape: Sequence[int]) -> Ref:
        out = TensorType(x.dtype, tuple(shape))
        return x if out == x.type else self.simple("reshape", (x,), out)

    def transpose(self, x: Ref, perm: Sequence[int]) -> Ref:
        out = TensorType(x.dtype, tuple(x.shape[p] for p in perm))
        if tuple(perm) == tuple(range(len(perm))):
            return x
        return self.simple("transpose", (x,), out, f"dims = [{numbers(perm)}]")

    def slice(self, x: Ref, starts: Sequence[int], limits: Sequence[int], steps: Sequence[int] = ()) -> Ref:
        """Steps are positive."""
        steps = steps or (1,) * len(x.shape)
        sizes = tuple(max(0, -(-(limit - s) // k)) for s, limit, k in zip(starts, limits, steps, strict=True))
        out = TensorType(x.dtype, sizes)
        if out == x.type:
            return x
        rows = zip(starts, limits, steps, strict=True)
        cut = ", ".join(f"{s}:{limit}:{k}" if k != 1 else f"{s}:{limit}" for s, limit, k in rows)
        return self.emit(f"stablehlo.slice {x.name} [{cut}] : {self.signature((x,), out)}", out)

    def slice_axis(self, x: Ref, axis: int, start: int, limit: int) -> Ref:
        starts = [start if d == axis else 0 for d in range(len(x.shape))]
        limits = [limit if d == axis else n for d, n in enumerate(x.shape)]
        return self.slice(x, starts, limits)

    def pad(self, x: Ref, value: Ref, low: Sequence[int], high: Sequence[int]) -> Ref:
        """Negative pads cut."""
        if not any((*low, *high)):
            return x
        out = TensorType(x.dtype, tuple(a + n + b for a, n, b in zip(low, x.shape, high, strict=True)))
        zeros = numbers(0 for _ in low)
        return self.simple(
            "pad", (x, value), out, f"low = [{numbers(low)}], high = [{numbers(high)}], interior = [{zeros}]"
        )

    def concatenate(self, parts: Sequence[Ref], axis: int) -> Ref:
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        total = sum(p.shape[axis] for p in parts)
        out = TensorType(first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :]))
        return self.simple("concatenate", parts, out, f"dim = {axis}")

    def reverse(self, x: Ref, axes: Sequence[int]) -> Ref:
        if not axes:
            return x
        return self.emit(f"stablehlo.reverse {x.name}, dims = [{numbers(axes)}] : {type_text(x.type)}", x.type)

    def iota(self, shape: Sequence[int], axis: int, dtype: str) -> Ref:
        out = TensorType(dtype, tuple(shape))
        return self.emit(f"stablehlo.iota dim = {axis} : {type_text(out)}", out)

    def dynamic_slice(self, x: Ref, starts: Sequence[Ref], sizes: Sequence[int]) -> Ref:
        """starts: one scalar per dimension; they are clamped so that the slice lies inside."""
        out = TensorType(x.dtype, tuple(sizes))
        return self.simple("dynamic_slice", (x, *starts), out, f"sizes = [{numbers(sizes)}]")

    def dynamic_update_slice(self, x: Ref, update: Ref, starts: Sequence[Ref]) -> Ref:
        return self.simple("dynamic_update_slice", (x, update, *starts), x.type)

    # -- reductions and regions

    def reduce(self, op: str, x: Ref, init: Ref, axes: Sequence[int]) -> Ref:
        """op: the StableHLO operation that combines two values."""
        out = TensorType(x.dtype, tuple(n for d, n in enumerate(x.shape) if d not in axes))
        head = f"stablehlo.reduce({x.name} init: {init.name}) applies stablehlo.{op}"
        return self.emit(f"{head} across dimensions = [{numbers(axes)}] : {self.signature((x, init), out)}", out)

    def generic(
        self, op: str, operands: Sequence[Ref], types: Sequence[TensorType], attributes: str = "",
        regions: Sequence[tuple[Sequence[TensorType], Region]] = (),
    ) -> tuple[Ref, ...]:
        """An operation in the form that all have.  regions: argument types, and what is written inside; it gives the
        values that the region returns."""
        properties = f" <{{{attributes}}}>" if attributes else ""
        name = self.unique(self.hint)
        multi = len(types) != 1
        head = f'{name}{f":{len(types)}" if multi else ""} = "stablehlo.{op}"({", ".join(x.name for x in operands)})'
        tail = f" : {self.signature(operands, *types)}"
        if not regions:
            self._line(head + properties + tail)
        else:
            self._text(f"{head}{properties} ({{")
            for number, (arguments, write) in enumerate(regions):
                if number:
                    self._text("}, {")
                self._region(arguments, write)
            self._line(f"}}){tail}")
        return tuple(Ref(f"{name}#{i}" if multi else name, t) for i, t in enumerate(types))

    def _text(self, text: str) -> None:
        self.lines.append("  " * self._depth + text)

    def _region(self, arguments: Sequence[TensorType], write: Region) -> None:
        refs = [Ref(self.unique("a"), t) for t in arguments]
        if refs:
            self._text("^bb0(" + ", ".join(f"{r.name}: {type_text(r.type)}" for r in refs) + "):")
        with self._nested():
            results = write(*refs)
            names = ", ".join(r.name for r in results)
            types = f" : {types_text(r.type for r in results)}" if results else ""
            self._line(f"stablehlo.return {names}{types}".replace("return  ", "return "))

    @contextmanager
    def _nested(self) -> Iterator[None]:
        self._depth += 1
        self._constants.append({})
        yield
        self._constants.pop()
        self._depth -= 1

    def while_loop(self, start: Sequence[Ref], condition: Region, body: Region) -> tuple[Ref, ...]:
        """condition and body are given the current values."""
        types = [x.type for x in start]
        return self.generic("while", start, types, "", ((types, condition), (types, body)))

    def reduce_window(
        self, op: str, x: Ref, init: Ref, *, sizes: Sequence[int], strides: Sequence[int] = (),
        dilations: Sequence[int] = (), pads: Sequence[tuple[int, int]] = (),
    ) -> Ref:
        """All of one entry per dimension; op combines two values."""
        rank = len(x.shape)
        strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
        pads = pads or ((0, 0),) * rank
        rows = zip(x.shape, sizes, strides, dilations, pads, strict=True)
        shape = tuple((n + b + a - (k - 1) * d - 1) // s + 1 for n, k, s, d, (b, a) in rows)
        padding = f"dense<[{', '.join(f'[{b}, {a}]' for b, a in pads)}]> : tensor<{rank}x2xi64>"
        attributes = (
            f"padding = {padding}, window_dilations = {i64_array(dilations)}, window_dimensions = {i64_array(sizes)}, "
            f"window_strides = {i64_array(strides)}"
        )
        scalar = TensorType(x.dtype, ())
        regions = (((scalar, scalar), lambda a, b: [self.binary(op, a, b)]),)
        return self.generic("reduce_window", (x, init), (TensorType(x.dtype, shape),), attributes, regions)[0]
