"""The property of every driver: whatever is asked for, what reaches `Robot.write` keeps the limits of the spec.

    attack(robot, by_set_points, seed=1)

`by_set_points` is one loop; another one is anything that takes a connected `Recording` and an iterable of `Order`s,
gives each goal to the arm, lets it work for so many driver periods, and returns.

Of a driver whose device is elsewhere, what counts is what arrives there: `attack_device` sends it the same
orders through a control loop that is stopped and torn from its device, and whoever listens there fills an `Arrived`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import hal
from hal.control_loop import ControlLoop
from hal.errors import LeaseError, Stopped
from hal.estop import EStop
from hal.kinematics import Chain
from hal.lease import Leases
from hal.robot import Array
from hal.set_points import SetPoints, window
from hal.wrapper import Wrapper
from tests.waiting import until

_STRIDES = (1, 2, 4, 8, 16, 32)  # periods over which differences are taken where set-points are rounded


@dataclass(frozen=True)
class Order:
    """A goal (dim,), whatever it holds, and for how many driver periods nothing else comes."""

    goal: Array
    periods: int


class Recording(Wrapper):
    """Passes everything on, and keeps what is written and where the arm was when it was first read (`start`)."""

    def __init__(self, robot: hal.Robot) -> None:
        super().__init__(robot)
        self.start: Array | None = None
        self.forget()

    def forget(self) -> None:
        """All that was written before."""
        self.writes: list[Array] = []
        self.stops = 0

    @property
    def told(self) -> int:
        """How many set-points and stops there were."""
        return len(self.writes) + self.stops

    def connect(self) -> None:
        self.start = None
        self.forget()
        self._robot.connect()

    def read(self) -> hal.Reading:
        reading = self._robot.read()
        if self.start is None:
            self.start = reading.position.copy()
        return reading

    def write(self, command: hal.Command) -> None:
        self.writes.append(np.array(command.target, dtype=np.float64))
        self._robot.write(command)

    def stop(self) -> None:
        self.stops += 1
        self._robot.stop()

    def close(self) -> None:
        self._robot.close()

    def health(self) -> hal.Health:
        return self._robot.health()

    def step(self, dt: float) -> None:
        self._having(hal.Steppable).step(dt)


Loop = Callable[[Recording, Iterable[Order]], None]


def attack(robot: hal.Robot, loop: Loop, *, seed: int = 0, orders: int = 60) -> Recording:
    """Connects the robot, lets `loop` carry out hostile orders, closes it, and checks all that was written."""
    with Recording(robot) as recording:
        assert isinstance(recording, Recording)
        loop(recording, hostile(recording.spec, np.random.default_rng(seed), orders))
    assert recording.start is not None, "the loop never read where the arm is"
    check_set_points(recording.spec, recording.start, np.array(recording.writes))
    return recording


def by_set_points(robot: Recording, orders: Iterable[Order]) -> None:
    """The shortest loop there is."""
    set_points = SetPoints(robot.spec)
    set_points.reset(robot.read().position)
    stepper = robot.capability(hal.Steppable)
    for order in orders:
        set_points.go(order.goal)
        for _ in range(order.periods):
            robot.write(hal.Command(set_points.next().set_point[0]))
            if stepper is not None:
                stepper.step(set_points.dt)


@dataclass
class Stretch:
    """Set-points (dim,) that reached a device without a break. after: the pose that the driver had told it by itself,
    because it was connected or stopped; start: from where they begin, where that is known to the last digit.
    """

    after: Array
    start: Array | None
    path: list[Array]


class Arrived:
    """What reached a device: `take` is for whoever listens there, in the order in which it came."""

    def __init__(self) -> None:
        self.stretches: list[Stretch] = []
        self.path: list[Array] = []

    def take(self, set_point: Array) -> None:
        self.path.append(set_point)

    def ready(self, pose: Array) -> None:
        """The device takes set-points again, and its own is `pose`: so if it gave no torque when its stretch began."""
        if self.stretches and self.path is self.stretches[-1].path and not self.path:
            self.stretches[-1].after = pose

    def begin(self, start: Array | None) -> None:
        """The newest is a pose that the driver told by itself, and all of the device's from now on is a new stretch."""
        after = self.path.pop()
        self.path = []
        self.stretches.append(Stretch(after, start, self.path))

    def end(self) -> None:
        """What comes from now on is none of the last stretch."""
        self.path = []


@dataclass(frozen=True)
class Device:
    """One that can be lost and come back. quantum: as in `check_set_points`."""

    arrived: Arrived
    lose: Callable[[], None]
    restore: Callable[[], None]
    quantum: Array | float = 0.0


def attack_device(
    robot: hal.Robot, device: Device, folder: Path, *, seed: int, orders: int = 12, nearby: float = 0.3
) -> list[Stretch]:
    """Hostile orders through a control loop: undisturbed, through an e-stop, by two who want the lease, when the device
    is lost in a motion, and when it is back. Checks all that arrived, of which nothing may be missing.

    With on_stop: brake nothing but a connection ends a stretch; with others, whose watchdog must be patient, a stop
    does. folder: for the lease's token. nearby: [rad] from the pose that a driver tells by itself, within which the
    set-points after it begin: the arm moves between two readings, and hangs below what it is told.
    """
    spec, arrived, rng = robot.spec, device.arrived, np.random.default_rng(seed)
    recording, estop = Recording(robot), EStop("attacked")
    loop = ControlLoop(recording, estop=estop, leases=Leases(folder / "token"))
    assert loop.leases is not None

    def connect() -> None:
        arrived.end()
        loop.connect()
        until(lambda: arrived.path, "the pose that a driver begins with")
        arrived.begin(recording.start)

    def settle() -> None:
        _settle(loop)
        until(lambda: len(arrived.path) >= recording.told, "all that was sent")
        assert len(arrived.path) == recording.told
        if spec.on_stop == "brake":
            assert not recording.stops
        else:
            recording.forget()
            arrived.begin(None)

    try:
        connect()
        first = loop.leases.acquire("first", 60.0).token
        _fire(loop, hostile(spec, rng, orders), [first])
        _swing(loop, rng, first)
        estop.press("an attack")
        _fire(loop, hostile(spec, rng, orders // 2), [first])
        until(lambda: loop.activity == "stopped", "the stop")
        estop.clear()
        settle()
        _fire(loop, hostile(spec, rng, orders), [first])
        _swing(loop, rng, first)
        second = loop.leases.acquire("second", 60.0, take=True).token
        _fire(loop, hostile(spec, rng, orders // 2), [first, None])
        settle()
        _fire(loop, hostile(spec, rng, orders), [second, first])
        _swing(loop, rng, second)
        device.lose()
        until(lambda: loop.activity == "fault", "the loss to be noticed")
        loop.close()
        device.restore()
        connect()
        _fire(loop, hostile(spec, rng, orders), [second])
        loop.leases.release(second)
        _settle(loop)
        until(lambda: len(arrived.path) >= recording.told, "all that was sent")
        if spec.on_stop != "brake":
            arrived.path.pop()
        arrived.end()
    finally:
        estop.clear()
        loop.close()
    joints, chain = slice(len(spec.joints)), Chain(spec)
    for stretch in arrived.stretches:
        path = np.array(stretch.path)
        check_set_points(spec, stretch.start, path, chain, quantum=device.quantum)
        begun = np.abs(path[0] - stretch.after)
        jump, step = begun[joints].max(), spec.velocity * spec.dt_driver + device.quantum
        assert jump <= nearby, f"the device was told a pose, then one {jump:.3f} rad from it"
        assert stretch.start is not None or spec.on_stop == "limp" or (begun <= step)[len(spec.joints) :].all(), (
            f"{begun} from the pose of a stop: the gripper let go"
        )
    return arrived.stretches


def _fire(loop: ControlLoop, orders: Iterable[Order], tokens: list[int | None]) -> None:
    """Whatever is refused; each order comes with every token."""
    for order in orders:
        for token in tokens:
            try:
                loop.write(hal.Command(order.goal, token))
            except Stopped:
                with contextlib.suppress(Stopped):
                    loop.rest()
            except LeaseError:
                pass
        _pass(loop, order.periods)


def _swing(loop: ControlLoop, rng: np.random.Generator, token: int) -> None:
    """Until the arm is on its way somewhere, fast."""
    spec = loop.spec
    goal = np.where(rng.random(spec.dim) < 0.5, spec.lower, spec.upper)
    for _ in range(6):
        _fire(loop, [Order(goal, 2)], [token])


def _settle(loop: ControlLoop) -> None:
    # Nothing was due, and so nothing had to be stopped, where the watchdog was first.
    until(lambda: loop.activity in ("stopped", "idle"), "the stop")
    spec = loop.spec
    _pass(loop, 3 + math.ceil(float((spec.velocity / (spec.acceleration * spec.dt_driver)).max())) + window(spec))


def _pass(loop: ControlLoop, periods: int) -> None:
    done = loop.done
    until(lambda: loop.done >= done + periods or loop.activity == "fault", f"{periods} ticks")
    assert loop.activity != "fault", loop.health().detail


def hostile(spec: hal.RobotSpec, rng: np.random.Generator, orders: int) -> Iterator[Order]:
    """Jumps, floods, silence, numbers that are none or far too large, and a smooth motion in the wrong order."""
    ticks = max(1, round(spec.dt / spec.dt_driver))
    smooth = spec.home + np.cumsum(rng.uniform(-1, 1, (orders, spec.dim)) * 0.3 * spec.velocity * spec.dt, axis=0)
    rng.shuffle(smooth[orders // 2 :])
    kinds = ("smooth", "anywhere", "limit", "flip", "huge", "tiny", "nan", "partly nan", "inf", "same")
    goal = spec.home.copy()
    for index in range(orders):
        goal = {
            "smooth": lambda i=index: smooth[i],
            "anywhere": lambda: rng.uniform(spec.lower, spec.upper),
            "limit": lambda: np.where(rng.random(spec.dim) < 0.5, spec.lower, spec.upper),
            "flip": lambda g=goal: np.nan_to_num(g, posinf=0.0, neginf=0.0) * -1.0,
            "huge": lambda: rng.choice([-1e300, 1e300, -1.7e308, 1e9], spec.dim),
            "tiny": lambda: rng.choice([5e-324, -5e-324, 1e-300, 0.0], spec.dim),
            "nan": lambda: np.full(spec.dim, np.nan),
            "partly nan": lambda: np.where(rng.random(spec.dim) < 0.3, np.nan, spec.home),
            "inf": lambda: rng.choice([-np.inf, np.inf, 0.0], spec.dim),
            "same": lambda g=goal: g,
        }[str(rng.choice(kinds))]()
        # Twice within a period, in time, late, and hardly ever.
        yield Order(goal.copy(), int(rng.choice([0, 1, ticks, ticks, ticks + 1, 3 * ticks])))


def check_set_points(
    spec: hal.RobotSpec, start: Array | None, writes: Array, chain: Chain | None = None, *, quantum: Array | float = 0.0
) -> None:
    """Asserts every limit on the set-points (m, dim), a driver period apart, of an arm that stood at `start` (dim,).

    start: None where it isn't known to the last digit; what is asserted then is that the second set-point is as near to
    the first one as it is from rest. quantum: (dim,) below which set-points were rounded, by less than one each; that
    is a quantum in a difference, two in one of the second order. A mean of accelerations is one, too, and over m
    periods that error is m * m times less, so that what the quantum hides of one period shows over many.
    """
    dt, joints = spec.dt_driver, len(spec.joints)
    path = writes if start is None else np.vstack((np.tile(start, (3, 1)), writes))
    first = 0 if start is None else 3
    assert np.isfinite(path).all()
    quantum = np.broadcast_to(quantum, spec.dim)
    rest = path[0] if start is None else start
    _within("position", spec, np.minimum(spec.lower, rest) - path, path - np.maximum(spec.upper, rest), quantum + 1e-12)
    # What rounding of positions amounts to in a difference of that order.
    noise = 1e-14 * max(1.0, float(np.abs(path).max()))
    for stride in _STRIDES if quantum.any() else _STRIDES[:1]:
        moved = path
        for order, (name, limit) in enumerate(
            (("velocity", spec.velocity), ("acceleration", spec.acceleration), ("jerk", spec.jerk)), start=1
        ):
            moved = (moved[stride:] - moved[:-stride]) / (stride * dt)
            if len(moved):
                slack = 2 ** (order - 1) * (2 * noise + quantum) / (stride * dt) ** order
                _within(name, spec, -limit - moved, moved - limit, slack, f", over {stride} periods")
    if start is None and len(path) > 1:
        beyond = np.abs(path[1] - path[0])[None] - 2 * spec.acceleration * dt**2
        _within("the first step", spec, beyond, beyond, quantum + 1e-12)
    chain = Chain(spec) if chain is None else chain
    tcp = chain.position(path[:, :joints])
    beyond = np.maximum(np.array(spec.workspace.lower) - tcp, tcp - np.array(spec.workspace.upper))
    furthest = max(0.0, beyond[0].max())
    if quantum.any():
        rounded = quantum[:joints]
        beyond = beyond - np.abs(chain.jacobian(path[:, :joints])[:, :3]) @ rounded - rounded.sum() ** 2
    worst = beyond.max(axis=1)
    assert worst.max() <= furthest + 1e-9, f"write {worst.argmax() - first}: TCP {1000 * worst.max():.6f} mm outside"


def _within(what: str, spec: hal.RobotSpec, below: Array, above: Array, slack: Array | float, how: str = "") -> None:
    over = np.maximum(below, above) - slack
    row, column = np.unravel_index(over.argmax(), over.shape)
    assert over.max() <= 0, f"{what} of {spec.names[column]} is {over.max():.3g} beyond its limit, in row {row}{how}"
