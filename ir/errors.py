"""The errors that users see.  Wording: where - what - expected and got - what to do."""

from __future__ import annotations


class TilewrightError(Exception):
    """Base of every error raised on purpose."""


class ModelError(TilewrightError):
    """The model is invalid, or uses something that is not supported."""


class TargetError(TilewrightError):
    """A tool, a library or a capability of the target machine is missing."""


class OptionError(TilewrightError):
    """An option or an argument of the call is wrong."""


class InternalError(TilewrightError):
    """A bug of the compiler.  `ir` keeps the intermediate representation that was being worked on, as text."""

    def __init__(self, message: str, ir: str = "") -> None:
        super().__init__(message)
        self.ir = ir


class ScheduleError(InternalError):
    """A schedule was applied to a kernel that does not meet its precondition."""
