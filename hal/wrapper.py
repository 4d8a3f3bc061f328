"""`Wrapper`: a robot around another one, of which it keeps what it can do itself."""

from __future__ import annotations

from hal.errors import DriverError
from hal.robot import C, Robot


class Wrapper(Robot):
    """Has those capabilities of `robot` whose methods the subclass has; they get at the wrapped ones by `_having`."""

    def __init__(self, robot: Robot) -> None:
        self.spec = robot.spec
        self._robot = robot

    def capability(self, kind: type[C]) -> C | None:
        if self._robot.capability(kind) is None:
            return None
        return self if isinstance(self, kind) else None

    def _having(self, kind: type[C]) -> C:
        able = self._robot.capability(kind)
        if able is None:
            raise DriverError(f"{self.spec.name}: this robot has no {kind.__name__}: ask capability() first")
        return able
