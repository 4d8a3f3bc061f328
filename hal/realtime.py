"""`RealTime`: runs a steppable robot by the wall clock, so that a simulated arm behaves as a real one does."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from hal.errors import DriverError, HalError, RobotFault
from hal.robot import Array, Command, Health, Reading, Robot, Steppable
from hal.wrapper import Wrapper


class Pacer:
    """Ticks of an absolute clock: the k-th is due at start + k * period, however long the work of the others takes.

    Ticks that are late are made up for without a pause; those more than `catch_up` seconds late are dropped and counted
    in `missed`.
    """

    def __init__(self, start: float, period: float, catch_up: float) -> None:
        if not (period > 0 and catch_up >= 0):
            raise ValueError(f"period ({period}) must be positive and catch_up ({catch_up}) not negative")
        self.missed = 0
        self._due, self._period, self._catch_up = start, period, catch_up

    def next(self, now: float) -> float:
        """Moves on to the next tick; the seconds to wait for it, 0 when it is due already."""
        self._due += self._period
        late = now - self._due
        if late > self._catch_up:
            dropped = int(late / self._period)
            self.missed += dropped
            self._due += dropped * self._period
        return max(self._due - now, 0.0)


class RealTime(Wrapper):
    """A steppable robot whose time passes by itself, on a thread of its own, between `connect` and `close`.

    It keeps the robot's Scene, Tunable and Renderable and hides its Steppable. It has a servo-side watchdog, as a good
    arm has: when no `write` arrives for `spec.watchdog_s` after the last one, the robot is stopped, and `health()` is
    `degraded` until the next `write`. All methods may be called from any thread; each waits for the step (or picture)
    that is being made. Whoever holds up the clock for more than `catch_up` seconds makes the simulation lose time:
    `missed` counts the ticks.

    When a step fails, time stands still: `health()` is `fault`, `read` and `write` raise RobotFault; close it.

    robot: not yet connected, or connected; owned by this object from now on. period: seconds between two steps.

    Raises:
        DriverError: the robot isn't Steppable.
    """

    def __init__(self, robot: Robot, *, period: float = 0.005, catch_up: float = 0.1) -> None:
        stepper = robot.capability(Steppable)  # type: ignore[type-abstract]
        if stepper is None:
            raise DriverError(
                f"{robot.spec.name}: RealTime needs a robot that can be stepped; this one has its own time"
            )
        Pacer(0.0, period, catch_up)  # refuses settings that can't work, before a thread runs
        super().__init__(robot, threading.RLock())  # of the robot and all that follows
        self._stepper, self._period, self._catch_up = stepper, period, catch_up
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._written: float | None = None  # monotonic time of the last write; None: nothing to watch
        self._tripped = False
        self._fault = ""
        self._missed = 0

    @property
    def missed(self) -> int:
        """Ticks of simulated time that were dropped since `connect`."""
        return self._missed

    def connect(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self._robot.connect()
            self._closing.clear()
            self._written, self._tripped, self._fault, self._missed = None, False, "", 0
            self._thread = threading.Thread(target=self._run, name=f"realtime {self.spec.name}", daemon=True)
            self._thread.start()

    def read(self) -> Reading:
        with self._lock:
            self._well()
            return self._robot.read()

    def write(self, command: Command) -> None:
        with self._lock:
            self._well()
            self._robot.write(command)
            self._written, self._tripped = time.monotonic(), False

    def stop(self) -> None:
        with self._lock:
            self._robot.stop()

    def close(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            self._closing.set()
        if thread is not None:
            thread.join()
        with self._lock:
            self._robot.close()

    def health(self) -> Health:
        if self._thread is None:
            return Health("disconnected")
        if self._fault:
            return Health("fault", self._fault)
        if self._tripped:
            return Health("degraded", f"watchdog: no command for {self.spec.watchdog_s} s, the arm was stopped")
        return self._robot.health()

    def set_state(self, position: Array, objects: Mapping[str, Array]) -> None:
        """As in `Scene`. The watchdog then waits for the first `write` again."""
        with self._lock:
            super().set_state(position, objects)
            self._written, self._tripped = None, False

    def _well(self) -> None:
        if self._thread is None:
            raise DriverError(f"{self.spec.name}: not connected: call connect() first")
        if self._fault:
            raise RobotFault(f"{self.spec.name}: {self._fault}")

    def _run(self) -> None:
        pacer = Pacer(time.monotonic(), self._period, self._catch_up)
        while not self._closing.wait(pacer.next(time.monotonic())):
            with self._lock:
                self._missed = pacer.missed
                try:
                    if self._written is not None and time.monotonic() - self._written > self.spec.watchdog_s:
                        self._robot.stop()
                        self._written, self._tripped = None, True
                    self._stepper.step(self._period)
                except HalError as error:
                    self._fault = str(error)
                except Exception as error:  # a driver's bug must show up in health(), not end a thread unseen
                    self._fault = f"the driver failed: {error!r}"
            if self._fault:
                return
