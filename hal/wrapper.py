"""`Wrapper`: a robot around another one, of which it keeps what it can do itself."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager

from hal.errors import DriverError
from hal.robot import Array, C, Command, Factors, Health, Image, Reading, Renderable, Robot, Scene, Tunable


class Wrapper(Robot):
    """Passes everything on to `robot` and has those of its capabilities for which it has methods.

    robot: not yet connected, or connected; owned by this object from now on. lock: what is held meanwhile, but not by
    `stop` and `health`.
    """

    def __init__(self, robot: Robot, lock: AbstractContextManager[object] | None = None) -> None:
        self.spec = robot.spec
        self._robot = robot
        self._lock = contextlib.nullcontext() if lock is None else lock

    def addresses(self) -> tuple[str, ...]:
        return self._robot.addresses()

    def capability(self, kind: type[C]) -> C | None:
        if self._robot.capability(kind) is None:
            return None
        return self if isinstance(self, kind) else None

    def connect(self) -> None:
        with self._lock:
            self._robot.connect()

    def read(self) -> Reading:
        with self._lock:
            return self._robot.read()

    def write(self, command: Command) -> None:
        with self._lock:
            self._robot.write(command)

    def stop(self) -> None:
        self._robot.stop()

    def close(self) -> None:
        with self._lock:
            self._robot.close()

    def health(self) -> Health:
        return self._robot.health()

    def tcp(self) -> tuple[Array, Array]:
        with self._lock:
            return self._having(Scene).tcp()  # type: ignore[type-abstract]

    def object_pose(self, name: str) -> Array:
        with self._lock:
            return self._having(Scene).object_pose(name)  # type: ignore[type-abstract]

    def set_state(self, position: Array, objects: Mapping[str, Array]) -> None:
        with self._lock:
            self._having(Scene).set_state(position, objects)  # type: ignore[type-abstract]

    def set_physics(self, factors: Factors) -> None:
        with self._lock:
            self._having(Tunable).set_physics(factors)  # type: ignore[type-abstract]

    def render(self, camera: str, width: int, height: int) -> Image:
        with self._lock:
            return self._having(Renderable).render(camera, width, height)  # type: ignore[type-abstract]

    def capture(self, camera: str, width: int, height: int) -> Image:
        with self._lock:
            return self._having(Renderable).capture(camera, width, height)  # type: ignore[type-abstract]

    def _having(self, kind: type[C]) -> C:
        able = self._robot.capability(kind)
        if able is None:
            raise DriverError(f"{self.spec.name}: this robot has no {kind.__name__}: ask capability() first")
        return able
