"""Sums of products: equal expressions have one normal form, and every form keeps its value."""

from __future__ import annotations

import itertools

import pytest
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.products import at_least, coefficient_of, normal
from tilewright.ir.traverse import substitute

N, M = Var.of("n", None), Var.of("m", None)
I, J = Var.of("i", N), Var.of("j", M)  # noqa: E741 - loops over them


def value(e: Expr | int, n: int, m: int, i: int, j: int) -> int:
    found = substitute(as_expr(e), {N: as_expr(n), M: as_expr(m), I: as_expr(i), J: as_expr(j)})
    return found.value  # type: ignore[attr-defined]


FLAT = I * M + J
FORMS = [
    (N + 1) * M - M * N, (N + M) * (N - M), FLAT / M, FLAT % M, (FLAT * 3) / (M * 3), (I / M) * M * 5 + (I % M) * 5,
    (FLAT + M) / M, (I + J) / M, (I * N + J) % N, (I * M * 4 + J * 4 + 2) / (M * 4), (N * M) / (M * N),
    (I * (M + 1) + J) / (M + 1),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_normal_form_keeps_the_value(form: Expr) -> None:
    for n, m in itertools.product((1, 2, 3, 7), repeat=2):
        for i, j in itertools.product(range(n), range(m)):
            assert value(normal(form), n, m, i, j) == value(form, n, m, i, j)


def test_equal_forms_are_one_object() -> None:
    assert normal(FLAT / M) is I
    assert normal(FLAT % M) is J
    assert normal((I / M) * M * 5 + (I % M) * 5) is normal(I * 5)
    assert normal((N + 1) * M - M * N) is M
    assert normal(M * N * 3) is normal(N * 3 * M)
    assert normal(((N * M) / M) * M) is normal(N * M)


def test_what_is_not_known_stays_a_quotient() -> None:
    assert normal((I + J) / M) is not normal(I / M)
    assert normal(N / M) is normal(N / M)


def test_coefficients() -> None:
    assert coefficient_of((I * M + J) * 4 + N, I) is normal(M * 4)
    assert coefficient_of((I * M + J) * 4 + N, J) == 4
    assert coefficient_of(I * I, I) is None
    assert coefficient_of((I / M) * N, I) is None
    assert coefficient_of(N * M, J) == 0


@pytest.mark.parametrize("form, low, holds", [
    (N, 1, True), (N, 2, False), (N * M, 1, True), (N - 1, 0, True), (N - 2, 0, False), (N * M - M, 0, True),
    (N - M, 0, False), (N + M, 2, True), (N / 2, 0, False),
])  # fmt: skip
def test_at_least(form: Expr, low: int, holds: bool) -> None:
    """It says yes only where that is so for all sizes; a quotient is not looked into."""
    assert at_least(form, low) is holds
