"""`ReadOnly`: a robot that is read and never moved, whatever is asked of it."""

from __future__ import annotations

from collections.abc import Mapping

from hal.errors import DriverError
from hal.robot import Array, C, Command, Factors, Tunable
from hal.wrapper import Wrapper


class ReadOnly(Wrapper):
    """Passes on what reads, and `stop`; what would move the arm or change its scene raises DriverError and stays here.

    It keeps the robot's Scene and Renderable and hides its Steppable, so that a simulator's time stands still.

    robot: not yet connected, or connected; owned by this object from now on.
    """

    def capability(self, kind: type[C]) -> C | None:
        return None if issubclass(kind, Tunable) else super().capability(kind)

    def write(self, command: Command) -> None:
        """Raises DriverError, always."""
        raise DriverError(f"{self.spec.name}: this robot is only read, so it takes no command")

    def set_state(self, position: Array, objects: Mapping[str, Array]) -> None:
        """Raises DriverError, always."""
        raise DriverError(f"{self.spec.name}: this robot is only read, so its scene stays as it is")

    def set_physics(self, factors: Factors) -> None:
        """Raises DriverError, always."""
        raise DriverError(f"{self.spec.name}: this robot is only read, so its physics stay as they are")
