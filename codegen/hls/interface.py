"""The ports of a top function: memory that it reads and writes itself (m_axi), or AXI4 streams (axis).

A transfer carries `beat` elements, each in the narrowest C integer that holds its codes, the first one lowest: in memory that
is an array of these integers whatever the beat is.  An AXI4 stream ends every frame with TLAST.
"""

from __future__ import annotations

from dataclasses import dataclass

from .design import Design
from .fixed import Fixed
from .tensor import Tensor

INTERFACES = ("m_axi", "axis")


def word(type: Fixed) -> str:
    """The C integer that holds codes of a type in memory."""
    bits = word_bits(type)
    return f"{'' if type.signed else 'u'}int{bits}_t"


def word_bits(type: Fixed) -> int:
    return next(b for b in (8, 16, 32, 64) if b >= type.bits)


@dataclass(frozen=True, eq=False)
class Port:
    """lanes: elements per packet of the stream behind it; beat: elements per transfer, which divides lanes."""

    tensor: Tensor
    name: str
    lanes: int
    beat: int
    is_input: bool

    @property
    def word(self) -> str:
        return word(self.tensor.type)

    @property
    def transfers(self) -> int:
        """Of a frame."""
        return self.tensor.size // self.beat

    @property
    def packet(self) -> str:
        return f"tw::vec<{self.tensor.type.cpp}, {self.lanes}>"

    @property
    def of(self) -> str:
        """What the templates of a transfer are given."""
        return f"{self.word}, {self.beat}"

    # what differs between the interfaces: here those of memory

    @property
    def element(self) -> str:
        """The C++ type of a transfer."""
        return self.word if self.beat == 1 else f"tw::vec<{self.of}>"

    @property
    def parameter(self) -> str:
        return f"{'const ' * self.is_input}{self.element}* {self.name}"

    def pragmas(self, n: int) -> list[str]:
        return [f"#pragma HLS INTERFACE m_axi port={self.name} offset=slave bundle=gmem{n} depth={self.transfers}",
                f"#pragma HLS INTERFACE s_axilite port={self.name}"]

    def mover(self) -> str:
        """The process between the port and its stream."""
        if self.is_input:
            return self._loaded("const auto w = from[i];", "w" if self.beat == 1 else "w.v[l]")
        if self.beat == 1:
            return self._stored(f"to[i] = {self.word}(x.v[p]);")
        return self._stored(f"{self.element} w;\n{self._words}\n    to[i] = w;")

    @property
    def _words(self) -> str:
        """The transfer w made of part p of packet x."""
        at = f"p * {self.beat} + l" if self.lanes > self.beat else "l"
        return f"""    for (int l = 0; l < {self.beat}; ++l) {{
#pragma HLS UNROLL
      w.v[l] = {self.word}(x.v[{at}]);
    }}"""

    def _loaded(self, read: str, value: str) -> str:
        made = f"{self.tensor.type.cpp}({value})"
        fill = f"    x.v[0] = {made};" if self.lanes == 1 else f"""    for (int l = 0; l < {self.lanes}; ++l) {{
#pragma HLS UNROLL
      x.v[l] = {made};
    }}"""
        return f"""static void load_{self.name}({self._end('from')}, tw::stream<{self.packet}>& to) {{
  for (int i = 0; i < {self.transfers}; ++i) {{
#pragma HLS PIPELINE II=1
    {read}
    {self.packet} x;
{fill}
    to.write(x);
  }}
}}
"""

    def _stored(self, write: str) -> str:
        parts = self.lanes // self.beat
        get = f"if (p == 0) x = from.read();\n    {write}\n    p = p == {parts - 1} ? 0 : p + 1;" if parts > 1 else (
            f"x = from.read();\n    {write.replace('x.v[p]', 'x.v[0]')}")
        count = "  int p = 0;\n" * (parts > 1)
        return f"""static void store_{self.name}(tw::stream<{self.packet}>& from, {self._end('to')}) {{
  {self.packet} x;
{count}  for (int i = 0; i < {self.transfers}; ++i) {{
#pragma HLS PIPELINE II=1
    {get}
  }}
}}
"""

    def _end(self, name: str) -> str:
        return f"{'const ' * self.is_input}{self.element}* {name}"

    # the test bench: codes come from `next()` of a file

    def declared(self) -> str:
        return f"static {self.element} {self.name}[{self.transfers}];"

    def filled(self, source: str) -> str:
        """A frame of codes from a file."""
        if self.beat == 1:
            return f"for (int i = 0; i < {self.transfers}; ++i) {self.name}[i] = ({self.word}){source}.next();"
        return (f"for (int i = 0; i < {self.transfers}; ++i)\n"
                f"      for (int l = 0; l < {self.beat}; ++l) {self.name}[i].v[l] = ({self.word}){source}.next();")

    def checked(self, source: str) -> str:
        """`wrong` counts the codes that are not those of a file."""
        if self.beat == 1:
            return f"for (int i = 0; i < {self.transfers}; ++i) wrong += (long long){self.name}[i] != {source}.next();"
        return (f"for (int i = 0; i < {self.transfers}; ++i)\n"
                f"      for (int l = 0; l < {self.beat}; ++l) wrong += (long long){self.name}[i].v[l] != {source}.next();")


class StreamPort(Port):
    """The same as an AXI4 stream."""

    @property
    def element(self) -> str:
        return f"tw::beat<{self.of}>"

    @property
    def parameter(self) -> str:
        return self._end(self.name)

    def _end(self, name: str) -> str:
        return f"tw::stream<{self.element}>& {name}"

    def pragmas(self, n: int) -> list[str]:
        return [f"#pragma HLS INTERFACE axis port={self.name}"]

    def mover(self) -> str:
        if self.is_input:
            return self._loaded(f"const auto w = tw::elements<{self.of}>(from.read());", f"w.v[{'l' * (self.lanes > 1) or 0}]")
        last = f"i == {self.transfers - 1}"
        return self._stored(f"tw::vec<{self.of}> w;\n{self._words}\n    to.write(tw::to_beat<{self.of}>(w, {last}));")

    @property
    def _words(self) -> str:
        if self.beat > 1:
            return super()._words
        return f"    w.v[0] = {self.word}(x.v[{'p' if self.lanes > 1 else '0'}]);"

    def declared(self) -> str:
        return f"static tw::stream<{self.element}> {self.name};"

    def filled(self, source: str) -> str:
        return f"""for (int i = 0; i < {self.transfers}; ++i) {{
      tw::vec<{self.of}> w;
      for (int l = 0; l < {self.beat}; ++l) w.v[l] = ({self.word}){source}.next();
      {self.name}.write(tw::to_beat<{self.of}>(w, i == {self.transfers - 1}));
    }}"""

    def checked(self, source: str) -> str:
        return f"""for (int i = 0; i < {self.transfers}; ++i) {{
      const auto b = {self.name}.read();
      const auto w = tw::elements<{self.of}>(b);
      wrong += (b.last != 0) != (i == {self.transfers - 1});
      for (int l = 0; l < {self.beat}; ++l) wrong += (long long)w.v[l] != {source}.next();
    }}"""


def ports(design: Design) -> list[Port]:
    """Inputs, then outputs."""
    kind, lanes = StreamPort if design.interface == "axis" else Port, design.lanes
    rows = [(t, n, True) for t, n in zip(design.inputs, design.input_names, strict=True)]
    rows += [(t, n, False) for t, n in zip(design.outputs, design.output_names, strict=True)]
    return [kind(t, n, lanes[t.stream], design.beats.get(t.stream, 1), inward) for t, n, inward in rows]


def parameters(design: Design) -> str:
    """Of the top function."""
    memories = [f"{'const ' * (p.contents is not None)}uint64_t* {n}" for n, p in design.memories.items()]
    return ", ".join([p.parameter for p in ports(design)] + memories)


def port_pragmas(design: Design) -> list[str]:
    """A kernel with streams only needs nobody to start it."""
    made = ports(design)
    lines = [line for n, p in enumerate(made) for line in p.pragmas(n)]
    for n, (name, p) in enumerate(design.memories.items(), len(made)):
        lines.append(f"#pragma HLS INTERFACE m_axi port={name} offset=slave bundle=gmem{n} depth={p.memory}")
        lines.append(f"#pragma HLS INTERFACE s_axilite port={name}")
    free = design.interface == "axis" and not design.memories
    return [*lines, f"#pragma HLS INTERFACE {'ap_ctrl_none' if free else 's_axilite'} port=return"]


def arrays_source(design: Design) -> str:
    """The kernel behind plain arrays, for simulation where its ports are streams."""
    made, top = ports(design), design.name
    arrays = [f"{'const ' * p.is_input}{p.word}* {p.name}_array" for p in made]
    memories = [f"{'const ' * (p.contents is not None)}uint64_t* {n}" for n, p in design.memories.items()]
    lines = [f"  {p.declared()[7:]}" for p in made]
    lines += [f"""  for (int i = 0; i < {p.transfers}; ++i) {{
    tw::vec<{p.of}> w;
    for (int l = 0; l < {p.beat}; ++l) w.v[l] = {p.name}_array[i * {p.beat} + l];
    {p.name}.write(tw::to_beat<{p.of}>(w, i == {p.transfers - 1}));
  }}""" for p in made if p.is_input]
    lines.append(f"  {top}({', '.join([p.name for p in made] + list(design.memories))});")
    lines += [f"""  for (int i = 0; i < {p.transfers}; ++i) {{
    const auto w = tw::elements<{p.of}>({p.name}.read());
    for (int l = 0; l < {p.beat}; ++l) {p.name}_array[i * {p.beat} + l] = w.v[l];
  }}""" for p in made if not p.is_input]
    body = "\n".join(lines)
    return f"""// The kernel behind plain arrays: what `tilewright run` simulates.
#include "{top}.h"

extern "C" void {top}_arrays({', '.join(arrays + memories)}) {{
{body}
}}
"""
