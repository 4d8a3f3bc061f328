"""Between a policy and a driver: no sequence of goals makes a set-point leave the limits, jerk included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hal
from envs.control import MAX_DELTA, JointDeltaControl
from hal.kinematics import Chain
from hal.robot import Array
from hal.set_points import SetPoints, window
from tests.hal.hostile import Order, Recording, attack, by_set_points, check_set_points, hostile

ROBOTS = ("panda", "ur5e", "so101")
SPECS = {name: hal.load_spec(name) for name in ROBOTS}
CHAINS = {name: Chain(spec) for name, spec in SPECS.items()}


def fast(name: str, ticks: int = 10, jerk: float | None = 200.0) -> hal.RobotSpec:
    spec = SPECS[name]
    joints = tuple(joint.model_copy(update={"jerk": jerk}) for joint in spec.joints)
    changed = spec.model_copy(update={"driver_hz": ticks * spec.control_hz, "joints": joints})
    # A copy keeps what the first one has worked out: nothing may have asked that for these.
    assert changed.dt_driver == 1 / changed.driver_hz
    assert (changed.jerk[0] == jerk) or jerk is None
    return changed


def emitted(spec: hal.RobotSpec, start: Array, orders: list[Order]) -> Array:
    stream = SetPoints(spec, CHAINS[spec.name])
    stream.reset(start)
    path = []
    for order in orders:
        stream.go(order.goal)
        path += [stream.next().set_point[0] for _ in range(order.periods)]
    return np.array(path).reshape(-1, spec.dim)


@pytest.mark.parametrize("name", ROBOTS)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    ticks=st.sampled_from([1, 2, 5, 10, 25, 50]),
    jerk=st.none() | st.floats(15.0, 10_000.0),
    start=st.sampled_from(["home", "inside", "outside"]),
)
def test_no_sequence_of_goals_leaves_the_limits(
    name: str, seed: int, ticks: int, jerk: float | None, start: str
) -> None:
    spec, rng = fast(name, ticks, jerk), np.random.default_rng(seed)
    position = {
        "home": spec.home,
        "inside": np.clip(spec.home + rng.normal(0, 0.2, spec.dim), spec.lower, spec.upper),
        "outside": rng.uniform(spec.lower - 0.2, spec.upper + 0.2),
    }[start]
    path = emitted(spec, position, list(hostile(spec, rng, 14)))
    check_set_points(spec, position, path, CHAINS[name])


@settings(max_examples=25, deadline=None)
@given(goals=st.lists(st.lists(st.floats(width=64), min_size=8, max_size=8), min_size=1, max_size=12))
def test_any_floats_at_all(goals: list[list[float]]) -> None:
    spec = fast("panda", 10)
    path = emitted(spec, spec.home, [Order(np.array(goal), 4) for goal in goals])
    check_set_points(spec, spec.home, path, CHAINS["panda"])


@pytest.mark.parametrize("jerk", [None, 100.0], ids=["no jerk limit", "jerk 100"])
def test_the_written_set_points_stay_in_the_box_at_full_speed_along_a_wall(jerk: float | None) -> None:
    # Down on to z = 0.01 and to and fro along it: the mean of points on an arc isn't on it.
    spec, chain = fast("panda", 25, jerk), CHAINS["panda"]
    stream = SetPoints(spec, chain)
    stream.reset(spec.home)
    path = []
    for k in range(60):
        q = stream.set_point[None, :7]
        twist = np.array([0.0, 0.6 * (-1) ** (k // 10), -0.5, 0.0, 0.0, 0.0])
        goal = stream.set_point
        goal[:7] += np.linalg.pinv(chain.jacobian(q)[0]) @ twist * spec.dt
        stream.go(goal)
        path += [stream.next().set_point[0] for _ in range(stream.ticks)]
    check_set_points(spec, spec.home, np.array(path), chain)
    tcp = chain.position(np.array(path)[:, :7])
    assert tcp[:, 2].min() < 0.012
    assert np.ptp(tcp[-500:, 1]) > 0.1  # it doesn't stick there


def test_an_arm_outside_its_limits_and_its_box_is_let_in() -> None:
    spec = fast("panda", 10)
    low = spec.home.copy()
    low[0], low[1] = spec.upper[0] + 0.05, low[1] + 0.9
    way = [Order(low - 0.2, 10), Order(low + 0.2, 10), Order(np.full(8, 1e300), 10), Order(spec.home, 400)]
    path = emitted(spec, low, way)
    check_set_points(spec, low, path, CHAINS["panda"])
    assert path[-1] == pytest.approx(spec.home, abs=1e-12)


@pytest.mark.parametrize("ticks", [1, 5, 10])
def test_without_jerk_limits_a_goal_within_reach_is_met_in_its_period(ticks: int) -> None:
    spec = fast("so101", ticks, None)
    stream = SetPoints(spec, CHAINS["so101"])
    stream.reset(spec.home)
    goal = spec.home + 0.2 * spec.acceleration * spec.dt**2 * np.array([1, -1, 1, -1, 1, -1])
    stream.go(goal)
    path = np.array([stream.next().set_point[0] for _ in range(ticks)])
    assert np.array_equal(path[-1], goal)
    steps = np.diff(np.vstack((spec.home, path)), axis=0)
    assert np.abs(steps).max() <= 0.4 * np.abs(goal - spec.home).max() or ticks == 1  # on the way, not at once


def test_a_goal_is_reached_exactly_and_kept() -> None:
    spec = fast("panda")
    stream = SetPoints(spec, CHAINS["panda"])
    stream.reset(spec.home)
    goal = np.clip(spec.home + 0.05, spec.lower, spec.upper)
    stream.go(goal)
    assert not stream.moving
    stream.next()
    assert stream.moving
    for _ in range(100):
        last = stream.next()
    assert np.array_equal(last.set_point[0], goal)
    assert np.array_equal(stream.set_point, goal)
    assert not stream.moving


@pytest.mark.parametrize("how", ["brake", "nan", "inf"])
def test_braking_is_as_fast_as_allowed_and_lasts_until_the_next_goal(how: str) -> None:
    spec = fast("panda", 10, 200.0)
    stream = SetPoints(spec, CHAINS["panda"])
    stream.reset(spec.home)
    far = spec.home + np.array([1.5, 0, 0, 0, 0, 0, 0, 0])
    path = []
    for _ in range(3):
        stream.go(far)
        path += [stream.next().set_point[0] for _ in range(stream.ticks)]
    speed = (path[-1] - path[-2])[0] / stream.dt
    assert speed > 1.5
    if how == "brake":
        stream.brake()
    else:
        stream.go(np.where(np.arange(8) == 3, float(how), far))
    periods = 0
    while stream.moving:
        limited = stream.next()
        assert limited.held[0]
        path.append(limited.set_point[0])
        periods += 1
    # The mean's window, and what the acceleration needs.
    assert periods <= window(spec) + math.ceil(spec.velocity[0] / (spec.acceleration[0] * stream.dt))
    for _ in range(30):
        path.append(stream.next().set_point[0])
    assert np.array_equal(path[-1], path[-31])
    check_set_points(spec, spec.home, np.array(path), CHAINS["panda"])
    stream.go(spec.home)
    for _ in range(300):
        last = stream.next()
    assert not last.held[0]
    assert np.array_equal(last.set_point[0], spec.home)


def test_without_a_goal_the_arm_stays() -> None:
    spec = fast("ur5e")
    stream = SetPoints(spec, CHAINS["ur5e"])
    with pytest.raises(hal.SafetyError, match="before reset"):
        stream.next()
    start = spec.home + 0.1
    start[-1] = 0.03
    stream.reset(start)
    assert np.array_equal(stream.set_point, start)
    for _ in range(5):
        assert np.array_equal(stream.next().set_point[0], start)


def test_misuse_changes_nothing() -> None:
    spec = fast("panda")
    stream = SetPoints(spec, CHAINS["panda"])
    stream.reset(spec.home)
    stream.go(spec.home + 0.01)
    for wrong in (spec.home[:7], spec.home[None], np.zeros(0)):
        with pytest.raises(hal.SafetyError, match=r"must have shape \(8,\)"):
            stream.go(wrong)
        with pytest.raises(hal.SafetyError, match=r"must have shape \(8,\)"):
            stream.reset(wrong)
    with pytest.raises(hal.SafetyError, match="finite"):
        stream.reset(spec.home * np.nan)
    goal = spec.home + 0.02
    stream.go(goal)
    goal[:] = 99.0
    stream.next().set_point[:] = 99.0
    stream.set_point[:] = 99.0
    for _ in range(100):
        last = stream.next()
    assert last.set_point[0] == pytest.approx(np.clip(spec.home + 0.02, spec.lower, spec.upper), abs=1e-12)


WIDE = hal.Box(lower=(-5.0, -5.0, -5.0), upper=(5.0, 5.0, 5.0))


def policy_motion(spec: hal.RobotSpec, rng: np.random.Generator, steps: int, share: float) -> Array:
    """(steps, dim) set-points of the control rate, as its own limiter passes them on."""
    control = JointDeltaControl(spec, 1)
    one = np.zeros(1, np.intp)
    control.reset(one, spec.home[None])
    goals = []
    drift = np.zeros(spec.dim)
    for _ in range(steps):
        drift = np.clip(0.8 * drift + rng.normal(0, share, spec.dim), -1, 1)
        drift -= 0.3 * (control.set_point(one)[0] - spec.home)
        action = (MAX_DELTA * drift).astype(np.float32)
        action[len(spec.joints) :] = rng.uniform(spec.lower[-1], spec.upper[-1])
        goals.append(control.apply(one, action[None]).set_point[0])
    return np.array(goals)


@pytest.mark.parametrize(("share", "periods"), [(0.05, 0.05), (0.15, 0.6), (0.3, 1.3)], ids=["calm", "lively", "wild"])
@pytest.mark.parametrize(("ticks", "jerk"), [(1, None), (5, 1000.0), (10, None), (10, 1000.0)])
@pytest.mark.parametrize("name", ROBOTS)
def test_what_the_control_rate_allows_is_followed_with_little_lag(
    name: str, jerk: float | None, ticks: int, share: float, periods: float
) -> None:
    spec = fast(name, ticks, jerk).model_copy(update={"workspace": WIDE})
    goals = policy_motion(spec, np.random.default_rng(4), 40, share)
    stream = SetPoints(spec, CHAINS[name])
    stream.reset(spec.home)
    behind, before = np.zeros(spec.dim), spec.home
    for goal in goals:
        stream.go(goal)
        for tick in range(1, ticks + 1):
            line = before + tick / ticks * (goal - before)
            behind = np.maximum(behind, np.abs(line - stream.next().set_point[0]))
        before = goal
    lag = behind / (spec.velocity * spec.dt)  # in control periods at full speed
    print(f"{name} {ticks} x, window {window(spec)}: joints {lag[:-1].max():.3f}, gripper {lag[-1]:.3f} periods")
    mean = (window(spec) - 1) / (2 * ticks)
    if ticks == 1 and jerk is None:
        assert lag.max() < 1e-9
    assert lag[:-1].max() <= periods + mean
    assert lag[-1] <= 2.5 + mean  # its set-points jump from end to end
    for _ in range(200):
        last = stream.next()
    assert np.array_equal(last.set_point[0], goals[-1])


@pytest.mark.parametrize(
    ("jerk", "hz", "expected"), [(None, 100, 1), (3000.0, 100, 2), (200.0, 100, 20), (200.0, 10, 2)]
)
def test_how_many_are_averaged(jerk: float | None, hz: int, expected: int) -> None:
    assert window(fast("panda", hz // 10, jerk)) == expected


@pytest.mark.parametrize("name", ROBOTS)
def test_what_reaches_a_simulated_robot_keeps_the_limits(name: str) -> None:
    recording = attack(hal.make_robot(fast(name, 10, 500.0)), by_set_points, seed=5)
    assert len(recording.writes) > 200


def test_the_check_finds_what_it_is_for() -> None:
    spec = fast("panda", 10, 200.0)

    def unlimited(robot: Recording, orders: list[Order]) -> None:
        start = robot.read().position
        for k in range(20):
            robot.write(hal.Command(start + step(k)))

    slow = np.arange(20) * 3e-4
    moves = {
        "position of joint1": lambda k: 3.0 * (k > 5),
        "velocity of joint1": lambda k: 0.05 * (k > 5),
        "acceleration of joint1": lambda k: 0.01 * (k > 5),
        "jerk of joint1": lambda k: slow[k],
    }
    for fault, move in moves.items():

        def step(k: int, move=move) -> Array:
            return np.array([move(k), 0, 0, 0, 0, 0, 0, 0])

        with pytest.raises(AssertionError, match=fault):
            attack(hal.make_robot(spec), unlimited)

    def lower(robot: Recording, orders: list[Order]) -> None:
        stream = SetPoints(spec.model_copy(update={"workspace": hal.Box(lower=(-2, -2, -2), upper=(2, 2, 2))}))
        stream.reset(robot.read().position)
        stream.go(spec.home + np.array([1.5, 0, 0, 0, 0, 0, 0, 0]))
        for _ in range(200):
            robot.write(hal.Command(stream.next().set_point[0]))

    with pytest.raises(AssertionError, match="outside"):
        attack(hal.make_robot(spec), lower)
