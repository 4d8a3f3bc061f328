"""MuJoCo's window on a simulated arm that runs by the wall clock."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Protocol, Self

from hal.drivers.mujoco import MujocoRobot

FRAME_S = 1 / 30


class Shown(Protocol):
    """What shows a scene; `robotlearn.view.Viewer` is one."""

    def is_running(self) -> bool: ...
    def sync(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


class ShownRobot(MujocoRobot):
    """A simulated arm that a window can be opened on while another thread steps it."""

    @property
    def simulation(self) -> tuple[Any, Any]:
        """The MjModel and the MjData; connects."""
        self.connect()
        return self._model, self._data

    def sync(self, window: Shown) -> None:
        with self._lock:
            window.sync()


class Window:
    """From `with` to its end, or until it is closed, which only ends the show. Raises DisplayError."""

    def __init__(self, robot: ShownRobot, stop: threading.Event) -> None:
        self._robot, self._stop = robot, stop
        self._done = threading.Event()

    def __enter__(self) -> Self:
        from robotlearn.view import Viewer  # only now: it imports torch

        self._viewer: Shown = Viewer(*self._robot.simulation, self._stop, sliders=False)
        self._thread = threading.Thread(target=self._run, name="window", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        self._viewer.__exit__(kind, error, at)

    def _run(self) -> None:
        while self._viewer.is_running() and not self._done.wait(FRAME_S):
            self._robot.sync(self._viewer)
