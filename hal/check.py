"""`check_robot`: does a driver keep the rules of `hal.robot.Robot`? For whoever writes one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from hal.errors import DriverError, RobotCheckError
from hal.robot import Command, Reading, Robot, Steppable
from hal.spec import RobotSpec

_SLACK = 0.02  # [rad, m] how far a joint may be beyond a limit: limits are soft
_AGE = 1.0  # [s] how old the newest measurement of a robot may be that has its own time
_SETTLE = 2.0  # [s] within which a small motion must be over


class Breach(NamedTuple):
    """One rule that a driver breaks: the rule, what was seen, and what that leads to."""

    rule: str
    fault: str
    consequence: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.fault}. Consequence: {self.consequence}."


def check_robot(robot: Robot) -> None:
    """Connects the robot, puts it through the rules of `Robot`, and closes it.

    A steppable robot (a simulator) is moved by up to 0.05 rad, or m, per joint. Any other only gets its present pose as
    set-points, so a real arm stays where it is; have the e-stop at hand all the same. Give it unconnected and at rest.

    Raises:
        RobotCheckError: the rules that it breaks, each with fault and consequence.
    """
    if not isinstance(getattr(robot, "spec", None), RobotSpec):
        fault = f"spec is {getattr(robot, 'spec', None)!r}"
        raise RobotCheckError(str(Breach("spec is a RobotSpec", fault, "nobody knows the robot's joints and limits")))
    breaches: list[Breach] = []
    try:
        for check in (_unconnected, _connect, _reading, _refusals, _motion, _closing):
            found = _run(check, robot)
            breaches += found
            if found and check is _connect:
                break
    finally:
        robot.close()
    if breaches:
        lines = "\n".join(f"  - {breach}" for breach in breaches)
        raise RobotCheckError(f"{type(robot).__name__} ({robot.spec.name}) breaks {len(breaches)} rule(s):\n{lines}")


def _run(check: Callable[[Robot], Iterator[Breach]], robot: Robot) -> list[Breach]:
    found: list[Breach] = []
    try:
        found.extend(check(robot))
    except Exception as error:
        rule = f"{check.__name__.strip('_')}: allowed calls raise nothing"
        found.append(Breach(rule, f"{error!r}", "the process that runs the arm ends or stops it"))
    return found


def _unconnected(robot: Robot) -> Iterator[Breach]:
    yield from _disconnected(robot, "before connect")
    robot.stop()
    robot.close()


def _disconnected(robot: Robot, when: str) -> Iterator[Breach]:
    if (state := robot.health().state) != "disconnected":
        yield Breach(f"health is 'disconnected' {when}", f"it is {state!r}", "an absent arm is scheduled")
    hold = Command(robot.spec.home.copy())
    calls: dict[str, Callable[[], object]] = {"read": robot.read, "write": lambda: robot.write(hold)}
    for name, call in calls.items():
        if (fault := _not_refused(call)) is not None:
            yield Breach(f"{name} {when} raises DriverError", fault, "a lost arm goes unnoticed")


def _connect(robot: Robot) -> Iterator[Breach]:
    robot.connect()
    robot.connect()
    if (state := robot.health().state) not in ("ok", "degraded"):
        yield Breach("health is 'ok' or 'degraded' after connect", f"it is {state!r}", "the arm is never used")


def _reading(robot: Robot) -> Iterator[Breach]:
    spec, before = robot.spec, time.monotonic()
    first = robot.read()
    kept = first.position.copy() if isinstance(first.position, np.ndarray) else None
    second, after = robot.read(), time.monotonic()
    for name in ("position", "velocity"):
        value = getattr(second, name)
        rule = f"{name} is a ({spec.dim},) float64 array of finite numbers"
        if not isinstance(value, np.ndarray) or value.shape != (spec.dim,) or value.dtype != np.float64:
            seen = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            yield Breach(rule, f"it is {seen}", "records of this arm can't be encoded")
            return
        if not np.isfinite(value).all():
            yield Breach(rule, f"it is {value}", "the policy answers with NaN")
            return
    for i in np.flatnonzero((second.position < spec.lower - _SLACK) | (second.position > spec.upper + _SLACK)):
        fault = f"{spec.names[i]} is at {second.position[i]:.4f}, outside {spec.lower[i]:.4f} .. {spec.upper[i]:.4f}"
        yield Breach("positions are within the spec's limits", fault, "units, signs or the order of joints are wrong")
    if np.shares_memory(first.position, second.position) or not np.array_equal(first.position, kept):
        yield Breach("a reading's arrays aren't written again", "two readings share them", "records change afterwards")
    # A simulator is measured when it is read; what comes by itself, over a network say, is a little older then.
    oldest = before if robot.capability(Steppable) is not None else before - _AGE  # type: ignore[type-abstract]
    if not oldest <= first.monotonic <= second.monotonic <= after:
        fault = f"{first.monotonic}, then {second.monotonic}, when the clock went from {before} to {after}"
        yield Breach("monotonic is time.monotonic() of the measurement", fault, "delays and ages are miscounted")
    if abs(second.wall - time.time()) > 60:
        yield Breach("wall is time.time()", f"it is {second.wall}", "records of several arms can't be lined up")
    yield from _images(robot, second)


def _images(robot: Robot, reading: Reading) -> Iterator[Breach]:
    cameras = {camera.name: (camera.height, camera.width, 3) for camera in robot.spec.cameras}
    for name, image in reading.images.items():
        if name not in cameras:
            yield Breach("images are of the spec's cameras", f"{name!r} is none", "a policy has no such input")
        elif getattr(image, "dtype", None) != np.uint8 or image.shape != cameras[name]:
            fault = f"{name!r} is {getattr(image, 'dtype', type(image))} {getattr(image, 'shape', '')}"
            yield Breach(f"an image is uint8 {cameras[name]}", fault, "a policy gets another picture than in training")


def _refusals(robot: Robot) -> Iterator[Breach]:
    position = robot.read().position
    bad = position.copy()
    bad[0] = np.nan
    for what, target in (("too long", np.append(position, 0.0)), ("too short", position[:-1]), ("not finite", bad)):
        if (fault := _not_refused(partial(robot.write, Command(target)))) is not None:
            yield Breach(f"write raises DriverError when the target is {what}", fault, "the arm goes anywhere")


def _motion(robot: Robot) -> Iterator[Breach]:
    spec, stepper = robot.spec, robot.capability(Steppable)  # type: ignore[type-abstract]
    start = robot.read().position
    robot.write(Command(np.clip(start, spec.lower, spec.upper)))
    if stepper is None:
        return
    still = robot.read().position
    if not np.array_equal(still, start):
        moved = np.abs(still - start).max()
        yield Breach("write never advances time", f"the arm moved by {moved:.2e}", "batches and replays go out of step")

    # Towards the middle of the range, so that no limit is in the way.
    way = np.minimum(0.05, 0.1 * (spec.upper - spec.lower))
    goal = start + np.where(start > 0.5 * (spec.lower + spec.upper), -way, way)
    command = goal.copy()
    robot.write(Command(command))
    command[:] = start  # a driver that kept the caller's array would now hold the old pose
    _settle(robot, stepper)
    error = np.abs(robot.read().position - goal)
    for i in np.flatnonzero(error > 0.4 * way):
        fault = f"{spec.names[i]} is {error[i]:.4f} away after {_SETTLE} s"
        yield Breach("the arm goes to its set-points", fault, "a policy learns from actions that weren't done")

    robot.write(Command(start))
    stepper.step(spec.dt / 2)
    robot.stop()
    _settle(robot, stepper)
    rest = robot.read()
    stepper.step(spec.dt)
    drift = np.abs(robot.read().position - rest.position)[: len(spec.joints)]
    if (drift > 1e-3).any() or (np.abs(rest.velocity)[: len(spec.joints)] > 0.05).any():
        fault = f"{spec.names[int(drift.argmax())]} still moves {_SETTLE} s later"
        yield Breach("stop brings the arm to a standstill", fault, "an arm that lost its commands goes on moving")


def _settle(robot: Robot, stepper: Steppable) -> None:
    for _ in range(max(1, round(_SETTLE / robot.spec.dt))):
        stepper.step(robot.spec.dt)


def _closing(robot: Robot) -> Iterator[Breach]:
    robot.stop()
    robot.close()
    robot.close()
    yield from _disconnected(robot, "after close")


def _not_refused(call: Callable[[], object]) -> str | None:
    """None when the call raises DriverError; else what it did instead."""
    try:
        call()
    except DriverError:
        return None
    except Exception as error:
        return f"it raised {error!r}"
    return "it was accepted"
