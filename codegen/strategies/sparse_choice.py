"""Dense or sparse: what a constant operand's zeros are worth, by a cost model of both kernels.

Every block height R that the registers hold is tried: blocks of R x 1 cover all weights that are not zero, so that a finer
block multiplies fewer zeros and a coarser one loads less for each multiplication.  The sparse kernel is taken only where it is
expected to be clearly faster, so that no model becomes slower by its zeros.  Tuning decides by measurement: it tries the dense
kernel and every height (`Choice.sparse`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from ...ir.compute import Compute
from ...ir.errors import OptionError
from ...ir.expr import Load, Var
from ...ir.types import DTYPES
from ..machine import Machine
from . import sparse_integers
from .axes import size_of, without_empty_sum
from .open_axes import is_open, typical
from .product import Dot, find_dot, find_product, operands
from .scheduled import Group
from .sparse import WORTH, SparsePlan
from .sparse_forms import SparseProduct, matrix_product, product_of_words, weight_matrix, window_product, words_of
from .sparse_open import open_product
from .sparse_weights import Layout, SparseWeights
from .strassen_plan import ROWS, halved_product, is_worth_halving
from .winograd_plan import is_transformable, winograd_cycles

NEAR = 0.8  # expected gain from which measuring may find the sparse kernel faster
MOST_DENSITY = 0.8  # above it no pattern pays
SMALLEST = 2048  # weights below which nothing is gained
DENSE_SHARE = 0.97  # of the multiply-add peak that the dense kernel reaches
HALVED = 0.9  # of that, for large products as seven of half the size
BLOCK_OVERHEAD = {8: 1.04, 4: 1.22, 2: 1.06, 1: 1.1}  # R -> cycles of a block over those of its multiplications or loads
WORD_OVERHEAD = 1.25  # the same for words of integers
UNALIGNED = 2.8  # a load of rows that begin anywhere, over one of rows that begin with a cache line: measured in windows
LEAST_CYCLES = 6.0  # of one step of all groups in lockstep, where rows are few
BUNDLED_CYCLES = 12.0  # per group and tile, where groups run in lockstep; and its sums, below
GROUP_CYCLES = 25.0  # per group and tile: clearing or loading and storing its sums, and a loop whose end is not foreseen
TURN_CYCLES = 4.5  # per vector of results turned round, and of the left operand where its rows are one run
COPY_CYCLES = 20.0  # per vector of a left operand whose rows are no run
CHUNK = 64  # outputs of one chunk: their sums stay in the first-level cache
Shape = tuple[int, int, int]
SHAPES: dict[int, tuple[Shape, ...]] = {
    32: ((8, 3, 1), (4, 4, 1), (2, 4, 2), (1, 4, 4)), 16: ((4, 3, 1), (2, 4, 1), (1, 8, 1)), 8: ((2, 2, 1), (1, 4, 1)),
}
"""Registers of the machine -> (R, vectors of rows in a panel, groups in lockstep), the coarsest blocks first."""
WORD_SHAPES: dict[int, tuple[Shape, ...]] = {
    32: ((8, 3, 1), (4, 4, 1), (2, 8, 1), (1, 8, 1)), 16: ((4, 3, 1), (2, 4, 1), (1, 8, 1)), 8: ((2, 2, 1), (1, 4, 1)),
}
"""The same for words of integers."""
DEEP = 1.06  # integers of a block over those that are not zero: rounding makes zeros too
COARSE = 4  # blocks from this height on load little enough to read the copy from the second-level cache


Found = tuple[SparseProduct, tuple[Compute, Load, Var]]
"""A product, and what its weights are read by: the computation, the load, the axis of outputs."""


def plan_sparse(group: Group, arrays: Mapping[str, np.ndarray], machine: Machine, accuracy: str) -> SparsePlan | None:
    """How to multiply by the constant of a group without its zeros; None where the dense kernel is surely as good."""
    if not any(b.name in arrays and _is_sparse(arrays[b.name]) for b in group.params):
        return None
    found = find_sparse_product(group)
    if found is None or found[0].weights not in arrays:
        return None
    product, (work, right, columns) = found
    matrix = weight_matrix(work, right, columns, arrays[product.weights])
    rows = typical(product.rows, group.symbols)
    if rows < machine.lanes("f32") or machine.lanes("f32") < 4 or matrix.shape[1] < 4:
        return None
    left = next(b for b in group.params if b.name == product.left)
    dot = find_dot(left.dtype, matrix.dtype.name.replace("int", "i"), work.acc, machine) if work.acc == "i32" else None
    if work.acc == "i32" and dot is None:
        return None
    forms = [(product, matrix)]
    words = None if dot is None or DTYPES[left.dtype].size != 1 else _words(group, dot)
    if words is not None:
        forms.append((words, words_of(matrix, words.word)))
    best: tuple[float, SparseProduct, SparseWeights, int, Shape] | None = None
    for form, steps in forms:
        kept = np.ascontiguousarray(steps.T != 0)
        for shape in _shapes(machine, form, dot):
            cycles, layout, width = _candidate(form, kept, shape, machine, dot, rows)
            if best is None or cycles < best[0]:
                best = cycles, form, SparseWeights(steps, layout), width, shape
    dense = _dense_cycles(group, product, matrix, machine, accuracy, dot, rows)
    if best is None or best[0] * NEAR > dense:
        return None
    density = np.count_nonzero(matrix) / matrix.size
    cycles, form, weights, width, shape = best
    plan = SparsePlan(form, weights, width, pattern_of(matrix), density, dense, cycles, dot, arrays[product.weights])
    if isinstance(product.rows, int):
        return plan
    plan = replace(plan, width=shape[1] * machine.lanes("f32"))
    least = _least_rows(group, plan, matrix, machine, accuracy, shape)
    return None if least is None or least > rows else replace(plan, least=least)


def _least_rows(
    group: Group, plan: SparsePlan, matrix: np.ndarray, machine: Machine, accuracy: str, shape: Shape
) -> int | None:
    """The least number of open rows from which on a gain is expected; None if there is none."""
    kept = np.ascontiguousarray(plan.weights.matrix.T != 0)

    def gains(rows: int) -> bool:
        covered = -(-rows // machine.lanes("f32")) * machine.lanes("f32")
        sparse = _candidate(plan.product, kept, shape, machine, plan.dot, covered)[0]
        return _dense_cycles(group, plan.product, matrix, machine, accuracy, plan.dot, rows) >= WORTH * sparse

    sizes = [n for n in ROWS if n >= plan.width]
    worth = [gains(n) for n in sizes]
    if not worth[-1]:
        return None
    return sizes[next((n + 1 for n in reversed(range(len(sizes))) if not worth[n]), 0)]


def _words(group: Group, dot: Dot) -> SparseProduct | None:
    """The product in steps of as many neighbours as the instruction adds."""
    p = find_product(without_empty_sum(group.computes[0]))
    if p is None:
        return None
    if any(map(is_open, (*p.compute.axes, *p.compute.reduce))):
        return open_product(p, dot.count)
    return product_of_words(p.compute, p, dot.count)


def _mixed(product: SparseProduct, dot: Dot | None) -> Dot | None:
    """The instruction, if its operands have to be interleaved: words are read as they lie, as floats are."""
    return None if product.word > 1 else dot


def block_heights(plan: SparsePlan, machine: Machine) -> tuple[int, ...]:
    """Of the kernels that the machine's registers hold."""
    return tuple(r for r, _, _ in _shapes(machine, plan.product, plan.dot))


def at_height(plan: SparsePlan, height: int, machine: Machine) -> SparsePlan:
    """The same weights in blocks of another height.  Raises OptionError for one that the machine has no kernel for."""
    if height == plan.weights.layout.block:
        return plan
    shape = next((s for s in _shapes(machine, plan.product, plan.dot) if s[0] == height), None)
    if shape is None:
        raise OptionError(f"tuning: {machine.name} has no sparse kernel for blocks of {height}; remove the entry, or tune "
                          "again")
    matrix = plan.weights.matrix
    kept = np.ascontiguousarray(matrix.T != 0)
    rows = plan.product.rows
    assert isinstance(rows, int)
    cycles, layout, width = _candidate(plan.product, kept, shape, machine, plan.dot, rows)
    return replace(plan, weights=SparseWeights(matrix, layout), width=width, sparse=cycles)


def find_sparse_product(group: Group) -> Found | None:
    """The product with constant weights that a group is, if it has a sparse form."""
    if group.op is not None or len(group.computes) != 1:
        return None
    c = without_empty_sum(group.computes[0])
    pair = None if c.is_map else operands(c)
    if pair is None or (c.acc != "i32" and (c.acc != "f32" or any(x.type.dtype != "f32" for x in pair))):
        return None
    found = _window(c) or _matrix(c)
    constant = found is not None and found[0].weights in group.constants and found[0].left not in group.constants
    return found if constant else None


def _is_sparse(array: np.ndarray) -> bool:
    return array.size >= SMALLEST and int(np.count_nonzero(array)) <= MOST_DENSITY * array.size


def _window(c: Compute) -> Found | None:
    pair = operands(c)
    if pair is None or any(map(is_open, (*c.axes, *c.reduce))):
        return None
    for left, right in (pair, pair[::-1]):
        product = window_product(c, left, right)
        if product is not None and prod(size_of(v) for v in c.reduce[:2]) > 1:
            return product, (c, right, product.columns)
    return None


def _matrix(c: Compute) -> Found | None:
    p = find_product(c)
    if p is None:
        return None
    opened = any(map(is_open, (*p.compute.axes, *p.compute.reduce)))
    product = open_product(p) if opened else matrix_product(p.compute, p)
    return None if product is None else (product, (p.compute, p.right, p.columns))


def _shapes(machine: Machine, product: SparseProduct, dot: Dot | None) -> tuple[Shape, ...]:
    mixed = sparse_integers.SHAPES if dot is not None else SHAPES
    table = WORD_SHAPES if product.word > 1 else mixed
    return table[max(n for n in table if n <= machine.vector_registers)]


def _candidate(
    product: SparseProduct, kept: np.ndarray, shape: Shape, machine: Machine, dot: Dot | None, rows: int
) -> tuple[float, Layout, int]:
    """(expected cycles for so many rows, layout, rows of a panel) with blocks of this shape.  kept[outputs, depth]."""
    dot = _mixed(product, dot)
    block, vectors, bundle = shape
    lanes = machine.lanes("f32")
    columns, depth = kept.shape
    width = min(vectors * lanes, rows)
    tile = _tile(product, block, vectors * lanes, machine, dot)
    chunk = min(CHUNK, -(-columns // max(lanes, block)) * max(lanes, block))
    whole = columns // block * block
    blocks = int(kept[:whole].reshape(-1, block, depth).any(axis=1).sum()) + int(kept[whole:].any(axis=0).sum())
    groups = -(-columns // block) * -(-depth // tile)
    rows_load = 1.0 if product.copy is None else UNALIGNED
    overhead = WORD_OVERHEAD if product.word > 1 else BLOCK_OVERHEAD[block]
    per_group = BUNDLED_CYCLES if bundle > 1 else GROUP_CYCLES
    total = 0.0
    for count, some in ((rows // width, width), (1, rows % width)):
        v = -(-some // lanes)
        if dot is None:
            each = max(block * v / 2, (rows_load * v + 1 + block / bundle) / 2, LEAST_CYCLES / bundle) * overhead
        else:  # blocks are filled up to whole groups: half a group each on average
            each = sparse_integers.cycles_of_group(block, v, dot.count, machine) / dot.count
            total += count * groups * each * (dot.count - 1) / 2 if some else 0.0
        total += count * (blocks * each + groups * (per_group + block * v)) if some else 0.0
    total += TURN_CYCLES * rows * columns / lanes
    copied = rows * depth if product.copy is None else prod(product.copy.shape) / product.images
    per_vector = sparse_integers.COPY_CYCLES if dot is not None else TURN_CYCLES
    total += (per_vector if product.copy is None or product.line else COPY_CYCLES) * copied / lanes
    return product.images * total, Layout(block, chunk, tile, 1 if dot is None else dot.count, bundle), width


def _tile(product: SparseProduct, block: int, width: int, machine: Machine, dot: Dot | None) -> int:
    """Steps of the reduction that the first-level cache holds of a panel; all where a block hides the second level."""
    if dot is None and block >= COARSE:
        return product.depth
    row = 4 * width if dot is None else width * 4 // dot.count
    row = row if product.copy is None else max(row, 64)  # rows of a copy without panels lie on lines of their own
    return min(product.depth, max(16, machine.l1 * 2 // 3 // row))


def _dense_cycles(
    group: Group, product: SparseProduct, matrix: np.ndarray, machine: Machine, accuracy: str, dot: Dot | None, rows: int
) -> float:
    """Of the dense kernel that would be chosen for so many rows."""
    c = without_empty_sum(group.computes[0])
    some = rows
    rows = rows if not product.line else rows // product.line * product.valid + product.valid
    direct = product.images * rows * matrix.size / (2 * machine.lanes("f32")) / DENSE_SHARE
    if dot is not None:
        return direct / dot.count
    if accuracy != "strict" and is_transformable(c):
        return min(direct, winograd_cycles(c, machine))
    halved = halved_product(group, c, machine) if accuracy != "strict" else None
    return direct * HALVED if halved is not None and is_worth_halving(halved, machine, some) else direct


def pattern_of(matrix: np.ndarray) -> str:
    """The pattern of the zeros in W[depth, outputs], in words: blocks along the outputs, N:M along the depth."""
    depth, columns = matrix.shape
    kept = matrix != 0
    count = max(1, int(kept.sum()))
    alive = kept[kept.any(axis=1)][:, kept.any(axis=0)]
    words = [f"{n} zero {name}" for n, name in (
        (depth - alive.shape[0], "inputs"), (columns - alive.shape[1], "outputs")) if n]
    if alive.all():
        return ", ".join(words) or "dense"
    if matrix.dtype == np.int8 and depth % 4 == 0:
        deep = kept.reshape(depth // 4, 4, columns).any(axis=1).T
        for block in (16, 8, 4):
            if columns % block == 0 and 4 * block * int(deep.reshape(-1, block, depth // 4).any(axis=1).sum()) <= count * DEEP:
                return ", ".join((f"{block}x4 blocks", *words))
    for block in (16, 8, 4, 2):
        if columns % block == 0 and int(kept.T.reshape(-1, block, depth).any(axis=1).sum()) * block <= count * 1.02:
            return ", ".join((f"{block}x1 blocks", *words))
    for n, m in ((1, 4), (2, 4), (4, 8)):
        if depth % m == 0 and int(kept.reshape(-1, m, columns).sum(axis=1).max()) <= n:
            return ", ".join((f"{n}:{m}", *words))
    return ", ".join(("unstructured", *words))
