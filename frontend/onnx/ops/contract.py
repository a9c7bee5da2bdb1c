"""Matrix products and Einstein sums."""

from __future__ import annotations

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.contract import MatMul
from ....ir.ops.reduce import Reduce
from ....ir.types import Dim
from ..builder import OnnxBuilder
from ..symbolic import product
from ..table import Outputs, onnx_op


@onnx_op("MatMul", since=1)
def matmul(b: OnnxBuilder, x: Value, y: Value) -> Outputs:
    """As numpy.matmul: a vector is a row on the left and a column on the right."""
    if x.type.rank == 0 or y.type.rank == 0:
        raise ModelError(f"expected vectors or matrices, got {x.type} and {y.type}")
    left = b.reshape(x, (1, *x.type.shape)) if x.type.rank == 1 else x
    right = b.reshape(y, (*y.type.shape, 1)) if y.type.rank == 1 else y
    z = b.add(MatMul(), left, right)
    shape = list(z.type.shape)
    if y.type.rank == 1:
        del shape[-1]
    if x.type.rank == 1:
        del shape[-1 if y.type.rank == 1 else -2]
    return b.reshape(z, shape)


@onnx_op("Gemm", since=7)
def gemm(
    b: OnnxBuilder, x: Value, y: Value, c: Value | None = None, *, alpha: float = 1.0, beta: float = 1.0,
    transA: int = 0, transB: int = 0,
) -> Outputs:  # fmt: skip
    if x.type.rank != 2 or y.type.rank != 2:
        raise ModelError(f"expected two matrices, got {x.type} and {y.type}")
    z = b.add(MatMul(), b.transpose(x, (1, 0)) if transA else x, b.transpose(y, (1, 0)) if transB else y)
    if alpha != 1:
        z = b.binary("mul", z, alpha)
    if c is None or beta == 0:
        return z
    return b.binary("add", z, c if beta == 1 else b.binary("mul", c, beta))


# ---- Einsum ----


@onnx_op("Einsum", since=12)
def einsum(b: OnnxBuilder, *xs: Value, equation: str) -> Outputs:
    """Operands are joined from left to right; a label is summed as soon as nothing else reads it."""
    labels, out = _parse(equation.replace(" ", ""), [x.type.rank for x in xs])
    terms = [_diagonal(b, x, row) for x, row in zip(xs, labels, strict=True)]
    value, have = terms[0]
    for n, (other, theirs) in enumerate(terms[1:], 2):
        later = {label for _, row in terms[n:] for label in row} | set(out)
        value, have = _join(b, (value, have), (other, theirs), later)
    summed = tuple(d for d, label in enumerate(have) if label not in out)
    if summed:
        value = b.add(Reduce("sum", summed, False), value)
        have = [label for label in have if label in out]
    return b.transpose(value, [have.index(label) for label in out])


def _parse(equation: str, ranks: list[int]) -> tuple[list[list[str]], list[str]]:
    """The labels of every operand and of the result; those that an ellipsis stands for are called .0, .1, ... counted
    from the last."""
    left, arrow, right = equation.partition("->")
    parts = left.split(",")
    if len(parts) != len(ranks):
        raise ModelError(f"equation {equation!r} has {len(parts)} terms for {len(ranks)} operands")
    rows: list[list[str]] = []
    widest = 0
    for part, rank in zip(parts, ranks, strict=True):
        hidden = rank - len(part.replace("...", ""))
        if hidden < 0 or (hidden and "..." not in part) or part.count(".") not in (0, 3):
            raise ModelError(f"term {part!r} of equation {equation!r} does not fit an operand of {rank} dimensions")
        widest = max(widest, hidden)
        rows.append(_spelled(part, hidden))
    if not arrow:
        names = [label for row in rows for label in row if label[0] != "."]
        right = "..." * ("..." in left) + "".join(sorted(n for n in set(names) if names.count(n) == 1))
    out = _spelled(right, widest)
    unknown = [label for label in out if not any(label in row for row in rows)]
    if unknown or len(set(out)) < len(out):
        raise ModelError(f"equation {equation!r}: the result's labels must be distinct ones of the operands")
    return rows, out


def _spelled(part: str, hidden: int) -> list[str]:
    before, dots, after = part.partition("...")
    return [*before, *(f".{n}" for n in range(hidden - 1, -1, -1) if dots), *after]


def _diagonal(b: OnnxBuilder, x: Value, labels: list[str]) -> tuple[Value, list[str]]:
    """A label that a term has twice reads the diagonal: every (n + 1)-th element of the two dimensions as one."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            n = x.type.shape[first]
            if x.type.shape[second] != n or not isinstance(n, int):
                raise ModelError(f"label {label!r} stands for {n} and {x.type.shape[second]}; expected one known size")
            rest = [d for d in range(x.type.rank) if d not in (first, second)]
            x = b.transpose(x, (first, second, *rest))
            x = b.reshape(x, (n * n, *x.type.shape[2:]))
            x = b.slice(x, 0, 0, n, n + 1)
            labels = [label, *(labels[d] for d in rest)]
    return x, labels


def _join(
    b: OnnxBuilder, left: tuple[Value, list[str]], right: tuple[Value, list[str]], later: set[str]
) -> tuple[Value, list[str]]:
    """One product of matrices: labels of both that are read later are batches, the others of both are summed."""
    (x, xl), (y, yl) = _presum(b, *left, set(right[1]) | later), _presum(b, *right, set(left[1]) | later)
    batch = [label for label in xl if label in yl and label in later]
    inner = [label for label in xl if label in yl and label not in later]
    rows = [label for label in xl if label not in yl]
    columns = [label for label in yl if label not in xl]
    size = {**_sizes(x, xl), **{k: n for k, n in _sizes(y, yl).items() if n != 1 or k not in xl}}
    x, y = _stretch(b, x, xl, inner, size), _stretch(b, y, yl, inner, size)
    left_matrix = _matrix(b, x, xl, batch, rows, inner)
    right_matrix = _matrix(b, y, yl, batch, inner, columns)
    z = b.add(MatMul(), left_matrix, right_matrix)
    labels = [*batch, *rows, *columns]
    return b.reshape(z, [size[label] for label in labels]), labels


def _presum(b: OnnxBuilder, x: Value, labels: list[str], needed: set[str]) -> tuple[Value, list[str]]:
    alone = tuple(d for d, label in enumerate(labels) if label not in needed)
    if not alone:
        return x, labels
    return b.add(Reduce("sum", alone, False), x), [label for label in labels if label in needed]


def _sizes(x: Value, labels: list[str]) -> dict[str, Dim]:
    return dict(zip(labels, x.type.shape, strict=True))


def _stretch(b: OnnxBuilder, x: Value, labels: list[str], inner: list[str], size: dict[str, Dim]) -> Value:
    """Summed dimensions of size 1 are repeated; those of batches broadcast by themselves."""
    return b.broadcast(x, [size[k] if k in inner else n for k, n in zip(labels, x.type.shape, strict=True)])


def _matrix(
    b: OnnxBuilder, x: Value, labels: list[str], batch: list[str], rows: list[str], columns: list[str]
) -> Value:
    sizes = _sizes(x, labels)
    x = b.transpose(x, [labels.index(label) for label in (*batch, *rows, *columns)])
    matrix = (product(sizes[label] for label in rows), product(sizes[label] for label in columns))
    return b.reshape(x, (*(sizes[label] for label in batch), *matrix))
