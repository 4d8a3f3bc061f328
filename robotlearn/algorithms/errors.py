"""What can go wrong in an algorithm."""

from robotlearn.errors import RobotlearnError


class AlgorithmError(RobotlearnError):
    """Base of the errors of `robotlearn.algorithms`."""


class UnknownAlgorithmError(AlgorithmError):
    """Raised when no algorithm of that name is registered; names the nearest one."""


class EpisodeError(AlgorithmError):
    """Raised when segments do not make an episode, or episodes hold nothing to learn from."""


class DivergedError(AlgorithmError):
    """Raised when several optimiser steps in a row had a loss or gradient that was not finite; none was applied."""


class StateError(AlgorithmError):
    """Raised when a saved state does not fit the algorithm it is loaded into; names the key."""


def first_of(error: Exception) -> str:
    """The first of what torch has to say of a state that doesn't fit, which is a line for each parameter."""
    lines = [line.strip() for line in str(error).splitlines()]
    return f"{lines[1]} (and {len(lines) - 2} more)" if len(lines) > 2 else " ".join(lines)
