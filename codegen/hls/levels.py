"""Exact integer arithmetic for what a quantized model computes between sums of integers and the next codes.

A rising (or falling) function from integers to few integers is its thresholds: code k is reached at level[k].  They are
found by bisection of the model's own arithmetic in double precision, and then the cheapest arithmetic is taken that has
exactly these thresholds:

    clip((a * m + b) >> s)                 floor of an affine form; b absorbs how ties are rounded
    clip(round_half_even((a * m + b) >> s) + zero)    where scales are powers of two, and ties are real
    two affine forms that meet at a code   leaky rectifiers
    low + sum of (a >= level)              anything else that rises, if it has few codes

m and b vary over the channels; s does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .body import BodyBuilder, Reg, round_even

Function = Callable[[np.ndarray], np.ndarray]
"""From integers [channels, n] to numbers of the same shape."""
MOST_LEVELS = 1 << 22  # thresholds times channels that are looked at
FEW = 15  # codes that comparisons can tell apart
_PROBES = 257
_FIRST_BITS, _LAST_BITS = 4, 40
_ROOM = 2**60
_WHOLE = 1e-6  # of a number of least squares, which has rounding errors


@dataclass(frozen=True, eq=False)
class Levels:
    """sign[C]: 1 where the function rises, -1 where it falls; with x = sign * a, code k >= codes[0] + 1 is reached from
    x = at[c, k - codes[0] - 1] on.  used[C, K]: whether the code is reached (and not from the start).
    ends[C, 2]: the least and the greatest x; values[C, 2]: the codes there.  codes: the least and the greatest of all."""

    sign: np.ndarray
    at: np.ndarray
    used: np.ndarray
    ends: np.ndarray
    values: np.ndarray
    codes: tuple[int, int]

    @property
    def numbers(self) -> np.ndarray:
        """The codes of the columns."""
        return np.arange(self.codes[0] + 1, self.codes[1] + 1, dtype=np.int64)

    def between(self, low: int, high: int) -> Levels:
        """The function clipped to low..high."""
        keep = (self.numbers > low) & (self.numbers <= high)
        values = self.values.clip(low, high)
        return replace(self, at=self.at[:, keep], used=self.used[:, keep], values=values, codes=(low, high))


def find_levels(f: Function, low: int, high: int, channels: int) -> Levels | None:
    """None if f neither rises nor falls, or has too many codes."""
    probes = np.unique(np.linspace(low, high, _PROBES).round().astype(np.int64))
    y = f(np.broadcast_to(probes, (channels, len(probes)))).astype(np.int64)
    steps = np.diff(y, axis=1)
    falls = np.asarray((steps <= 0).all(1) & (steps < 0).any(1))
    if not np.all((steps >= 0).all(1) | falls):
        return None
    sign = np.where(falls, -1, 1)[:, None]
    ends = np.where(falls[:, None], [[-high, -low]], [[low, high]])
    values = np.where(falls[:, None], y[:, [-1, 0]], y[:, [0, -1]])
    first, last = int(values.min()), int(values.max())
    if (last - first) * channels > MOST_LEVELS:
        return None
    k = np.arange(first + 1, last + 1, dtype=np.int64)
    used = (k > values[:, :1]) & (k <= values[:, 1:])
    below, above = np.broadcast_to(ends[:, :1], used.shape), np.broadcast_to(ends[:, 1:], used.shape)
    while used.any() and int((above - below).max()) > 1:
        middle = below + (above - below) // 2
        reached = f(sign * middle) >= k
        below, above = np.where(reached, below, middle), np.where(reached, middle, above)
    return Levels(sign[:, 0], above, used, ends, values, (first, last))


@dataclass(frozen=True, eq=False)
class Affine:
    """clip((x * m + b) >> shift) to codes; even: rounded half to even instead of down, and zero added to that."""

    m: np.ndarray
    b: np.ndarray
    shift: int
    codes: tuple[int, int]
    even: bool = False
    zero: int = 0


def fit_affine(levels: Levels, real: Function | None, early: Levels | None = None, zero: int = 0) -> Affine | None:
    """real: what f rounds before it adds zero, if that is known; otherwise the slope comes from the thresholds.
    early: thresholds that are as good, where a tie cannot be told from a value beside it; levels are then the late ones."""
    slope = _slopes(levels, real)
    if slope.max(initial=0.0) <= 0.0:
        return Affine(np.zeros(len(slope), np.int64), levels.values[:, 0], 0, levels.codes)
    start = _FIRST_BITS - int(np.ceil(np.log2(slope.max())))
    line = find_line(levels, real, zero) if real is not None and early is None else None
    for shift in range(max(0, start), max(0, start) + _LAST_BITS):
        m = np.rint(slope * 2.0**shift).astype(np.int64)
        reach = max(int(np.abs(levels.ends).max()), 1) * max(int(m.max()), 1)
        if reach >= _ROOM or max(abs(c) + 1 for c in levels.codes) << shift >= _ROOM:
            return None
        ties = _on_ties(levels, *line, shift, zero) if line is not None else None
        if ties is not None:
            return ties
        low, high = _room(levels, levels if early is None else early, m, shift)
        if (low <= high).all():
            return Affine(m, _roundest(low, high), shift, levels.codes)
    return None


def _slopes(levels: Levels, real: Function | None) -> np.ndarray:
    """Codes per unit of x, for every channel."""
    count = levels.used.sum(1)
    if not levels.used.size:  # one code, whatever comes
        return np.zeros(len(count))
    first = np.argmax(levels.used, 1)[:, None]
    last = (levels.used.shape[1] - 1 - np.argmax(levels.used[:, ::-1], 1))[:, None]
    a, b = np.take_along_axis(levels.at, first, 1), np.take_along_axis(levels.at, last, 1)
    run = (b - a)[:, 0].clip(1)
    rise = (last - first)[:, 0].astype(np.float64)
    if real is not None:
        ends = np.concatenate([a, b], 1) * levels.sign[:, None]
        y = real(ends)
        rise = np.where(b[:, 0] > a[:, 0], y[:, 1] - y[:, 0], rise)
    alone = 1.0 / np.maximum(1, (levels.ends[:, 1] - levels.ends[:, 0]))
    whole = levels.codes[1] - levels.codes[0] == 1  # one threshold and nothing else: any slope will do
    single = np.where(whole, 1.0, alone)
    return np.where(count == 0, 0.0, np.where(b[:, 0] > a[:, 0], rise / run, single))


def _room(levels: Levels, early: Levels, m: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest b of every channel with which the affine form has the thresholds."""
    k, far = levels.numbers, np.int64(2**62)
    low = np.where(levels.used, (k << shift) - levels.at * m[:, None], -far).max(1, initial=-far)
    high = np.where(early.used, (k << shift) - 1 - (early.at - 1) * m[:, None], far).min(1, initial=far)
    (least, most), bottom, top = levels.codes, levels.values[:, 0], early.values[:, 1]
    low = np.maximum(low, np.where(bottom > least, (bottom << shift) - levels.ends[:, 0] * m, -far))
    high = np.minimum(high, np.where(top < most, ((top + 1) << shift) - 1 - levels.ends[:, 1] * m, far))
    low, high = np.where(low == -far, high, low), np.where(high == far, low, high)
    return low, high


def _roundest(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Of low..high the numbers with the most zeros at their end."""
    found = []
    for a, b in zip(low.tolist(), high.tolist(), strict=True):
        size = (b - a + 1).bit_length()
        found.append(next(n for e in range(size, -1, -1) if (n := -(-a // 2**e) * 2**e) <= b))
    return np.array(found, np.int64)


def find_line(levels: Levels, real: Function, zero: int) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset of what is rounded, for every channel: where it is steepest, since beyond bounds it is flat."""
    y, before = (real(x * levels.sign[:, None]) for x in (levels.at, levels.at - 1))
    best = np.argmax(np.where(levels.used, y - before, -np.inf), 1)[:, None]
    at, top, bottom = (np.take_along_axis(a, best, 1)[:, 0] for a in (levels.at, y, before))
    reached = levels.used.any(1)
    slope = np.where(reached, top - bottom, 0.0)
    return slope, np.where(reached, top - slope * at, levels.values[:, 0] - zero)


def _on_ties(levels: Levels, slope: np.ndarray, offset: np.ndarray, shift: int, zero: int) -> Affine | None:
    """The form that rounds half to even, if slope and offset are whole numbers of 2^-shift and it has the thresholds."""
    m, b = slope * 2.0**shift, offset * 2.0**shift
    if np.any(m != np.rint(m)) or np.any(b != np.rint(b)) or np.abs(b).max() >= _ROOM:
        return None
    form = Affine(m.astype(np.int64), b.astype(np.int64), shift, levels.codes, True, zero)
    return form if follows(form, levels) else None


def follows(form: Affine, levels: Levels) -> bool:
    """Whether an affine form has the thresholds and the ends."""
    def code(x: np.ndarray) -> np.ndarray:
        y = x * form.m[:, None] + form.b[:, None]
        return (round_even(y, form.shift) + form.zero if form.even else y >> form.shift).clip(*form.codes)

    k, used = levels.numbers, levels.used
    return bool((code(levels.at) >= k)[used].all() and (code(levels.at - 1) < k)[used].all()
                and (code(levels.ends) == levels.values).all())


def fit_pair(levels: Levels, real: Function | None, knees: Sequence[int]) -> tuple[Affine, Affine] | None:
    """Two affine forms; the first is right up to one of the given codes, the second from there on."""
    for knee in knees:
        if not levels.codes[0] < knee < levels.codes[1]:
            continue
        parts = [fit_affine(levels.between(*ends), real) for ends in ((levels.codes[0], knee), (knee, levels.codes[1]))]
        if parts[0] is not None and parts[1] is not None:
            return parts[0], parts[1]
    return None


def emit(b: BodyBuilder, a: Reg, levels: Levels, form: Affine | tuple[Affine, Affine] | None) -> Reg:
    """The code of a; form None: by comparisons."""
    x = replace(a, frac=0)
    if form is None:
        if (levels.sign < 0).any():
            x = b.binary("mul", x, b.integers(levels.sign))
        far = levels.ends[:, 1:] + 1
        at = np.where(levels.used, levels.at, np.where(levels.numbers <= levels.values[:, :1], levels.ends[:, :1], far))
        total = b.integers(np.array([levels.codes[0]]))
        for column in at.T:
            total = b.binary("add", total, b.binary("ge", x, b.integers(column)))
        return total
    if isinstance(form, Affine):
        return _emit_affine(b, x, levels, form)
    first, second = (_emit_affine(b, x, levels, f) for f in form)
    return b.binary("add", b.binary("sub", first, b.integers(np.array([form[0].codes[1]]))), second)


def _emit_affine(b: BodyBuilder, x: Reg, levels: Levels, form: Affine) -> Reg:
    low, high = form.codes
    m = form.m * levels.sign
    y = x if np.all(m == 1) else b.binary("mul", x, b.integers(m))
    if np.any(form.b):
        y = b.binary("add", y, b.integers(form.b))
    y = replace(y, frac=form.shift)
    return b.whole(y, low, high, form.zero) if form.even else b.floor(y, low, high)


def fit_sum(
    f: Function, real: Function, zero: int, codes: Sequence[np.ndarray], slack: tuple[Function, Function] | None = None
) -> Affine | None:
    """For f of several integers: an affine form, with one factor per operand and one addend, that is f on the whole grid of
    the operands' codes; zero: what f adds to what it has rounded.
    f, real: from [operands, n]; slack: functions between which f may lie."""
    grid = np.stack([g.ravel() for g in np.meshgrid(*codes, indexing="ij")])
    k, y = f(grid).astype(np.int64), real(grid)
    k = k - zero
    fewest, most_codes = (k, k) if slack is None else (g(grid).astype(np.int64) - zero for g in slack)
    low, high = int(k.min()), int(k.max())
    codes_of_all = (low + zero, high + zero)  # a rectifier ends above what the type holds
    inside = (k > low) & (k < high)
    if inside.sum() < 2 * len(codes) + 2:
        return None
    columns = np.concatenate([grid[:, inside], np.ones((1, int(inside.sum())))]).T
    found, *_ = np.linalg.lstsq(columns, y[inside], rcond=None)
    if np.abs(columns @ found - y[inside]).max() > 1e-9 * max(1.0, np.abs(y).max()) or not np.any(found[:-1]):
        return None

    def even(shift: int) -> Affine | None:
        m, addend = np.rint(found[:-1] * 2.0**shift).astype(np.int64), np.rint(found[-1:] * 2.0**shift).astype(np.int64)
        right = round_even((grid * m[:, None]).sum(0) + addend, shift).clip(low, high) == k
        return Affine(m, addend, shift, codes_of_all, True, zero) if right.all() else None

    start = max(0, _FIRST_BITS - int(np.ceil(np.log2(np.abs(found[:-1]).max()))))
    whole = next((s for s in range(_LAST_BITS) if np.abs(found * 2.0**s - np.rint(found * 2.0**s)).max() < _WHOLE), None)
    if slack is None and whole is not None and np.abs(columns).max() * np.abs(found).sum() < _ROOM >> whole:
        form = even(whole)  # ties are real, and the grid may have none
        if form is not None:
            return form
    for shift in range(start, start + _LAST_BITS):
        if max(abs(low), abs(high)) + 2 << shift >= _ROOM:
            return None
        m = np.rint(found[:-1] * 2.0**shift).astype(np.int64)
        total = (grid * m[:, None]).sum(0)
        least = np.where(fewest > low, (fewest << shift) - total, -_ROOM).max()
        most = np.where(most_codes < high, ((most_codes + 1) << shift) - 1 - total, _ROOM).min()
        if least <= most:
            return Affine(m, _roundest(np.array([least]), np.array([most])) + (zero << shift), shift, codes_of_all)
        if (form := even(shift)) is not None:
            return form
    return None

