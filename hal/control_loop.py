"""`ControlLoop`: the one thread that reads and writes a robot, by an absolute clock, with all that keeps it safe."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from hal.errors import DriverError, HalError, RobotFault, Stopped
from hal.estop import EStop
from hal.estop_input import Contact, EStopInput
from hal.guard import Guard
from hal.lease import Leases
from hal.priority import CONTROL, ask_for_priority
from hal.robot import Array, C, Clocked, Command, EStoppable, Health, Reading, Robot
from hal.set_points import SetPoints
from hal.wrapper import Wrapper

_BLOCKED_S = 0.5  # [s] of full torque of a joint that hardly moves
_FULL, _SLOW = 0.98, 0.05  # of the largest torque and the largest speed
_KEPT = 1 << 16  # ticks whose lateness is remembered
_HANGS_S = 5.0  # without a tick
_BRAKES_S = 2.0  # within which a stop is over
_SWITCH_S = 0.0005  # for which another thread's Python may keep the interpreter from the loop, and by default 5 ms
_SAG = 0.1  # [rad, m] within which an arm may hang below its last set-point

Activity = Literal["idle", "running", "stopped", "fault"]


@dataclass(frozen=True, slots=True)
class Ticks:
    """How punctual a control loop was: ticks done, those missed (begun more than a period late), and of the last 65,536
    the lateness and the time that they took [s].
    """

    done: int
    missed: int
    late: Array
    work: Array


class ControlLoop(Wrapper):
    """Runs a robot at `spec.driver_hz` on a thread of its own, from `connect` to `close`.

    A tick reads; looks at e-stop, lease, watchdog and torque; takes the set-point on the way to the last `write`'s
    target, which is to be reached within a control period (`SetPoints`); and writes it. So whatever becomes of who
    commands, the set-points are within the spec's limits, and the arm stops when commands stay away.

    `read` gives the newest tick's reading, `write` a target for the ticks to come: both at once. `Clocked.wait` waits
    for the next control period. The robot's Scene, Renderable and Tunable are kept.

    A stop, for whatever reason, is what the spec's `on_stop` says, begun at the next tick. After one of the loop's own,
    `write` raises Stopped until `rest`: who commands must notice. The reasons:

    * e-stop: `estop` is pressed, be it by `button`, which counts as pressed too when it can't be looked at. It stays so
      until it is cleared, and then until `rest`. A robot that has one itself, elsewhere, is told;
    * the lease, where there are `leases`, is over, or was never had. A `write` with an old token raises LeaseError;
    * watchdog: no `write` for `spec.watchdog_s` after the last one, to the nearest tick;
    * blocked: a joint gives all its torque, where that is measured, for 0.5 s and doesn't move.

    When the driver fails, the loop stops the arm if it can and ends: `health` is `fault`, `read` and `write` raise
    RobotFault. Close it, and connect anew.

    beat: called at each tick. priority: ask for SCHED_FIFO; without the right to it the loop runs as other threads do.
    While there is one, Python's threads take turns ten times as often (`sys.setswitchinterval`), here and afterwards.
    """

    def __init__(
        self,
        robot: Robot,
        *,
        estop: EStop | None = None,
        button: Contact | None = None,
        leases: Leases | None = None,
        beat: Callable[[], None] = lambda: None,
        priority: bool = True,
    ) -> None:
        super().__init__(robot)
        self.leases = leases
        self.token: int | None = None
        """Of the lease of this process's own commands: those that carry none."""
        self.realtime = False
        """Whether the loop has real-time priority."""
        if button is not None and estop is None:
            raise ValueError(f"{robot.spec.name}: a button needs an e-stop to latch")
        self.estop, self._button = estop, button
        self._input: EStopInput | None = None  # while connected
        self._outer = robot.capability(EStoppable)  # type: ignore[type-abstract]
        self._beat, self._priority = beat, priority
        self._inner = robot.capability(Clocked)  # type: ignore[type-abstract]
        guard = None if self.spec.guard is None else Guard(self.spec)
        self._set_points = SetPoints(self.spec, guard=guard)
        # The first is held throughout a tick, which may take as long as a driver that hangs; the second never is.
        self._ticking = threading.Lock()
        self._ticked = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._clear()

    def _clear(self) -> None:
        self._reading: Reading | None = None
        self._goal: Array | None = None  # the last write's, until a tick takes it
        self._token: int | None = None  # with which the last write came
        self._written: float | None = None  # monotonic time of the last write; None: none is due
        self._streaming = False  # each tick writes
        self._limp = False  # since the last stop: nothing holds the arm where set-points ended
        self._wants: Literal["", "rest", "stop"] = ""
        self._rested = False  # since the last tick
        self._stopped = ""
        self._told_outer = False  # of the e-stop
        self._fault = ""
        self._period = self._seen = 0  # control periods begun; the last that `wait` told of
        self._blocked_for: Array = np.zeros(self.spec.dim)
        self._done = self._missed = 0
        self._due = time.monotonic()  # of the tick that comes next
        self._late, self._work = np.zeros(_KEPT), np.zeros(_KEPT)

    def capability(self, kind: type[C]) -> C | None:
        return self if isinstance(self, kind) and kind is Clocked else super().capability(kind)

    def connect(self) -> None:
        with self._ticking:
            if self._thread is not None:
                return
            self._robot.connect()
            self._clear()
            self._reading = self._robot.read()
            self._set_points.reset(self._reading.position)
            self._closing.clear()
            if self._button is not None:
                self._input = EStopInput(self._button, partial(self.press_estop, "the hardware e-stop"))
            self._beat()
            self._thread = threading.Thread(target=self._run, name=f"control loop {self.spec.name}", daemon=True)
            self._thread.start()

    def read(self) -> Reading:
        with self._ticked:
            self._well()
            reading = self._reading
        assert reading is not None
        # Each receiver's arrays are its own.
        effort = None if reading.effort is None else reading.effort.copy()
        return replace(reading, position=reading.position.copy(), velocity=reading.velocity.copy(), effort=effort)

    def write(self, command: Command) -> None:
        """A target (dim,) for the next control period. One that isn't finite makes the arm brake, and stay."""
        target = np.array(command.target, dtype=np.float64)  # a copy: its sender may go on writing into it
        if target.shape != (self.spec.dim,):
            raise DriverError(f"{self.spec.name}: a target must be {self.spec.dim} numbers, not {target.shape}")
        token = self.token if command.token is None else command.token
        if self.leases is not None:
            self.leases.check(token)
        with self._ticked:
            self._well()
            if self._stopped:
                raise Stopped(f"{self.spec.name}: {self._stopped}")
            self._goal, self._token, self._written = target, token, time.monotonic()
            if self._wants == "rest":
                self._wants = ""

    def press_estop(self, by: str, why: str = "") -> None:
        """Latches the e-stop; any thread. Raises OSError where that fails, for want of disk; for this loop it holds."""
        if self.estop is None:
            raise DriverError(f"{self.spec.name}: this loop has no e-stop")
        self.estop.press(by, why)

    def clear_estop(self) -> None:
        """Releases it, on purpose, and that of a robot that has one itself; `rest` then ends the stop.

        Raises DriverError where the other may not be released from here.
        """
        if self.estop is not None:
            self.estop.clear()
        if self._outer is not None:
            self._outer.clear_estop(on_purpose=True)

    def stop(self) -> None:
        """At the next tick; the arm stays until the next `write`."""
        with self._ticked:
            self._goal = self._written = None
            self._wants = "stop"

    def rest(self) -> None:
        with self._ticked:
            self._well()
            if self.estop is not None and self.estopped:
                raise Stopped(f"{self.spec.name}: {self.estop.reason()}")
            self._stopped = ""
            self._rested = True
            if self._written is not None:
                self._goal = self._written = None
                self._wants = "rest"

    def wait(self) -> int:
        with self._ticked:
            deadline = time.monotonic() + _HANGS_S
            while self._period <= self._seen:
                self._well()
                self._ticked.wait(0.5)
                if time.monotonic() > deadline:
                    raise RobotFault(f"{self.spec.name}: the driver hangs: no tick for {_HANGS_S} s")
            self._well()
            missed, self._seen = self._period - self._seen - 1, self._period
            return missed

    def skip(self) -> None:
        self._seen = self._period

    @property
    def until_tick(self) -> float:
        """Seconds until the next tick, which takes what is written before it; at most 0 during one, or if it is due."""
        return self._due - time.monotonic()

    def set_state(self, position: Array, objects: Mapping[str, Array]) -> None:
        """As in `Scene`. No command is due until the next `write`."""
        with self._ticking:
            super().set_state(position, objects)
            reading = self._robot.read()
            with self._ticked:
                self._goal = self._written = None
                self._reading = reading
            self._set_points.reset(np.asarray(position, dtype=np.float64))
            self._streaming = False

    def close(self) -> None:
        """After a stop as the spec has it."""
        if self._thread is not None and not self._fault and (self._streaming or self._goal is not None):
            self.stop()
            with self._ticked:
                self._ticked.wait_for(lambda: self._fault or not (self._wants or self._streaming), _BRAKES_S)
        thread, self._thread = self._thread, None
        self._closing.set()
        if thread is not None:
            thread.join()
        if self._input is not None:
            self._input.close()
            self._input = None
        self._robot.close()

    def health(self) -> Health:
        if self._fault:
            return Health("fault", self._fault, self._robot.health().telemetry)
        health = self._robot.health()
        why = self._stopped or self._set_points.blocked
        if why and health.state != "disconnected":
            return Health("degraded", why, health.telemetry)
        return health

    @property
    def estopped(self) -> bool:
        """An e-stop is latched."""
        return self.estop is not None and self.estop.pressed

    @property
    def activity(self) -> Activity:
        """What it does; `stopped` until `rest`."""
        if self._fault:
            return "fault"
        return "stopped" if self._stopped else "running" if self._written is not None else "idle"

    @property
    def done(self) -> int:
        """Ticks since `connect`; of these `missed` began more than a period late."""
        return self._done

    @property
    def missed(self) -> int:
        return self._missed

    def ticks(self) -> Ticks:
        """Since `connect`."""
        done = self._done
        late, work = (np.roll(kept, -done % _KEPT)[-min(done, _KEPT) :] for kept in (self._late, self._work))
        return Ticks(done, self._missed, late, work)

    def _run(self) -> None:
        self.realtime = self._priority and ask_for_priority(CONTROL)
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_S))
        period = self._set_points.dt
        due = time.monotonic()
        while not self._closing.is_set():
            due += period
            time.sleep(max(0.0, due - time.monotonic()))
            late = time.monotonic() - due
            at = self._done % _KEPT
            self._late[at] = late
            begun = due + late
            if late > period:
                dropped = int(late / period)
                self._missed += dropped
                due += dropped * period
            with self._ticking:
                try:
                    self._tick()
                    self._beat()
                except HalError as error:
                    self._fail(str(error))
                except Exception as error:  # a driver's bug must show up in health(), not end a thread unseen
                    self._fail(f"the control loop failed: {error!r}")
            self._work[at] = time.monotonic() - begun
            self._done += 1
            self._due = due + period
            if self._fault or self._done % self._set_points.ticks == 0:
                with self._ticked:
                    self._period += 1
                    self._ticked.notify_all()
            if self._fault:
                return

    def _tick(self) -> None:
        reading = self._robot.read()
        blocked = self._blocked(reading)
        with self._ticked:
            self._reading = reading
            estop = self._estop_reason()  # here: what was looked at before a `rest` must not stop what comes after it
            before, goal, wants = self._stopped, self._goal, self._wants
            self._stopped = estop or before or self._reason_to_stop() or blocked * (self._written is not None)
            if self._stopped:
                goal = self._written = None
                wants = "stop" if not before or wants == "stop" else ""
            # What was written since a stop comes after it.
            self._goal, self._wants = goal if wants == "stop" else None, ""
            rested, self._rested = self._rested, False
            due = self._written is not None
        if rested and not self._streaming:
            self._rest_inner()
        if wants == "stop":
            self._halt(reading)
        elif wants == "rest":
            self._set_points.brake()
        elif goal is not None:
            if not self._streaming:
                self._set_points.reset(self._near(reading.position))
                self._streaming, self._limp = True, False
            self._set_points.go(goal)
        if self._streaming:
            try:
                self._robot.write(Command(self._set_points.next().set_point[0]))
            except Stopped as error:  # by a loop of its own, elsewhere
                with self._ticked:
                    self._stopped, self._goal, self._written = str(error), None, None
                self._set_points.reset(reading.position)
                self._streaming = False
                return
            self._streaming = due or self._set_points.moving
            if not self._streaming:
                self._rest_inner()

    def _estop_reason(self) -> str:
        if self.estop is None:
            return ""
        if self._input is not None and not self._input.alive() and not self.estop.pressed:
            with contextlib.suppress(OSError):  # it holds all the same
                self.estop.press("the hardware e-stop", "its input hangs")
        if not self.estop.pressed:
            self._told_outer = False
            return ""
        reason = self.estop.reason()
        if self._outer is not None and not self._told_outer:
            self._told_outer = True
            self._outer.latch_estop(self.estop.name, reason)
        return reason or "e-stop"  # cleared between the two looks: a stop all the same

    def _rest_inner(self) -> None:
        """Of a robot that has such a loop itself, elsewhere: no command is due there either."""
        if self._inner is not None:
            with contextlib.suppress(Stopped):
                self._inner.rest()

    def _reason_to_stop(self) -> str:
        if self._written is None:
            return ""
        silent = time.monotonic() - self._written
        if silent > self.spec.watchdog_s - self._set_points.dt / 2:  # this tick is the one that is nearest to it
            return f"watchdog: no command for {self.spec.watchdog_s} s"
        if self.leases is not None and not self.leases.valid(self._token):
            return "the lease of who commanded is over"
        return ""

    def _blocked(self, reading: Reading) -> str:
        if reading.effort is None:
            return ""
        full = np.abs(reading.effort) >= _FULL * self.spec.effort  # not so where it isn't measured: NaN
        slow = np.abs(reading.velocity) <= _SLOW * self.spec.velocity
        full[len(self.spec.joints) :] = False  # a gripper's work is to press
        self._blocked_for = np.where(full & slow, self._blocked_for + self._set_points.dt, 0.0)
        if self._blocked_for[worst := int(self._blocked_for.argmax())] > _BLOCKED_S:
            self._blocked_for[:] = 0.0
            effort = abs(reading.effort[worst])
            return f"{self.spec.names[worst]} is blocked: {effort:.2f} N m for {_BLOCKED_S} s without moving"
        return ""

    def _halt(self, reading: Reading) -> None:
        """Begin what `on_stop` says."""
        if self.spec.on_stop == "brake" and self._streaming:
            self._set_points.brake()
            return
        if self.spec.on_stop != "limp" and not self._streaming and self._inner is None and self._stands(reading):
            return  # it is held already; to hold where it is measured, a little below, would sink it at each stop
        self._robot.stop()
        # The gripper's set-point stays, here as in the driver: it goes on holding what it holds.
        joints = len(self.spec.joints)
        self._set_points.reset(np.append(reading.position[:joints], self._set_points.set_point[joints:]))
        self._streaming, self._limp = False, self.spec.on_stop == "limp"

    def _stands(self, reading: Reading) -> bool:
        """The arm is where set-points ended, but for what it hangs below that."""
        return bool((np.abs(self._set_points.set_point - reading.position) < _SAG).all())

    def _near(self, position: Array) -> Array:
        """From where set-points begin: where they ended, unless the arm was moved since, or has fallen."""
        if self._limp:
            return position
        last = self._set_points.set_point
        return np.where(np.abs(last - position) < _SAG, last, position)

    def _fail(self, why: str) -> None:
        self._fault = why.removeprefix(f"{self.spec.name}: ")
        with contextlib.suppress(HalError):
            self._robot.stop()

    def _well(self) -> None:
        if self._thread is None:
            raise DriverError(f"{self.spec.name}: not connected: call connect() first")
        if self._fault:
            raise RobotFault(f"{self.spec.name}: {self._fault}")
