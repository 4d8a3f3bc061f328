"""`ReadOnly`: a robot that is read and never moved, whatever is asked of it."""

from __future__ import annotations

from collections.abc import Mapping

from hal.errors import DriverError
from hal.robot import Array, Command, Health, Image, Reading, Renderable, Scene
from hal.wrapper import Wrapper


class ReadOnly(Wrapper):
    """Passes on what reads, and `stop`; what would move the arm or its scene raises DriverError and stays here.

    It keeps the robot's Scene and Renderable and hides its Steppable, so that a simulator's time stands still.

    robot: not yet connected, or connected; owned by this object from now on.
    """

    def connect(self) -> None:
        self._robot.connect()

    def read(self) -> Reading:
        return self._robot.read()

    def write(self, command: Command) -> None:
        """Raises DriverError, always."""
        raise DriverError(f"{self.spec.name}: this robot is only read, so it takes no command")

    def stop(self) -> None:
        self._robot.stop()

    def close(self) -> None:
        self._robot.close()

    def health(self) -> Health:
        return self._robot.health()

    def tcp(self) -> tuple[Array, Array]:
        return self._having(Scene).tcp()  # type: ignore[type-abstract]

    def object_pose(self, name: str) -> Array:
        return self._having(Scene).object_pose(name)  # type: ignore[type-abstract]

    def set_state(self, position: Array, objects: Mapping[str, Array]) -> None:
        """Raises DriverError, always."""
        raise DriverError(f"{self.spec.name}: this robot is only read, so its scene stays as it is")

    def render(self, camera: str, width: int, height: int) -> Image:
        return self._having(Renderable).render(camera, width, height)  # type: ignore[type-abstract]

    def capture(self, camera: str, width: int, height: int) -> Image:
        return self._having(Renderable).capture(camera, width, height)  # type: ignore[type-abstract]
