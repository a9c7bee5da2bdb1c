"""Operators on strings.  They have no loops: C functions of the artifact's support code (`targets/cpu/runtime/tw_text.c`)
run them, each named by `support`, one per operator.

A string is Unicode text without the character 0, a Python str here.  Their order is that of the code points, which is
that of the bytes in UTF-8.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from ..dims import volume
from ..errors import ModelError
from ..types import DTYPES, Dim, TensorType
from .base import Op
from .operands import require, require_count
from .regex import Program, matches

CASES = ("lower", "upper")
Support = tuple[str, tuple[Dim, ...]]
"""A C function and its integer arguments, which follow (runtime, results..., operands...)."""


def _texts(op: Op, types: tuple[TensorType, ...], count: int) -> None:
    require_count(op, types, count)
    for t in types[:1]:
        require(t.dtype == "str", op, "the operand must be strings, got {}", t)


def _each(x: np.ndarray, f: object, dtype: str) -> np.ndarray:
    made = np.empty(x.shape, DTYPES[dtype].numpy)
    for at in np.ndindex(x.shape):
        made[at] = f(x[at])  # type: ignore[operator]
    return made


@dataclass(frozen=True)
class TextConcat(Op):
    """The strings of two operands of one shape, one behind the other."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        _texts(self, types, 2)
        require(types[0] == types[1], self, "{} and {} differ", *types)
        return types[:1]

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        made = np.empty(arrays[0].shape, object)
        for at in np.ndindex(made.shape):
            made[at] = arrays[0][at] + arrays[1][at]
        return (made,)

    def support(self, *types: TensorType) -> Support:
        return "tw_text_concat", (volume(types[0].shape),)


@dataclass(frozen=True)
class TextEqual(Op):
    """Whether the strings of two operands of one shape are the same."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        _texts(self, types, 2)
        require(types[0] == types[1], self, "{} and {} differ", *types)
        return (TensorType("bool", types[0].shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        made = np.empty(arrays[0].shape, np.bool_)
        for at in np.ndindex(made.shape):
            made[at] = arrays[0][at] == arrays[1][at]
        return (made,)

    def support(self, *types: TensorType) -> Support:
        return "tw_text_equal", (volume(types[0].shape),)


@dataclass(frozen=True)
class TextMatch(Op):
    """Whether a whole string matches a regular expression: x, and the program of `regex.compile_pattern`, i32[n]."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        _texts(self, types, 2)
        require(types[1].dtype == "i32" and types[1].rank == 1, self, "expected a program i32[n], got {}", types[1])
        return (TensorType("bool", types[0].shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        program = Program.of(arrays[1])
        return (_each(arrays[0], lambda s: matches(program, s), "bool"),)

    def support(self, *types: TensorType) -> Support:
        return "tw_text_match", (volume(types[0].shape), volume(types[1].shape))


@dataclass(frozen=True)
class TextFind(Op):
    """Where each string stands among keys str[k], which rise and differ: i64, -1 where it does not."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        _texts(self, types, 2)
        require(types[1].dtype == "str" and types[1].rank == 1, self, "expected keys str[k], got {}", types[1])
        return (TensorType("i64", types[0].shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        places = {key: n for n, key in enumerate(arrays[1].tolist())}
        return (_each(arrays[0], lambda s: places.get(s, -1), "i64"),)

    def support(self, *types: TensorType) -> Support:
        return "tw_text_find", (volume(types[0].shape), volume(types[1].shape))


@dataclass(frozen=True)
class TextRank(Op):
    """How many distinct strings of x[n] come before each, i64[n]: the order of the strings as numbers."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        _texts(self, types, 1)
        require(types[0].rank == 1, self, "expected str[n], got {}", types[0])
        return (TensorType("i64", types[0].shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        places = {key: n for n, key in enumerate(sorted(set(arrays[0].tolist())))}
        return (_each(arrays[0], places.__getitem__, "i64"),)

    def support(self, *types: TensorType) -> Support:
        return "tw_text_rank", (volume(types[0].shape),)


@cache
def case_table(case: str) -> np.ndarray:
    """Rows (character, up to three characters that replace it), i32[n, 4], by rising character; 0 is none.

    Every character is replaced on its own: a capital sigma at the end of a word becomes a plain sigma."""
    rows = []
    for code in range(0x80, 0x110000):
        character = chr(code)
        changed = character.lower() if case == "lower" else character.upper()
        if changed != character:
            rows.append([code, *map(ord, changed), *[0] * (3 - len(changed))])
    return np.array(rows, np.int32)


@dataclass(frozen=True)
class TextCase(Op):
    """Strings in lower or upper case, by the table of `case_table`, i32[n, 4]."""

    case: str

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        _texts(self, types, 2)
        require(self.case in CASES, self, "unknown case {!r}", self.case)
        require(types[1].dtype == "i32" and types[1].shape[1:] == (4,), self, "expected i32[n, 4], got {}", types[1])
        return types[:1]

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        change = str.lower if self.case == "lower" else str.upper
        return (_each(arrays[0], lambda s: "".join(map(change, s)), "str"),)

    def support(self, *types: TensorType) -> Support:
        return "tw_text_case", (volume(types[0].shape), types[1].shape[0], CASES.index(self.case))


@dataclass(frozen=True)
class TextPieces(Op):
    """Strings cut at a delimiter, str[1], at white space if it is empty: the pieces str[*shape, most], "" behind the last,
    and how many they are, i64[*shape].  cuts: that many at most, -1: everywhere; the last piece is the rest.

    More than `most` pieces are an error of the run."""

    cuts: int
    most: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        _texts(self, types, 2)
        require(types[1] == TensorType("str", (1,)), self, "expected a delimiter str[1], got {}", types[1])
        return TensorType("str", (*types[0].shape, self.most)), TensorType("i64", types[0].shape)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, delimiter = arrays[0], arrays[1][0]
        pieces, counts = np.full((*x.shape, self.most), "", object), np.empty(x.shape, np.int64)
        for at in np.ndindex(x.shape):
            parts = pieces_of(str(x[at]), delimiter, self.cuts)
            require(len(parts) <= self.most, self, "{} pieces, more than {}", len(parts), self.most)
            counts[at] = len(parts)
            for n, part in enumerate(parts):
                pieces[(*at, n)] = part
        return pieces, counts

    def support(self, *types: TensorType) -> Support:
        return "tw_text_pieces", (volume(types[0].shape), self.cuts, self.most)


def pieces_of(text: str, delimiter: str, cuts: int) -> list[str]:
    """White space is that of ASCII."""
    if delimiter:
        return text.split(delimiter, cuts)
    parts = text.encode("utf-8", "surrogatepass").split(None, cuts)
    return [part.decode("utf-8", "surrogatepass") for part in parts]


@dataclass(frozen=True)
class TextFormat(Op):
    """Numbers as text: integers in decimals, floats as the shortest decimals that read back as the same number of their
    type, with an exponent below 1e-4 and from 1e16 on, True and False."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        require(types[0].dtype != "str", self, "the operand is {}", types[0])
        return (TensorType("str", types[0].shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        made = np.empty(x.shape, object)
        for at in np.ndindex(x.shape):
            made[at] = _formatted(x.dtype.type(x[at]))
        return (made,)

    def support(self, *types: TensorType) -> Support:
        return "tw_text_format", (volume(types[0].shape), list(DTYPES).index(types[0].dtype))


def _formatted(value: np.generic) -> str:
    kind = np.dtype(value.dtype)
    if kind.kind == "f" or kind == DTYPES["bf16"].numpy:
        wide = float(value)
        for digits in range(17):
            text = np.format_float_scientific(wide, precision=digits, unique=False)
            if wide != wide or kind.type(float(text)) == value:
                break
        if wide != wide or wide in (float("inf"), float("-inf")):
            return str(wide)
        mantissa, _, exponent = text.partition("e")
        return _positional(mantissa, int(exponent))
    return str(value.item())


def _positional(mantissa: str, exponent: int) -> str:
    sign, digits = ("-", mantissa[1:]) if mantissa[0] == "-" else ("", mantissa)
    digits = digits.replace(".", "").rstrip("0") or "0"
    if digits == "0":
        return sign + "0.0"
    if -4 <= exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    if 0 <= exponent < 16:
        whole = digits.ljust(exponent + 1, "0")
        return f"{sign}{whole[: exponent + 1]}.{whole[exponent + 1 :] or '0'}"
    return f"{sign}{digits[0]}{'.' + digits[1:] if digits[1:] else ''}e{exponent:+03d}"


@dataclass(frozen=True)
class TextParse(Op):
    """Text as numbers: decimals with or without an exponent, inf and nan in any case; integers by their whole part; bool by
    whether they are not 0.  Other text is an error of the run."""

    to: str

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        _texts(self, types, 1)
        require(self.to in DTYPES and self.to != "str", self, "unknown element type {!r}", self.to)
        return (TensorType(self.to, types[0].shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        info = DTYPES[self.to]
        made = np.empty(arrays[0].shape, info.numpy)
        with np.errstate(all="ignore"):
            for at in np.ndindex(made.shape):
                made[at] = np.array(_number(str(arrays[0][at]), info.kind)).astype(info.numpy)
        return (made,)

    def support(self, *types: TensorType) -> Support:
        return "tw_text_parse", (volume(types[0].shape), list(DTYPES).index(self.to))


def _number(text: str, kind: str) -> float | int:
    """The number that text says.  Raises ModelError if it says none."""
    plain = text.strip(" \t\n\r\f\v")
    try:
        if "_" in plain or not plain.isascii():
            raise ValueError
        if kind in "iu" and plain.lstrip("+-").isdecimal():
            whole = int(plain)
            return (whole + 2**63) % 2**64 - 2**63 if kind == "i" else whole % 2**64
        value = float(plain)
    except ValueError:
        raise ModelError(f"TextParse: {text!r} is not a number") from None
    return int(value) if kind in "iu" and np.isfinite(value) else value

