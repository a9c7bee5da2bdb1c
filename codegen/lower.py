"""Graph -> Program: every node of a fused graph becomes kernel calls on memory.

Values get layouts (`views`), groups become computations (`compose`), strategies schedule them, constants are packed into
the layout that the kernel reads, and the roots of the layouts get places in one arena by their lifetimes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..ir.compute import Compute
from ..ir.dims import normal_dim, symbols, volume
from ..ir.errors import InternalError, OptionError, TargetError
from ..ir.expr import load
from ..ir.graph import Graph, Node, Value
from ..ir.kernel import Buffer, axis
from ..ir.ops.base import Op, form_of
from ..ir.ops.bounded import Sized
from ..ir.ops.control import Fused
from ..ir.ops.elementwise import Binary, Unary
from ..ir.ops.movement import Broadcast, Concat, Pad, Reshape, Slice, Transpose
from ..ir.ops.refine import Refine
from ..ir.types import DTYPES, Dim, TensorType
from .arena import ALIGNMENT, Interval, plan_arena
from .barriers import synchronize
from .border import border_group
from .compose import compose
from .control_flow import lower_control, resolve_steps
from .cost import cost_at, cost_of
from .expanding import find_pairs, group_buffers, lower_pair
from .kept_sizes import keep_sizes
from .kernels import KernelTable, group_hash
from .machine_gpu import GpuMachine
from .number_tables import share_numbers
from .open_symbols import open_symbols
from .prepared import PreparedConstants
from .program import Address, Call, Cost, Placement, Program, SizedOutput, Step
from .shared_panels import SharedPanels
from .sizing import Check, Sizing, Symbol, bytes_of, checks_of, evaluate, slots_of, typical_sizes
from .storage import Place, Reference, Root, Scope, memory_dtype
from .strategies.by_machine import AnyMachine, strategies_of
from .strategies.choices import Choice
from .strategies.scheduled import Group, Pack, Scheduled
from .support import lower_support, write_texts
from .views import Layout, Views, backward_layout, dense_strides, is_dense

Progress = Callable[[int, int], None]
_LARGEST = 2**50  # bytes of a buffer at typical sizes, when their places are planned


class Lowering:
    """The state of one lowering.  Calls hold `Reference`s to roots until the arena is planned."""

    def __init__(
        self, graph: Graph, machine: AnyMachine, name: str, accuracy: str, choices: Mapping[str, Choice] | None = None,
        prepare_weights: bool = False, symbols: tuple[Symbol, ...] = (), checks: Sequence[Check] = (),
        panels: SharedPanels | None = None,
    ) -> None:
        self.panels = panels
        self.graph, self.machine, self.name = graph, machine, name
        self.symbols, self.typical, self.checks = symbols, typical_sizes(symbols), checks
        self.choices = choices or {}
        self.strategies = strategies_of(machine)
        self.kernels = KernelTable()
        self.accuracy = accuracy
        self.prepared = None
        if prepare_weights and not isinstance(machine, GpuMachine):
            self.prepared = PreparedConstants(self.kernels, machine)
        self.clock = 0
        self.arena: list[Root] = []
        self.constants: list[tuple[int, np.ndarray]] = []
        self.constant_bytes = 0
        self._packed: dict[tuple[int, Pack | None], Root] = {}
        self._transformed: tuple[np.ndarray | None, object, np.ndarray] = None, None, np.empty(0)
        self._keep: list[np.ndarray] = []  # keeps ids in _packed alive
        self.sized: list[tuple[Value, Root, SizedOutput]] = []
        self.output_types: list[TensorType] = []

    # -- memory

    def new_root(self, name: str, nbytes: Dim) -> Root:
        root = Root(name, "arena", max(nbytes, 1) if isinstance(nbytes, int) else nbytes)
        self.arena.append(root)
        return root

    def constant_root(self, array: np.ndarray, pack: Pack | None = None) -> Root:
        """The place of a constant, packed if a pack is given; each is stored once."""
        key = (id(array), pack)
        root = self._packed.get(key)
        if root is None:
            self._keep.append(array)
            data = np.ascontiguousarray(array) if pack is None else self._apply(array, pack)
            root = Root("constant", "constants", data.nbytes, offset=self.constant_bytes)
            self.constants.append((self.constant_bytes, data))
            self.constant_bytes += -(-data.nbytes // ALIGNMENT) * ALIGNMENT
            self._packed[key] = root
        return root

    def _apply(self, array: np.ndarray, pack: Pack) -> np.ndarray:
        """A packed constant.  Parts of one operand follow each other: what they are transformed into is kept for the next."""
        if pack.transform is None:
            return pack.apply(array)
        source, transform, made = self._transformed
        if source is not array or transform != pack.transform:
            made = pack.transform(array)
            self._transformed = array, pack.transform, made
        return replace(pack, transform=None).apply(made)

    def place(self, scope: Scope, v: Value) -> Place:
        """Where a value lies; constants are placed on first use."""
        layout = scope.views.layout(v)
        if layout.root not in scope.memory:
            array = scope.graph.constants.get(layout.root)
            if array is not None and layout.root.type.dtype == "str":
                root = self.text_root(scope, array)
            elif array is not None:
                root = self.constant_root(array)
            else:
                root = self.new_root(layout.root.name, bytes_of(layout.root.type))
            scope.memory[layout.root] = (root, 0)
        root, base = scope.memory[layout.root]
        return Place(root, normal_dim(base + layout.offset * DTYPES[v.type.dtype].size), layout.strides)

    def buffer(self, name: str, type: TensorType, place: Place) -> Buffer:
        """A kernel parameter for a value at a place."""
        shape, size = type.shape, DTYPES[type.dtype].size
        align = ALIGNMENT if place.root.space in ("arena", "constants") else max(size, self.machine.io_align)
        while normal_dim(place.offset % align) != 0:
            align //= 2
        strides = None if is_dense(shape, place.strides) else place.strides
        return Buffer(name, memory_dtype(type.dtype), shape, strides=strides, align=align)

    def text_root(self, scope: Scope, array: np.ndarray) -> Root:
        """Memory with the addresses of constant strings, which a step writes."""
        root = self.new_root("strings", array.size * DTYPES["str"].size)
        write_texts(self, scope, array, Place(root, 0, (1,)))
        return root

    # -- steps

    def emit(
        self, scope: Scope, made: Scheduled, places: Mapping[str, Place], node: Node, cost: Cost,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Add the call of a scheduled kernel.  places: parameter name -> memory; arrays: those that are constants."""
        packs = dict(made.packs)
        places = {**places, **{name: Place(self.new_root(name, size), 0, ()) for name, size in made.temporaries}}
        views = dict(made.views)
        for p in made.kernel.buffers:  # first: packing at run time is a step of its own
            source, first = views.get(p.name, (p.name, 0))
            if source not in places:
                array = (arrays or {}).get(packs[source].source)
                places[source] = self._pack(scope, packs[source], p, places, array, node)
            if p.name in views:
                place = places[source]
                places[p.name] = Place(place.root, place.offset + first * DTYPES[p.dtype].size, place.strides)
        args = [self.use(places[p.name]) for p in made.kernel.buffers]
        name = self.kernels.add(made.kernel)
        ops = tuple(map(_label, [n.op for n in node.op.body.nodes] if isinstance(node.op, Fused) else [node.op]))
        cost = replace(cost, schedule=made.note, key=made.key, choice=made.choice)
        scope.steps.append(Call(name, tuple(args), node.where, ops, cost))
        self.clock += 1

    def use(self, place: Place) -> Address:
        root = place.root
        if root.space == "arena":
            root.first = self.clock if root.first < 0 else root.first
            root.last = max(root.last, self.clock)
        return Reference(root, place.offset)  # type: ignore[return-value]

    def _pack(
        self, scope: Scope, pack: Pack, param: Buffer, places: Mapping[str, Place], array: np.ndarray | None, node: Node
    ) -> Place:
        """Memory with a packed operand: a constant packed now, or a temporary that a copy kernel fills at run time."""
        strides = dense_strides(pack.shape)
        if array is not None and self.prepared is not None and self.prepared.takes(pack):
            return Place(self.prepared.root(pack, param, array, self.constant_root(array)), 0, strides)
        if array is not None:
            return Place(self.constant_root(array, pack), 0, strides)
        source = places[pack.source]
        offset, steps = pack.strides_over(source.strides)
        size = DTYPES[param.dtype].size // pack.word
        steps = tuple(normal_dim(s // pack.word) for s in steps)
        type = TensorType(param.dtype, pack.shape)
        target = Place(self.new_root("packed", bytes_of(type)), 0, strides)
        self.copy(scope, type, Place(source.root, normal_dim(source.offset + offset * size), steps), target, node)
        return target

    def copy(self, scope: Scope, type: TensorType, source: Place, target: Place, node: Node) -> None:
        if 0 in type.shape:
            return
        x, y = self.buffer("x0", type, source), self.buffer("y0", type, target)
        axes = tuple(axis(f"i{n}", d) for n, d in enumerate(type.shape))
        group = Group("map", (Compute(y, axes, load(x, *axes)),), (y, x))
        self.emit(scope, self.schedule(group), {"x0": source, "y0": target}, node, self.moving(type))

    def moving(self, type: TensorType) -> Cost:
        """What it costs to copy a value."""
        return cost_at(0, bytes_of(type), bytes_of(type), self.typical)

    def schedule(self, group: Group) -> Scheduled:
        return self.kernels.scheduled(group, lambda: self._make(group))

    def _make(self, group: Group) -> Scheduled:
        key = group_hash(group, self.accuracy) if self.choices or isinstance(self.machine, GpuMachine) else ""
        choice = self.choices.get(key)
        if choice is None:
            return replace(self.strategies.schedule_group(group, self.machine, self.accuracy), key=key)
        choice = replace(choice, parts=group.choice.parts)
        made = self.strategies.schedule_group(replace(group, choice=choice), self.machine, self.accuracy)
        if self.panels is not None:
            shared = self.strategies.schedule_group(group, self.machine, self.accuracy)
            if not self.panels.takes(key, made, shared, group):
                return replace(shared, key=key)
        return replace(made, note=f"measured: {made.note}", key=key)

    # -- nodes

    def lower_scope(self, scope: Scope) -> None:
        pairs = find_pairs(self, scope)
        for node in scope.graph.nodes:
            if node in pairs:
                lower_pair(self, scope, pairs[node])
                continue
            if isinstance(node.op, Sized):
                self.lower_sized(scope, node, node.op)
                continue
            if all(0 in v.type.shape for v in node.outputs):
                continue
            if isinstance(node.op, Fused):
                self.lower_fused(scope, node)
            elif node in scope.views.copied or isinstance(node.op, Pad):
                self.lower_movement(scope, node)
            elif form_of(node.op) == "kernel":
                self.lower_irregular(scope, node)
            elif form_of(node.op) == "support":
                lower_support(self, scope, node)
            elif form_of(node.op) == "control":
                lower_control(self, scope, node)
            elif form_of(node.op) == "expand":
                raise InternalError(f"{node.op.name} at {node.where!r} was not expanded before lowering")
            elif not self.is_free(node):
                raise InternalError(f"{node.op.name} at {node.where!r} was not fused before lowering")

    def operands(
        self, scope: Scope, node: Node, letters: tuple[str, str] = ("y", "x")
    ) -> tuple[dict[str, Place], dict[Value, Buffer], dict[str, np.ndarray]]:
        """Places by parameter name, buffers by value, arrays of the parameters that are constants.  letters: of the names
        of outputs and inputs."""
        places: dict[str, Place] = {}
        buffers: dict[Value, Buffer] = {}
        arrays: dict[str, np.ndarray] = {}
        for letter, values in zip(letters, (node.outputs, node.inputs), strict=True):
            for n, v in enumerate(values):
                if v in buffers:
                    continue
                name = f"{letter}{n}"
                array = scope.graph.constants.get(v)
                if array is not None and v.type.dtype != "str":  # placed only if the kernel reads it as it is
                    arrays[name] = array
                    buffers[v] = Buffer(name, v.type.dtype, v.type.shape)
                    continue
                places[name] = self.place(scope, v)
                buffers[v] = self.buffer(name, v.type, places[name])
        return places, buffers, arrays

    def lower_fused(self, scope: Scope, node: Node) -> None:
        assert isinstance(node.op, Fused)
        body = node.op.body
        places, outer, arrays = self.operands(scope, node)
        buffers = group_buffers(node, outer)
        if node.op.kind == "attention":
            (inner,) = body.nodes
            operands = tuple(buffers[v] for v in inner.inputs)
            own = {buffers[v].name: array for v, array in body.constants.items()}  # a mask of one number
            arrays.update(own)
            params = (*outer.values(), *(b for b in operands if b.name in own))
            group = Group("attention", (), params, inner.op, operands)
        else:
            computes = compose(body, buffers, node.op.kind)
            group = Group(node.op.kind, computes, tuple(outer.values()), constants=frozenset(arrays), symbols=self.symbols)
            group = self.strategies.with_sparsity(group, arrays, self.machine, self.accuracy)
        group = replace(group, symbols=self.symbols)
        if self.panels is not None:
            group = replace(group, choice=self.panels.choice(arrays))
        made = self.schedule(group)
        if self.panels is not None:
            self.panels.keep(made, arrays)
        self.place_constants(made, places, arrays)
        self.emit(scope, made, places, node, cost_of(node, self.typical), arrays)

    def place_constants(self, made: Scheduled, places: dict[str, Place], arrays: Mapping[str, np.ndarray]) -> None:
        for p in made.kernel.buffers:
            if p.name in arrays:
                array = arrays[p.name]
                places[p.name] = Place(self.constant_root(array), 0, dense_strides(array.shape))

    def lower_irregular(self, scope: Scope, node: Node) -> None:
        places, buffers, arrays = self.operands(scope, node)
        outs, ins = (tuple(buffers[v] for v in vs) for vs in (node.outputs, node.inputs))
        made = self.strategies.schedule_irregular(node.op, outs, ins, self.machine)
        self.place_constants(made, places, arrays)
        self.emit(scope, made, places, node, cost_of(node, self.typical), arrays)

    def lower_movement(self, scope: Scope, node: Node) -> None:
        """The copies that the layout could not avoid, and the border of a Pad."""

        target = self.place(scope, node.outputs[0])
        out = node.outputs[0]
        if isinstance(node.op, (Concat, Pad)):
            for n in scope.views.copied.get(node, ()):
                v = node.inputs[n]
                inside = backward_layout(node, n, Layout(out, 0, target.strides))
                offset = normal_dim(target.offset + inside.offset * DTYPES[out.type.dtype].size)
                place = Place(target.root, offset, inside.strides)
                self.copy(scope, v.type, self.place(scope, v), place, node)
            if isinstance(node.op, Pad):
                value = scope.graph.constants[node.inputs[1]].reshape(-1)[0]
                group = border_group(node.op, self.buffer("y0", out.type, target), node.inputs[0].type, value)
                cost = cost_at(0, 0, bytes_of(out.type) // 8, self.typical)
                self.emit(scope, self.schedule(group), {"y0": target}, node, cost)
            return
        x = node.inputs[0]
        source = self.place(scope, x)
        bx, by = self.buffer("x0", x.type, source), self.buffer("y0", out.type, target)
        group = Group("map", (node.op.compute(by, bx),), (by, bx))
        self.emit(scope, self.schedule(group), {"x0": source, "y0": target}, node, cost_of(node, self.typical))

    def lower_sized(self, scope: Scope, node: Node, op: Sized) -> None:
        """Write a result in its size, and the size."""
        (v,), (x, sizes) = node.outputs, node.inputs
        places = [(root, facts) for value, root, facts in self.sized if value is v]
        if not places:
            raise TargetError(
                f"target {self.machine.name}: {v.name} at {node.where!r} is {v.type}: how large that is, is only known when it "
                "runs; a branch or loop cannot give it: make its operands constants, or run the model with the interpreter"
            )
        for root, facts in places:
            told = Root(f"{v.name}.shape", "output", sizes.type.nbytes, facts.told)
            flat = TensorType(x.type.dtype, (volume(x.type.shape),))
            operands = {
                "y0": (flat, Place(root, 0, (1,))), "y1": (sizes.type, Place(told, 0, (1,))),
                "x0": (x.type, self.place(scope, x)), "x1": (sizes.type, self.place(scope, sizes)),
            }
            y, shape, data, size = (self.buffer(name, type, place) for name, (type, place) in operands.items())
            made = self.strategies.schedule_irregular(op, (y, shape), (data, size), self.machine)
            at = {name: place for name, (_, place) in operands.items()}
            self.emit(scope, made, at, node, self.moving(x.type))

    # -- the program

    def run(self) -> Program:
        scope = Scope(self.graph, Views(self.graph, self.is_free))
        for n, v in enumerate(self.graph.inputs):
            scope.memory[v] = (Root(v.name, "input", bytes_of(v.type), n), 0)
        later: list[tuple[Value, Root]] = []
        makers = self.graph.producers
        for n, v in enumerate(self.graph.outputs):
            sized = v in makers and isinstance(makers[v].op, Sized)
            type = makers[v].inputs[0].type if sized else v.type
            self.output_types.append(type)
            root = Root(v.name, "output", bytes_of(type), n)
            if sized:
                told = len(self.graph.outputs) + len(self.sized)
                self.sized.append((v, root, SizedOutput(n, told, v.type.shape)))
                continue
            if v in scope.memory or v in self.graph.constants:
                later.append((v, root))
            else:
                scope.memory[v] = (root, 0)
        self.lower_scope(scope)
        for v, root in later:  # an output that is an input, a constant, or another output
            node = Node(Reshape(v.type.shape), (v,), (v,), v.name)
            self.copy(scope, v.type, self.place(scope, v), Place(root, 0, dense_strides(v.type.shape)), node)
        return self._finish(scope.steps)

    @staticmethod
    def is_free(node: Node) -> bool:
        """A movement node outside of any group: fusion left it to the memory layout."""
        return isinstance(node.op, (Reshape, Transpose, Slice, Broadcast, Concat, Refine)) or (
            isinstance(node.op, Pad) and node.op.mode == "constant"
        )

    def _finish(self, steps: list[Step]) -> Program:
        kept = [] if self.prepared is None else self.prepared.roots
        for root in kept:
            root.first, root.last = 0, self.clock
        used = kept + [r for r in self.arena if r.first >= 0]
        lives = [Interval(min(evaluate(r.nbytes, self.typical), _LARGEST), r.first, r.last) for r in used]
        offsets, total = plan_arena(lives)
        for root, offset in zip(used, offsets, strict=True):
            root.offset = offset
        sizing = self._sizing(used, lives, offsets) if self.symbols else None
        placed = zip(used, offsets, lives, strict=True)
        placements = tuple(Placement(r.name, at, i.size, r.first, r.last) for r, at, i in placed)
        io = (
            tuple((v.name, v.type) for v in self.graph.inputs),
            tuple(zip(self.graph.output_names, self.output_types, strict=True)),
        )
        scratch = max((evaluate(n, self.typical) for n in self.kernels.scratch_bytes()), default=0)
        return Program(
            self.name, self.kernels.kernels, resolve_steps(steps), io[0], io[1], tuple(self.constants),
            self.constant_bytes, total, scratch, placements,
            prepare=() if self.prepared is None else resolve_steps(self.prepared.steps),
            sized=tuple(facts for _, _, facts in self.sized), sizing=sizing,
        )

    def _sizing(self, used: list[Root], lives: list[Interval], offsets: list[int]) -> Sizing:
        slots, numbers = slots_of(lives, offsets, [r.nbytes for r in used])
        for root, number in zip(used, numbers, strict=True):
            root.offset, root.slot = 0, number
        volumes = [bytes_of(t) for t in (*(v.type for v in self.graph.inputs), *self.output_types)] + [r.nbytes for r in used]
        open_ones = tuple(dict.fromkeys(d for d in volumes if not isinstance(d, int)))
        known = {s.var for s in self.symbols}
        found = {(c.value, c.equal): c for c in (*self.checks, *checks_of(self.graph)) if known.issuperset(symbols([c.value]))}
        checks = tuple(found.values())
        return Sizing(self.symbols, checks, slots, self.kernels.scratch_bytes(), open_ones)


def lower(
    graph: Graph, machine: AnyMachine, name: str = "model", *, accuracy: str = "default",
    choices: Mapping[str, Choice] | None = None, prepare_weights: bool = False,
    ranges: Mapping[str, tuple[int, int | None]] | None = None, checks: Sequence[Check] = (),
    panels: SharedPanels | None = None,
) -> Program:
    """Lower a fused graph.  choices: measured numbers for groups, by `group_hash`.  prepare_weights: let
    instances transform weights when they are created, instead of storing them transformed.  ranges: the least and largest
    sizes of symbolic dimensions, by name; a processor's program takes their sizes at run time.  checks: what the sizes must
    fulfil beside what the graph itself says: that of the model before its passes.  panels: of other programs of the model.

    Raises TargetError for what a machine cannot run with open dimensions, OptionError for a choice that does not fit its
    group."""
    free = open_symbols(graph, machine, ranges or {})
    if free and prepare_weights:
        raise OptionError(
            f"transform_weights=create with the open dimensions {', '.join(s.var.name for s in free)}: instances make weights "
            "before they know any sizes; bind the dimensions (--dim NAME=N), or use transform_weights=compile"
        )
    program = Lowering(graph, machine, name, accuracy, choices, prepare_weights, free, checks, panels).run()
    if not isinstance(machine, GpuMachine):
        return synchronize(program, machine)
    return share_numbers(keep_sizes(program))


def _label(op: Op) -> str:
    """What people call an operator: elementwise ones by their function."""
    return op.fn if isinstance(op, Unary | Binary) else op.name
