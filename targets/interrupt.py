"""Ctrl-C: never lost, never a traceback, and nothing left behind.

Python alone has gaps.  A KeyboardInterrupt inside a finalizer (the removal of a temporary folder, say) is printed as
ignored, and the command goes on; here it is sent once more a moment later.  And one inside exec() of a text (dataclasses are
made so) ends the process by the signal even if it was caught; CPython compares with KeyboardInterrupt itself there, so a
subclass of it is an ordinary exception.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

AGAIN = 0.005
"""Seconds after which a lost interrupt is sent again: longer than the end of a finalizer takes."""


class Interrupted(KeyboardInterrupt):
    """SIGINT came."""


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an interrupt is behind an error: Python 3.11 and older make a RuntimeError of what `__set_name__` raises."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it SIGINT raises Interrupted in the main thread, in the end if not at once.

    Changes nothing where a signal cannot be handled (other threads) or somebody handles or ignores it.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL
    ):
        yield
        return
    print_ignored = sys.unraisablehook

    def send_again(ignored: UnraisableHookArgs, /) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
        else:
            print_ignored(ignored)

    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGALRM, _as_interrupt)
    sys.unraisablehook = send_again
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = print_ignored
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A Ctrl-C within it comes at its end.  For milliseconds that must not be cut short."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda *signalled: waiting.append(signalled))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if waiting:
            handler(*waiting[0])


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted


def _as_interrupt(signum: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)  # that of uninterrupted(), perhaps
    if callable(handler):
        handler(signal.SIGINT, frame)
