"""Ctrl-C at the moments when Python alone would lose it."""

import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator

import pytest
from tilewright.compiler.interrupt import Interrupted, interruptible


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    """Python's own handler, which a process that a shell started in the background lacks."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Thing:
    """Something with a finalizer."""


def test_sent_again_from_a_finalizer(capsys: pytest.CaptureFixture[str]) -> None:
    thing = Thing()
    weakref.finalize(thing, signal.raise_signal, signal.SIGINT)
    with pytest.raises(Interrupted), interruptible():
        del thing
        time.sleep(30)
    assert capsys.readouterr().err == ""


def test_other_errors_of_finalizers_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    thing = Thing()
    weakref.finalize(thing, int, "no number")
    with interruptible():
        del thing
    assert [type(p.exc_value) for p in printed] == [ValueError]  # type: ignore[attr-defined]


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM), sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM), sys.unraisablehook) == before


def test_ignored_stays_ignored() -> None:
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, handler)


def test_exit_code_when_it_comes_inside_exec() -> None:
    """CPython ends a process by the signal after a KeyboardInterrupt in exec() of a text, even if it was caught."""
    program = """
import signal, sys
from tilewright.compiler.interrupt import interruptible
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with interruptible():
        exec("signal.raise_signal(signal.SIGINT)")
except KeyboardInterrupt:
    sys.exit(130)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 130
