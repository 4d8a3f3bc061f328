"""The exceptions of the package. Each message says what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HalError(Exception):
    """Base class of every error that this package raises on purpose."""


class DocumentError(HalError):
    """Raised when a YAML file isn't YAML, or has a key twice. Names file and line."""


class SpecError(HalError):
    """Raised when a robot's spec or its model makes no sense. Names file, key, value and what was expected."""


class DriverError(HalError):
    """Raised when a driver is asked for something it can't do now: unknown name, not connected, wrong size."""


class RobotFault(HalError):
    """Raised when a robot that was well stops answering or reports a fault of its own."""


class Stopped(RobotFault):
    """Raised when an arm takes no commands since it was stopped: e-stop, watchdog, lease, blocked joint. Says why."""


class LeaseError(HalError):
    """Raised when a robot is commanded, or its lease wanted, by one who can't have it now. Names who has it."""


class OwnershipError(HalError):
    """Raised when a robot or its port belongs to another process. Names the process."""


class SafetyError(HalError):
    """Raised when the safety layer is used in a way that would void its guarantees: wrong size, no reset, ..."""


class RobotCheckError(HalError):
    """Raised when a driver breaks a rule of `hal.robot.Robot`. Lists rule, fault and consequence of each breach."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest valid one if there is one, and all of them."""
    names = sorted(valid)
    if not names:
        return "there are none"
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(names)}"
