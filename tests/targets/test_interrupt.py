"""Ctrl-C at the moments when Python alone would lose it."""

import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tilewright.targets import temporary
from tilewright.targets.interrupt import Interrupted, interruptible
from tilewright.targets.temporary import TemporaryFolder


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
from tilewright.targets.interrupt import interruptible
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with interruptible():
        exec("signal.raise_signal(signal.SIGINT)")
except KeyboardInterrupt:
    sys.exit(130)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 130


def test_a_temporary_folder_is_removed_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted_removal(folder: Path, **options: object) -> None:
        signal.raise_signal(signal.SIGINT)
        shutil.rmtree(folder, **options)  # type: ignore[arg-type]

    folder = TemporaryFolder("x-", tmp_path)
    (folder.path / "file").write_text("")
    monkeypatch.setattr(temporary, "shutil", SimpleNamespace(rmtree=interrupted_removal))
    with pytest.raises(KeyboardInterrupt):
        folder.cleanup()
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_lives_as_long_as_it_is_used(tmp_path: Path) -> None:
    thing = Thing()
    folder = TemporaryFolder("x-", tmp_path)
    folder.keep_for(thing)
    path = folder.path
    del folder
    assert path.is_dir()
    del thing
    assert not path.exists()
