"""Native CPU libraries."""

from .host import host_machine, resolve_machine
from .packaging import package

__all__ = ["host_machine", "package", "resolve_machine"]
