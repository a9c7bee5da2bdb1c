"""Stores as C-like text, and the lines that all statements become.

    a scalar                          place = value;   place += value; where a float is added to itself
    a vector, all of it in memory     *(vec<float, 4> *)&y[i] = *(const vec<float, 4> *)&x[i];
    any other vector                  the vectors that it reads, a loop over lanes, the vector that it writes
    "async"                           cp_async<bytes>(to, from, condition);
"""

from __future__ import annotations

from collections.abc import Callable

from ..ir.expr import Bin, Const, Expr, Fma, Load, Select
from ..ir.kernel import Buffer, Store
from ..ir.traverse import walk
from ..ir.types import DTYPES
from .c_address import place_roots
from .c_dialect import Dialect, identifier, unsupported
from .c_expr import ExprPrinter, printed_nodes
from .c_wrap import wrap_statement

_PLAIN_ASSIGN = {"add": "+=", "sub": "-=", "mul": "*="}


class StorePrinter:
    """lines: what was printed, at `depth` of blocks.  taken: the C names in use.  e: the expressions."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.lines: list[str] = []
        self.depth = 1
        self.taken: set[str] = set()
        self.count = 0
        self.turn = ""  # the variable of the loop over the lanes of a vector
        self.e = ExprPrinter(dialect, self.line, self.fresh)

    def line(self, text: str) -> None:
        self.lines += wrap_statement(text, "    " * self.depth)

    def fresh(self, base: str) -> str:
        self.count += 1
        return identifier(f"{base}{self.count}", self.taken)

    def store(self, s: Store, followed: bool) -> None:
        if s.mode == "async":
            self.copy_async(s)
            return
        if s.mode:
            raise unsupported(f"a store of mode {s.mode!r}")
        self.e.begin(*place_roots(s.buf, s.idx), s.value)
        if s.value.type.lanes > 1:
            self.store_vector(s)
            return
        place = self.e.place(s.buf, s.idx)
        more = self._update(s)
        if more is not None:
            op, value = more
            self.line(f"{place} {op} {self.e.expr(value)};")
            return
        self.line(f"{place} = {self.e.expr(s.value)};")

    def _update(self, s: Store) -> tuple[str, Expr] | None:
        """(op, x) of a store `place = place op x` of floats."""
        v = s.value
        if not isinstance(v, Bin) or v.op not in _PLAIN_ASSIGN or v.type.dtype not in ("f32", "f64") or v in self.e.values:
            return None
        own = isinstance(v.a, Load) and v.a.buf == s.buf and v.a.idx == s.idx and v.a.type == v.type
        return (_PLAIN_ASSIGN[v.op], v.b) if own else None

    def vector_type(self, dtype: str, lanes: int) -> str:
        return f"vec<{self.e.ctype(dtype)}, {lanes}>"

    def pointer(self, buf: Buffer, idx: tuple[Expr, ...], dtype: str, lanes: int, const: bool) -> str:
        """A vector in memory, as an lvalue."""
        return f"*({'const ' if const else ''}{self.vector_type(dtype, lanes)} *)&{self.e.place(buf, idx)}"

    def store_vector(self, s: Store) -> None:
        value, lanes = s.value, s.value.type.lanes
        scattered = any(i.type.lanes > 1 for i in s.idx)
        whole = not scattered and s.buf.space not in ("register", "stack")
        if whole and isinstance(value, Load) and _is_whole(value):
            source = self.pointer(value.buf, value.idx, value.type.dtype, lanes, True)
            self.line(f"{self.pointer(s.buf, s.idx, value.type.dtype, lanes, False)} = {source};")
            return
        self.turn = identifier("i", self.taken)
        nodes = printed_nodes(*place_roots(s.buf, s.idx), value)
        for n in nodes:
            if isinstance(n, Load) and n.type.lanes > 1 and _is_whole(n):
                name = self.fresh("piece")
                self.line(f"const {self.vector_type(n.type.dtype, lanes)} {name} = "
                          f"{self.pointer(n.buf, n.idx, n.type.dtype, lanes, True)};")
                self.e.values[n] = f"{name}.v[{self.turn}]"
        result = ""
        target = self.pointer(s.buf, s.idx, value.type.dtype, lanes, False) if whole else ""
        if whole or reads(value, s.buf):
            result = self.fresh("result")
            self.line(f"{self.vector_type(value.type.dtype, lanes)} {result};")
        self.lanes(lanes, lambda: self.line(f"{f'{result}.v[{self.turn}]' if result else self.lane_place(s, scattered)} = "
                                            f"{self.e.expr(value)};"), nodes)
        if whole:
            self.line(f"{target} = {result};")
        elif result:
            self.lanes(lanes, lambda: self.line(f"{self.lane_place(s, scattered)} = {result}.v[{self.turn}];"), [])
        self.e.values = {}

    def lane_place(self, s: Store, scattered: bool) -> str:
        return self.e.place(s.buf, s.idx, "" if scattered else self.turn)

    def lanes(self, count: int, body: Callable[[], None], nodes: list[Expr]) -> None:
        """A loop over the lanes of vectors, in which the vectors that are used more than once have names."""
        if "unroll" in self.dialect.before:
            self.line(self.dialect.before["unroll"])
        self.line(f"for (int {self.turn} = 0; {self.turn} < {count}; ++{self.turn}) {{")
        self.depth += 1
        self.e.lane = self.turn
        self.e.name_shared(nodes, count)
        body()
        self.e.lane = ""
        self.depth -= 1
        self.line("}")

    def copy_async(self, s: Store) -> None:
        """`cp_async<bytes>(to, from)`; a selection between a load and zero becomes a third argument, the condition."""
        value, cond = s.value, None
        if isinstance(value, Select) and isinstance(value.a, Load) and _is_zero(value.b):
            cond, value = value.cond, value.a
        if not isinstance(value, Load) or s.buf.space != "shared" or value.buf.space != "global":
            raise unsupported(f"an asynchronous store to {s.buf.name} must copy from global to shared memory")
        size = DTYPES[value.type.dtype].size * value.type.lanes
        places = (*place_roots(s.buf, s.idx), *place_roots(value.buf, value.idx))
        self.e.begin(*places, *(() if cond is None else (cond,)))
        guard = "" if cond is None else f", {self.e.expr(_scalar(cond))}"
        self.line(f"cp_async<{size}>(&{self.e.place(s.buf, s.idx)}, &{self.e.place(value.buf, value.idx)}{guard});")


def _is_whole(e: Load) -> bool:
    """Whether a vector load is one access to memory."""
    return e.buf.space not in ("register", "stack") and all(i.type.lanes == 1 for i in e.idx)


def _is_zero(e: Expr) -> bool:
    inner = e
    while not isinstance(inner, Const) and hasattr(inner, "a") and not isinstance(inner, Fma | Bin):
        inner = inner.a  # type: ignore[attr-defined]
    return isinstance(inner, Const) and inner.value == 0


def _scalar(cond: Expr) -> Expr:
    """The condition of all lanes."""
    return cond.a if type(cond).__name__ == "Splat" else cond  # type: ignore[attr-defined]


def reads(value: Expr, buf: Buffer) -> bool:
    return any(isinstance(n, Load) and n.buf == buf for n in walk(value))
