"""From processes that name each other's results to a design whose streams have one writer and one reader.

What several processes read is copied by a `Fork`, what nobody reads is taken by a `Drop`, and where a reader wants
packets of another width than the writer gives, a `Regroup` changes them; if neither width divides the other there are two,
through the common divisor, or through the common multiple where that would be too slow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import gcd, lcm

from .channels import ChannelDot
from .design import Process
from .dot import Dot
from .route import Drop, Fork, Regroup
from .sliding import sliding
from .tensor import Tensor
from .window import Window

_WIDEST = 8192  # bits of a packet between two widths of which neither divides the other


def connect(processes: Sequence[Process], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[
    tuple[Process, ...], tuple[Tensor, ...]
]:
    """Forks and drops; the processes in order and the tensors that are the outputs now."""
    readers: dict[Tensor, int] = {}
    for t in [t for p in processes for t in p.inputs] + list(outputs):
        readers[t.stream] = readers.get(t.stream, 0) + 1
    copies: dict[Tensor, list[Tensor]] = {}
    done: list[Process] = []

    def made(t: Tensor) -> None:
        count = readers.get(t, 0)
        if count == 0:
            done.append(Drop(name=f"drop_{len(done)}", inputs=(t,), outputs=()))
        elif count > 1:
            copies[t] = [Tensor(f"{t.name}_{n}", t.shape, t.type) for n in range(count)]
            done.append(Fork(name=f"fork_{len(done)}", inputs=(t,), outputs=tuple(copies[t])))

    def taken(t: Tensor) -> Tensor:
        if t.stream not in copies:
            return t
        copy = copies[t.stream].pop(0)
        return copy.reshaped(t.shape)

    for t in inputs:
        made(t)
    for p in processes:
        done.append(replace(p, inputs=tuple(taken(t) for t in p.inputs)))
        for t in p.outputs:
            made(t)
    return tuple(done), tuple(taken(t) for t in outputs)


def wire(
    processes: Sequence[Process], inputs: Sequence[Tensor], beats: Mapping[Tensor, int] | None = None
) -> tuple[Process, ...]:
    """Chooses the width of every stream; needs what `connect` gives.  beats: elements per packet of the inputs, otherwise 1."""
    lanes = {t: (beats or {}).get(t, 1) for t in inputs}
    consumers = {t.stream: p for p in processes for t in p.inputs}
    done: list[Process] = []
    for p in processes:
        p = _matched(p, consumers)
        wanted, out = p.accepts(tuple(lanes[t.stream] for t in p.inputs))
        reader, operands = replace(p, lanes_in=wanted, lanes_out=out), []
        for t, width in zip(p.inputs, wanted, strict=True):
            operands.append(_regrouped(done, t, lanes, width, reader))
        done.append(replace(reader, inputs=tuple(operands)))
        lanes.update(dict.fromkeys(p.outputs, out))
    return tuple(done)


def _matched(p: Process, consumers: dict[Tensor, Process]) -> Process:
    """A window emits the packets that the product behind it reads."""
    if isinstance(p, Window):
        reader = consumers.get(p.outputs[0])
        if isinstance(reader, (Dot, ChannelDot)):
            return sliding(p) if reader.whole else replace(p, emit=reader.simd if isinstance(reader, Dot) else reader.pe)
    return p


def _regrouped(done: list[Process], t: Tensor, lanes: dict[Tensor, int], width: int, reader: Process) -> Tensor:
    """A change of width does not stop the reader, where that is possible."""
    have = lanes[t.stream]
    steps = [] if have == width else [width]
    if max(have, width) % min(have, width):
        common, wide = gcd(have, width), lcm(have, width)
        steps = [wide if t.size // common > reader.cycles and wide * t.type.bits <= _WIDEST else common, width]
    for target in steps:
        new = Tensor(f"{t.name}_by{target}", t.shape, t.type)
        done.append(Regroup(name=f"regroup_{len(done)}", inputs=(t,), outputs=(new,), lanes_in=(lanes[t.stream],),
                            lanes_out=target, target=target))
        lanes[new] = target
        t = new
    return t


def pack_deep(
    processes: Sequence[Process], outputs: Sequence[Tensor], depths: Mapping[Tensor, int], word: int, deep: int
) -> tuple[Process, ...]:
    """Wired processes with the packets of deep FIFOs gathered into words of so many bits:

        a -> FIFO of 600 000 x 9 bits -> b     becomes     a -> regroup -> FIFO of 75 000 x 72 bits -> regroup -> b

    deep: packets from which on a FIFO is worth it; outputs of the design stay as they are."""
    lanes = {t: n for p in processes for t, n in zip(p.outputs, p.widths, strict=True)}
    last = {t.stream for t in outputs}
    renamed: dict[Tensor, Tensor] = {}
    done: list[Process] = []
    for p in processes:
        operands = (renamed[t.stream].reshaped(t.shape) if t.stream in renamed else t for t in p.inputs)
        done.append(replace(p, inputs=tuple(operands)))
        for t in p.outputs:
            width, packets = lanes[t] * t.type.bits, t.size // lanes[t]
            times = max(k for k in range(1, max(1, word // width) + 1) if packets % k == 0)
            if depths.get(t, 0) < deep or times < 2 or t in last:
                continue
            wide = Tensor(f"{t.name}_packed", t.shape, t.type)
            renamed[t] = Tensor(f"{t.name}_unpacked", t.shape, t.type)
            for source, result, before, after in ((t, wide, lanes[t], lanes[t] * times),
                                                  (wide, renamed[t], lanes[t] * times, lanes[t])):
                done.append(Regroup(name=f"pack_{len(done)}", inputs=(source,), outputs=(result,), lanes_in=(before,),
                                    lanes_out=after, target=after))
    return tuple(done)
