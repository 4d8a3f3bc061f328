"""MuJoCo's window on an arm, simulated or real: its model, posed as the arm is measured to be."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

import mujoco

from hal.binding import Binding, object_slots
from hal.errors import HalError
from hal.robot import Robot, Scene
from robotlearn.viewer import Viewer, bare_scene

FRAME_S = 1 / 30


class Window:
    """From `with` to its end, or until it is closed, which only ends the show. Raises DisplayError.

    robot: connected; it is read once per frame. model: of the arm among its task's objects; by default the arm alone.
    """

    def __init__(self, robot: Robot, model: Any, stop: threading.Event) -> None:
        self._robot, self._stop = robot, stop
        self._model = bare_scene(robot.spec) if model is None else model
        self._data = mujoco.MjData(self._model)
        self._binding = Binding.of(robot.spec, self._model)
        self._slots = object_slots(self._model)
        self.scene: Scene | None = robot.capability(Scene)  # type: ignore[type-abstract]
        """What tells where the objects are; None: they stay where the model has them."""
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self._pose()
        self._viewer = Viewer(self._model, self._data, self._stop, sliders=False)
        self._thread = threading.Thread(target=self._run, name="window", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        self._viewer.__exit__(kind, error, at)

    def _run(self) -> None:
        while self._viewer.is_running() and not self._done.wait(FRAME_S):
            self._pose()
            self._viewer.sync()

    def _pose(self) -> None:
        data = self._data
        try:
            self._binding.write_qpos(self._robot.read().position, data.qpos)
            for name, slot in self._slots.items() if self.scene is not None else ():
                pose = self.scene.object_pose(name)
                if slot.mocap >= 0:
                    data.mocap_pos[slot.mocap], data.mocap_quat[slot.mocap] = pose[:3], pose[3:]
                else:
                    data.qpos[slot.qpos : slot.qpos + 7] = pose
        except HalError:  # what ails the robot others say; here it stays as it was seen last
            return
        mujoco.mj_forward(self._model, data)
