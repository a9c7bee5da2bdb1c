"""The table of operators that can be imported: (domain, operator) -> versions, newest first.

An operator is a function `f(b, *operands, *, attribute=..., ...)` that adds core operators to the builder and returns its
outputs.  Operands are `Value`s, None for optional ones that are absent.  Keyword-only parameters are the ONNX attributes,
of the same names.  An operator whose meaning changed between opsets has one function per meaning; the newest one that is
not above the model's opset is used.  A function that returns STANDARD leaves this node to the standard's definition of the
operator by other operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, Union

from ...ir.graph import Value
from .builder import NarrowTensor, TensorMap, TensorSequence

Imported = Union[Value, NarrowTensor, TensorSequence, TensorMap, None]  # what a name stands for; None: an absent optional
Outputs = Union[Imported, tuple[Imported, ...]]


class Standard:
    """Returned by a function that leaves a node to the standard's definition."""


STANDARD = Standard()
OpFunction = Callable[..., Union[Outputs, Standard]]
F = TypeVar("F", bound=OpFunction)

_TABLE: dict[tuple[str, str], list[tuple[int, OpFunction]]] = {}


def onnx_op(name: str, *, since: int, domain: str = "") -> Callable[[F], F]:
    """Register a function as the meaning of an operator from an opset version on."""

    def register(function: F) -> F:
        versions = _TABLE.setdefault((domain, name), [])
        versions.append((since, function))
        versions.sort(key=lambda entry: -entry[0])
        return function

    return register


_TAKES_NARROW: set[OpFunction] = set()


def takes_narrow(function: F) -> F:
    """Mark a function whose operands may be `NarrowTensor`s; others are never given one."""
    _TAKES_NARROW.add(function)
    return function


def accepts_narrow(function: OpFunction) -> bool:
    return function in _TAKES_NARROW


def op_versions() -> dict[tuple[str, str], list[tuple[int, OpFunction]]]:
    """The whole table; importing the operators fills it."""
    from . import ops  # noqa: F401

    return _TABLE


def find_op(domain: str, name: str, opset: int) -> OpFunction | None:
    """The function for an operator in a model of this opset."""
    for since, function in op_versions().get((domain, name), ()):
        if since <= opset:
            return function
    return None


def oldest_version(domain: str, name: str) -> int | None:
    """The first opset in which an operator can be imported; None if there is none."""
    versions = op_versions().get((domain, name))
    return versions[-1][0] if versions else None
