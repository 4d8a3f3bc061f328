"""The property of every driver: whatever is asked for, what reaches `Robot.write` keeps the limits of the spec.

    attack(robot, by_set_points, seed=1)

`by_set_points` is one loop; another one is anything that takes a connected `Recording` and an iterable of `Order`s,
gives each goal to the arm, lets it work for so many driver periods, and returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

import hal
from hal.kinematics import Chain
from hal.robot import Array
from hal.set_points import SetPoints
from hal.wrapper import Wrapper


@dataclass(frozen=True)
class Order:
    """A goal (dim,), whatever it holds, and for how many driver periods nothing else comes."""

    goal: Array
    periods: int


class Recording(Wrapper):
    """Passes everything on, and keeps what is written and where the arm was before (`start`)."""

    def __init__(self, robot: hal.Robot) -> None:
        super().__init__(robot)
        self.start: Array | None = None
        self.writes: list[Array] = []

    def connect(self) -> None:
        self._robot.connect()

    def read(self) -> hal.Reading:
        reading = self._robot.read()
        if not self.writes:
            self.start = reading.position.copy()
        return reading

    def write(self, command: hal.Command) -> None:
        self.writes.append(np.array(command.target, dtype=np.float64))
        self._robot.write(command)

    def stop(self) -> None:
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


def check_set_points(spec: hal.RobotSpec, start: Array, writes: Array, chain: Chain | None = None) -> None:
    """Asserts every limit on the set-points (m, dim), a driver period apart, of an arm that stood at `start` (dim,)."""
    dt, joints = spec.dt_driver, len(spec.joints)
    path = np.vstack((np.tile(start, (3, 1)), writes))
    assert np.isfinite(path).all()
    velocity = np.diff(path, axis=0) / dt
    acceleration = np.diff(velocity, axis=0) / dt
    jerk = np.diff(acceleration, axis=0) / dt
    # What rounding of positions amounts to in a difference of that order.
    noise = 1e-14 * max(1.0, float(np.abs(path).max()))
    _within("position", spec, np.minimum(spec.lower, start) - path, path - np.maximum(spec.upper, start), 1e-12)
    for name, values, limit, slack in (
        ("velocity", velocity, spec.velocity, noise / dt),
        ("acceleration", acceleration, spec.acceleration, 4 * noise / dt**2),
        ("jerk", jerk, spec.jerk, 8 * noise / dt**3),
    ):
        _within(name, spec, -limit - values, values - limit, slack)
    tcp = (Chain(spec) if chain is None else chain).position(path[:, :joints])
    beyond = np.maximum(np.array(spec.workspace.lower) - tcp, tcp - np.array(spec.workspace.upper)).max(axis=1)
    furthest = max(0.0, beyond[0])
    assert beyond.max() <= furthest + 1e-9, f"write {beyond.argmax() - 3}: TCP {1000 * beyond.max():.6f} mm outside"


def _within(what: str, spec: hal.RobotSpec, below: Array, above: Array, slack: float) -> None:
    over = np.maximum(below, above)
    row, column = np.unravel_index(over.argmax(), over.shape)
    assert over.max() <= slack, f"{what} of {spec.names[column]} is {over.max():.3g} beyond its limit, in row {row}"
