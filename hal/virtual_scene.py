"""`VirtualScene`: a real arm among things that exist as numbers only, so that tasks without real objects run on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from hal.errors import DriverError, RobotFault, nearest
from hal.kinematics import Chain
from hal.robot import Array, C, Clocked, Command, Robot, Scene
from hal.wrapper import Wrapper

_SPEED = 0.25  # of the spec's, on the way to a start
_REACHED = 0.06  # [rad, m] how near its pose an arm must come: servos sag under load
_PATIENCE_S = 3.0  # for that, after the set-points are there


class VirtualScene(Wrapper):
    """Gives an arm with a clock of its own, which can't tell where things are, the capability `Scene`.

    The tool is where the kinematics of the measured joints have it. The objects named in `objects` are where
    `set_state` put them and stay there: marks and targets that nothing touches. `set_state` drives the arm to its pose,
    joint by joint in a straight line at a quarter of the spec's speeds, and returns when it rests there.

    Raises DriverError when the robot has no `Clocked`.
    """

    def __init__(self, robot: Robot, objects: tuple[str, ...]) -> None:
        super().__init__(robot)
        self.between: Callable[[], None] = lambda: None
        """Called in each control period of `set_state`, which takes seconds; what it raises ends the motion."""
        self._clock = self._having(Clocked)  # type: ignore[type-abstract]
        self._chain = Chain(robot.spec)
        self._poses = {name: np.array([0.0, 0, 0, 1, 0, 0, 0]) for name in objects}

    def capability(self, kind: type[C]) -> C | None:
        return self if isinstance(self, kind) and kind is Scene else self._robot.capability(kind)

    def tcp(self) -> tuple[Array, Array]:
        pose = self._chain.forward(self._robot.read().position[None, : len(self.spec.joints)])
        return pose[0][0], pose[1][0]

    def object_pose(self, name: str) -> Array:
        if name not in self._poses:
            raise DriverError(f"{self.spec.name}: there is no virtual object {name!r}: {nearest(name, self._poses)}")
        return self._poses[name].copy()

    def set_state(self, position: Array, objects: Mapping[str, Array]) -> None:
        """As in `Scene`, but it takes the time of the motion. Raises Stopped; RobotFault when it doesn't get there."""
        for name in objects:
            self.object_pose(name)
        start = self._robot.read().position
        steps = int(np.ceil((np.abs(position - start) / (_SPEED * self.spec.velocity)).max() / self.spec.dt)) or 1
        self._clock.skip()
        for step in range(1, steps + 1):
            self.between()
            self._robot.write(Command(start + step / steps * (position - start)))
            self._clock.wait()
        deadline = time.monotonic() + _PATIENCE_S
        while (far := np.abs(self._robot.read().position - position)).max() > _REACHED:
            if time.monotonic() > deadline:
                name = self.spec.names[int(far.argmax())]
                raise RobotFault(
                    f"{self.spec.name}: {name} is {far.max():.3f} from where it was sent to start: is it blocked?"
                )
            self.between()
            self._robot.write(Command(position))
            self._clock.wait()
        self._clock.rest()
        self._poses.update({name: np.asarray(pose, dtype=np.float64) for name, pose in objects.items()})
