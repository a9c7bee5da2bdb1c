"""Bugs of the compiler: how they become an InternalError, and the file that lets them be repeated."""

from __future__ import annotations

import platform
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from .. import __version__
from ..ir.errors import InternalError, TilewrightError
from ..ir.graph import Graph
from .writing import write_whole


@contextmanager
def guarded(stage: str, graph: Graph) -> Iterator[None]:
    """Whatever fails inside by accident is raised as an InternalError that names the stage and keeps the graph.

    Errors that are raised on purpose for the user, lack of memory, and the system's errors are passed on.
    """
    try:
        yield
    except InternalError as error:
        raise InternalError(f"{stage}: {error}", ir=error.ir or str(graph)) from error
    except (TilewrightError, MemoryError, OSError):
        raise
    except Exception as error:
        raise InternalError(f"{stage}: {type(error).__name__}: {error}", ir=str(graph)) from error


def write_fault(error: Exception, command: list[str]) -> Path:
    """A file with the command, the versions, the traceback and the intermediate representation; its path.

    It goes to the user's log folder, or to the temporary folder where that cannot be written.
    """
    text = "\n".join([
        f"tilewright {__version__}, Python {platform.python_version()}, {platform.platform()}",
        "command: " + " ".join(map(repr, command)),
        "",
        *traceback.format_exception(error),
        *([error.ir] if isinstance(error, InternalError) and error.ir else []),
    ])
    folder = Path(platformdirs.user_log_dir("tilewright", appauthor=False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir())
    with tempfile.NamedTemporaryFile(prefix="fault-", suffix=".txt", dir=folder, delete=False) as file:
        path = Path(file.name)
    write_whole(path, text.encode(errors="backslashreplace"))
    return path
