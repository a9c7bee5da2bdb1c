"""Leaf kernels as Verilog: what the HLS C++ of a process computes every cycle, to be simulated and mapped by open tools.

These modules are not part of a project.  They exist to check the integers in a hardware language, and the counts of
`targets/fpga/estimate.py` against a synthesis tool that anyone can install; see tests/targets/test_fpga_rtl.py.
All ports are packed vectors, element 0 in the lowest bits; all outputs are registers.
"""

from __future__ import annotations

from .dot import Dot
from .fixed import Fixed
from .shift_add import Adders, Term
from .table import GUARD, Table
from .window import Window


def _vector(bits: int) -> str:
    return f"[{bits - 1}:0]"


def _sign(type: Fixed) -> str:
    return "signed " if type.signed else ""


def _element(port: str, index: int, type: Fixed) -> str:
    """Element of a packed port as a signed expression."""
    part = f"{port}[{index * type.bits} +: {type.bits}]"
    return f"$signed({part})" if type.signed else f"$signed({{1'b0, {part}}})"


def dot_verilog(p: Dot) -> str:
    """clk, enable, first, x[simd], w[pe * simd], bias[pe] -> acc[pe]: the products of one cycle of a folded `Dot`."""
    x, w, acc = p.inputs[0].type, p.weight_type, p.body.inputs[0]
    lines = []
    for o in range(p.pe):
        products = [f"{_element('x', i, x)} * {_element('w', o * p.simd + i, w)}" for i in range(p.simd)]
        part = f"acc[{o * acc.bits} +: {acc.bits}]"
        old = f"$signed(first ? bias[{o * acc.bits} +: {acc.bits}] : {part})"
        lines.append(f"    if (enable) {part} <= {' + '.join([old, *products])};")
    body = "\n".join(lines)
    return f"""module {p.name} (
  input clk, input enable, input first,
  input {_vector(p.simd * x.bits)} x, input {_vector(p.pe * p.simd * w.bits)} w,
  input {_vector(p.pe * acc.bits)} bias, output reg {_vector(p.pe * acc.bits)} acc);
  always @(posedge clk) begin
{body}
  end
endmodule
"""


def adders_verilog(name: str, a: Adders, x: Fixed, bits: int) -> str:
    """clk, x[operands] -> y[rows] of so many bits: products with constants as shifts and additions."""
    lines = [f"  wire signed {_vector(x.bits + 1)} v{i} = {_element('x', i, x)};" for i in range(a.operands)]

    def term(t: Term) -> str:
        text = f"(v{t[0]} <<< {t[1]})" if t[1] else f"v{t[0]}"
        return f"-{text}" if t[2] < 0 else text

    for n, adder in enumerate(a.adders, a.operands):
        width = max(adder.type.bits + 1, 2)
        lines.append(f"  wire signed {_vector(width)} v{n} = {term(adder.left)} + {term(adder.right)};")
    outs = [f"    y[{o * bits} +: {bits}] <= {'0' if t is None else term(t)};" for o, t in enumerate(a.sums)]
    new = "\n"
    return f"""module {name} (input clk, input {_vector(a.operands * x.bits)} x, output reg {_vector(len(a.sums) * bits)} y);
{new.join(lines)}
  always @(posedge clk) begin
{new.join(outs)}
  end
endmodule
"""


def table_verilog(t: Table) -> str:
    """clk, x -> y two cycles later: the memories are read, then interpolated."""
    start, slope, r = t.start_type, t.slope_type, t.result
    shift, bits, wide = t.rest + GUARD, t.operand.bits, t.wide_type.bits + 1
    index = f"at[{bits - 1}:{t.rest}]"
    rows = "\n".join(f"    start[{n}] = {int(s) & (2**start.bits - 1)};" for n, s in enumerate(t.start))
    slopes = "\n".join(f"    slope[{n}] = {int(s) & (2**slope.bits - 1)};" for n, s in enumerate(t.slope)) if t.rest else ""
    part = f"$signed({{1'b0, at[{t.rest - 1}:0]}})" if t.rest else "0"
    base = "$signed(s)" if start.signed else "$signed({1'b0, s})"
    factor = "$signed(m)" if slope.signed else "$signed({1'b0, m})"
    return f"""module {t.name} (input clk, input {_sign(t.operand)}{_vector(bits)} x, output reg {_vector(r.bits)} y);
  reg {_vector(start.bits)} start [0:{len(t.start) - 1}];
  reg {_vector(slope.bits)} slope [0:{len(t.start) - 1}];
  initial begin
{rows}
{slopes}
  end
  wire {_vector(bits)} at = x - {bits}'d{t.operand.low & (2**bits - 1)};
  reg {_vector(start.bits)} s;
  reg {_vector(slope.bits)} m;
  reg signed {_vector(t.rest + 1)} part;
  wire signed {_vector(wide)} sum = ({base} <<< {t.rest}) + {f'{factor} * part' if t.rest else '0'} + {1 << (shift - 1)};
  wire signed {_vector(wide)} z = sum >>> {shift};
  always @(posedge clk) begin
    s <= start[{index}];
    m <= {f'slope[{index}]' if t.rest else '0'};
    part <= {part};
    y <= z < {_literal(r.low)} ? {_literal(r.low)} : z > {_literal(r.high)} ? {_literal(r.high)} : z;
  end
endmodule
"""


def _literal(n: int) -> str:
    return f"-{-n}" if n < 0 else str(n)


def pool_verilog(name: str, fn: str, x: Fixed, acc: Fixed, lanes: int) -> str:
    """clk, enable, first, x[lanes] -> acc[lanes]: the running maximum or sum of a window."""
    lines = []
    for o in range(lanes):
        part, value = f"acc[{o * acc.bits} +: {acc.bits}]", _element("x", o, x)
        old = f"$signed({part})" if acc.signed else f"$signed({{1'b0, {part}}})"
        more = f"({value} > {old} ? {value} : {old})" if fn == "max" else f"{old} + {value}"
        lines.append(f"    if (enable) {part} <= first ? {value} : {more};")
    body = "\n".join(lines)
    return f"""module {name} (
  input clk, input enable, input first, input {_vector(lanes * x.bits)} x, output reg {_vector(lanes * acc.bits)} acc);
  always @(posedge clk) begin
{body}
  end
endmodule
"""


def window_verilog(p: Window) -> str:
    """clk, reset, x with valid and ready, y with valid: the windows of one image; the reader is always ready.

    The loop of the process, an iteration per cycle; the packets read and written must have the same lanes."""
    _, h, w, c = p.image
    (kh, kw), (sh, sw), (dh, dw), (oh, ow), lanes = p.kernel, p.strides, p.dilations, p.size, p.emit
    read, emitted = p.row_packets(lanes)
    per, groups, bits = max(sh * read, emitted), c // lanes, p.emit * p.inputs[0].type.bits
    order = [("tx", kw), ("ty", kh), ("c", groups), ("ox", ow)] if p.by_channel else [
        ("c", groups), ("tx", kw), ("ty", kh), ("ox", ow)]
    fill = sum((p.fill & (2**p.inputs[0].type.bits - 1)) << (n * p.inputs[0].type.bits) for n in range(lanes))
    count, close = "", ""
    for depth, (name, extent) in enumerate(order):
        pad = "  " * (depth + 4)
        count += f"{pad}if ({name} == {extent - 1}) begin\n{pad}  {name} <= 0;\n"
        close = f"{pad}end else {name} <= {name} + 1;\n" + close
    return f"""module {p.name} (
  input clk, input reset, input x_valid, output x_ready, input {_vector(bits)} x,
  output reg y_valid, output reg {_vector(bits)} y);
  reg {_vector(bits)} rows [0:{p.rows * read - 1}];
  integer u, i, in_row, in_at, in_slot, out_slot, tx, ty, c, ox;
  wire signed [31:0] row_in = {p.first} + u * {sh} + in_row;
  wire wants = u < {p.steps} && i < {sh * read} && row_in >= 0 && row_in < {h};
  wire emits = u >= {p.delay} && u < {p.delay + oh} && i < {emitted};
  wire step = !reset && u < {p.steps} && (!wants || x_valid);
  assign x_ready = wants && !reset;
  wire [31:0] slot_in = in_slot + in_row < {p.rows} ? in_slot + in_row : in_slot + in_row - {p.rows};
  wire [31:0] slot_sum = out_slot + ty * {dh};
  wire [31:0] slot_out = slot_sum < {p.rows} ? slot_sum : slot_sum - {p.rows};
  wire signed [31:0] row = (u - {p.delay}) * {sh} - {p.before[0]} + ty * {dh};
  wire signed [31:0] col = ox * {sw} - {p.before[1]} + tx * {dw};
  wire seen = row >= 0 && row < {h} && col >= 0 && col < {w};
  wire [31:0] from = slot_out * {read} + col * {groups} + c;
  wire [31:0] into = slot_in * {read} + in_at;
  always @(posedge clk) begin
    y_valid <= step && emits;
    if (step && wants) rows[into] <= x;
    if (step && emits) y <= !seen ? {bits}'d{fill} : wants && from == into ? x : rows[from];
    if (reset) begin
      u <= 0; i <= 0; in_row <= 0; in_at <= 0; tx <= 0; ty <= 0; c <= 0; ox <= 0;
      in_slot <= {p.first % p.rows}; out_slot <= {-p.before[0] % p.rows};
    end else if (step) begin
      if (i < {sh * read}) begin
        in_at <= in_at == {read - 1} ? 0 : in_at + 1;
        if (in_at == {read - 1}) in_row <= in_row + 1;
      end
      if (emits) begin
{count}{close}      end
      i <= i + 1;
      if (i == {per - 1}) begin
        i <= 0; in_row <= 0; in_at <= 0; tx <= 0; ty <= 0; c <= 0; ox <= 0;
        u <= u + 1;
        in_slot <= in_slot + {sh} < {p.rows} ? in_slot + {sh} : in_slot + {sh} - {p.rows};
        if (u >= {p.delay})
          out_slot <= out_slot + {sh} < {p.rows} ? out_slot + {sh} : out_slot + {sh} - {p.rows};
      end
    end
  end
endmodule
"""
