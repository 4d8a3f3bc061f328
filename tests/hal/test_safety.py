"""The limiter: whatever the targets, the set-points keep every limit; and what is allowed goes through as it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hal
from hal.kinematics import Chain
from hal.robot import Array

SPEC = hal.load_spec("panda")
CHAIN = Chain(SPEC)
EPS = 1e-9
Targets = Callable[[np.random.Generator, Array, int], Array]


def limiter(n: int = 1, spec: hal.RobotSpec = SPEC, start: Array | None = None) -> hal.SafetyLimiter:
    made = hal.SafetyLimiter(spec, n, chain=CHAIN)
    made.reset(np.tile(spec.home, (n, 1)) if start is None else start)
    return made


def at(hz: float) -> hal.RobotSpec:
    """The arm with another control rate. Validated anew: a copy of a spec keeps its period."""
    spec = hal.RobotSpec.model_validate(SPEC.model_dump() | {"control_hz": hz, "driver_hz": None})
    assert spec.dt == 1 / hz
    return spec


def outside(position: Array, spec: hal.RobotSpec = SPEC) -> Array:
    """How far the TCP is out of the box, by the full forward kinematics."""
    tcp = CHAIN.forward(position[:, :7])[0]
    return np.maximum(spec.workspace.lower - tcp, tcp - spec.workspace.upper).max(axis=1)


class Watch:
    """Differences of the set-points, computed here anew, held against the spec."""

    def __init__(self, start: Array) -> None:
        self.position, self.velocity = start, np.zeros_like(start)

    def see(self, position: Array, dt: float, inside: bool = True) -> None:
        velocity = (position - self.position) / dt
        assert np.isfinite(position).all()
        assert (position >= SPEC.lower - EPS).all()
        assert (position <= SPEC.upper + EPS).all()
        assert (np.abs(velocity) <= SPEC.velocity + EPS).all()
        assert (np.abs(velocity - self.velocity) / dt <= SPEC.acceleration + EPS).all()
        if inside:
            assert outside(position).max() <= EPS
        self.position, self.velocity = position, velocity


ATTACKS: dict[str, Targets] = {
    "anywhere": lambda rng, p, k: rng.uniform(SPEC.lower, SPEC.upper, p.shape),
    "steps as a policy makes them": lambda rng, p, k: p + rng.uniform(-0.3, 0.3, p.shape),
    "far beyond": lambda rng, p, k: rng.choice([-1e9, 1e9], p.shape),
    "not finite": lambda rng, p, k: rng.choice([1e308, -1e308, np.inf, -np.inf, np.nan, 0.0], p.shape),
    "now and then not finite": lambda rng, p, k: np.where(
        rng.random((len(p), 1)) < 0.2, np.nan, p + np.sign(k % 14 - 6)
    ),
    "from limit to limit": lambda rng, p, k: np.where((k // 9) % 2, SPEC.upper, SPEC.lower) + np.zeros_like(p),
    "back and forth": lambda rng, p, k: p + 0.25 * (-1) ** k,
    "into the table": lambda rng, p, k: p + np.array([0.0, 0.2, 0.0, -0.1, 0.0, 0.1, 0.0, 0.0]),
    "on to the wall and along": lambda rng, p, k: p + np.array([0.2, 0.15, 0.0, 0.15, 0.0, 0.0, 0.0, 0.0]),
    "as fast as it goes, then back": lambda rng, p, k: p + np.sign(np.sin(k / 3)) * SPEC.velocity * SPEC.dt,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_sequence_of_targets_breaks_a_limit(attack: str) -> None:
    n, rng = 24, np.random.default_rng(11)
    limit = limiter(n)
    watch = Watch(limit.set_point)
    with np.errstate(all="raise"):
        for k in range(120):
            limited = limit.limit(ATTACKS[attack](rng, watch.position, k))
            watch.see(limited.set_point, SPEC.dt)


@settings(max_examples=60)
@given(st.lists(st.lists(st.floats(width=64), min_size=8, max_size=8), min_size=1, max_size=25))
def test_any_floats_at_all(targets: list[list[float]]) -> None:
    limit = limiter()
    watch = Watch(limit.set_point)
    for target in targets:
        watch.see(limit.limit(np.array([target])).set_point, SPEC.dt)


def test_periods_may_get_longer() -> None:
    n, rng = 32, np.random.default_rng(5)
    limit = limiter(n)
    watch = Watch(limit.set_point)
    for _ in range(200):
        dt = float(rng.choice([0.1, 0.1, 0.1001, 0.137, 0.35]))
        # The workspace is promised for equal periods only.
        watch.see(limit.limit(rng.uniform(SPEC.lower, SPEC.upper, (n, 8)), dt).set_point, dt, inside=False)


@pytest.mark.parametrize("hz", [3.0, 50.0, 200.0])
def test_other_rates(hz: float) -> None:
    spec = at(hz)
    limit = limiter(8, spec)
    watch, rng = Watch(limit.set_point), np.random.default_rng(2)
    goal = watch.position
    for k in range(300):
        if k % 20 == 0:
            goal = rng.uniform(SPEC.lower, SPEC.upper, (8, 8))
        watch.see(limit.limit(goal).set_point, spec.dt)


def test_every_set_point_of_a_long_braking_path_is_looked_at() -> None:
    spec = at(200.0)
    limit, rng, dt = limiter(8, spec), np.random.default_rng(1), 1 / 200
    beyond = 0.0
    for _ in range(40):
        position = spec.home[:7] + rng.normal(0, 0.5, (8, 7))
        velocity = rng.uniform(-1, 1, (8, 7)) * spec.velocity[:7]
        found = limit._workspace.excess(position, velocity, dt)
        p, v, worst = position + velocity * dt, velocity, np.zeros(8)
        for _ in range(70):
            worst = np.maximum(worst, outside(p))
            v = v - np.clip(v, -spec.acceleration[:7] * dt, spec.acceleration[:7] * dt)
            p = p + v * dt
        assert found == pytest.approx(worst, abs=1e-9)
        beyond = max(beyond, float(worst.max()))
    assert beyond > 0.1


def test_what_is_within_the_limits_goes_through_unchanged() -> None:
    n, rng = 16, np.random.default_rng(0)
    limit = limiter(n)
    position, velocity = limit.set_point, np.zeros((n, 8))
    position[:, 7] = 0.04
    limit.reset(position)
    for _ in range(200):
        change = rng.uniform(-1, 1, (n, 8)) * SPEC.acceleration * SPEC.dt
        velocity = np.clip(velocity * 0.5 + 0.3 * change, -0.3 * SPEC.velocity, 0.3 * SPEC.velocity)
        velocity -= 0.5 * (position - SPEC.home * [1, 1, 1, 1, 1, 1, 1, 0.5])  # stays near home
        velocity = np.clip(
            velocity,
            limit._velocity - 0.9 * SPEC.acceleration * SPEC.dt,
            limit._velocity + 0.9 * SPEC.acceleration * SPEC.dt,
        )
        velocity = np.clip(velocity, -SPEC.velocity, SPEC.velocity)
        target = position + velocity * SPEC.dt
        limited = limit.limit(target)
        assert np.array_equal(limited.set_point, target)
        assert not limited.clipped.any()
        assert not limited.held.any()
        position = limited.set_point


def test_a_step_is_taken_without_overshoot() -> None:
    limit, goal = limiter(), SPEC.home.copy()
    goal[:7] += [0.5, 0.5, -0.5, 0.3, 0.7, -0.4, 0.6]
    goal[7] = 0.0
    way = np.array([limit.limit(goal[None]).set_point[0] for _ in range(15)])
    assert np.array_equal(way[-1], goal)
    assert (np.diff(np.abs(goal - np.vstack((SPEC.home, way))), axis=0) <= 0).all()


@pytest.mark.parametrize("speed", [0.4, 1.0, -1.0, 1.6])
def test_a_moving_target_is_caught_up_with_and_then_followed(speed: float) -> None:
    limit, goal = limiter(), SPEC.home.copy()
    goal[1] -= np.sign(speed) * 0.1  # moves past the arm, at a speed that takes joint 2 some periods to reach
    lag = []
    for _ in range(8):
        lag.append((goal - limit.limit(goal[None]).set_point[0])[1] * np.sign(speed))
        goal[1] += speed * SPEC.dt
    assert lag[-1] == pytest.approx(0.0, abs=1e-12)
    assert min(lag[4:]) >= -1e-12  # without running ahead of it


def test_a_limit_is_reached_exactly() -> None:
    limit = limiter()
    for _ in range(10):
        point = limit.limit(np.array([[*SPEC.home[:7], -1.0]])).set_point
    assert point[0, 7] == 0.0
    for _ in range(12):
        limited = limit.limit(np.array([[*SPEC.home[:6], 99.0, 0.0]]))
    assert limited.set_point[0, 6] == SPEC.upper[6]
    assert limited.clipped.all()


def test_the_arm_slides_along_a_wall() -> None:
    # Down on to the plane z = 0.01 while turning about the base: it must not stick there.
    limit = limiter()
    for _ in range(100):
        p = limit.set_point
        q = p[:, :7]
        jacobian = CHAIN.jacobian(q)[0]
        tcp = CHAIN.position(q)[0]
        twist = np.array([0.0, 0.1 if tcp[1] < 0.4 else 0.0, -0.3, 0, 0, 0])
        limit.limit(np.hstack((q + np.linalg.pinv(jacobian) @ twist * SPEC.dt, p[:, 7:])))
    tcp = CHAIN.position(limit.set_point[:, :7])[0]
    assert tcp[2] == pytest.approx(0.01, abs=0.003)
    assert tcp[2] >= 0.01 - EPS
    assert tcp[1] > 0.2


def test_an_arm_outside_comes_back_in_and_gets_no_further_out() -> None:
    low = SPEC.home.copy()
    low[1] += 0.9  # the hand is then in the table
    low[0] = SPEC.upper[0] + 0.05  # and joint 1 beyond its limit
    start = outside(low[None]).max()
    assert start > 0.05
    limit = limiter(1, start=low[None])
    for target in (
        low + np.array([0, 0.2, 0, 0, 0, 0, 0, 0]),
        low - np.array([0, 0.2, 0, 0, 0, 0, 0, 0]),
        np.full(8, 1e9),
    ):
        for _ in range(4):
            point = limit.limit(target[None]).set_point
            assert outside(point).max() <= start + EPS
            assert point[0, 0] <= low[0] + EPS
    for _ in range(30):
        point = limit.limit(SPEC.home[None]).set_point
    assert point[0] == pytest.approx(SPEC.home, abs=1e-12)


@pytest.mark.parametrize("how", ["estop", "nan"])
def test_a_held_arm_outside_its_limits_stays_where_it_is(how: str) -> None:
    beyond = SPEC.home.copy()
    beyond[0], beyond[3] = SPEC.upper[0] + 0.05, SPEC.lower[3] - 0.02
    limit = limiter(1, start=beyond[None])
    target = np.where(how == "nan", np.nan, SPEC.home)
    if how == "estop":
        limit.estop()
    for _ in range(5):
        assert np.array_equal(limit.limit(target[None]).set_point[0], beyond)


def test_a_call_can_be_undone() -> None:
    rng, undone, plain = np.random.default_rng(3), limiter(3), limiter(3)
    for _ in range(30):
        target, other = rng.uniform(SPEC.lower, SPEC.upper, (2, 3, 8))
        saved = undone.save()
        undone.limit(other)
        undone.restore(saved)
        assert np.array_equal(undone.limit(target).set_point, plain.limit(target).set_point)
        assert np.array_equal(undone.velocity, plain.velocity)


def test_estop_brakes_stays_and_latches() -> None:
    limit = limiter(2)
    watch = Watch(limit.set_point)
    fast = SPEC.home + np.array([0.8, 0.3, 0, 0, 0.5, 0, 0, 0])
    for _ in range(2):
        watch.see(limit.limit(np.tile(fast, (2, 1))).set_point, SPEC.dt)
    assert watch.velocity[0, 0] > 1.0
    limit.estop([0])
    for _ in range(8):
        limited = limit.limit(np.tile(fast, (2, 1)))
        before = watch.position
        watch.see(limited.set_point, SPEC.dt)
        assert limited.held.tolist() == [True, False]
    assert np.array_equal(watch.position[0], before[0])  # at rest
    assert watch.position[1] == pytest.approx(fast)  # the other went on
    limit.reset(watch.position)  # no way round the latch
    assert limit.stopped.tolist() == [True, False]
    assert limit.limit(np.tile(fast, (2, 1))).held[0]
    limit.clear()
    for _ in range(12):
        watch.see(limit.limit(np.tile(fast, (2, 1))).set_point, SPEC.dt)
    assert watch.position[0] == pytest.approx(fast)


def test_estop_stops_as_fast_as_the_acceleration_allows() -> None:
    limit = limiter()
    for _ in range(3):
        limit.limit((SPEC.home + np.array([1.5, 0, 0, 0, 0, 0, 0, 0]))[None])
    speed = limit._velocity[0, 0]
    limit.estop()
    first = limit.set_point[0, 0]
    step = limit.limit(SPEC.home[None]).set_point[0, 0] - first
    assert step == pytest.approx((speed - SPEC.acceleration[0] * SPEC.dt) * SPEC.dt)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_target_that_is_not_finite_holds_its_arm_only(bad: float) -> None:
    limit = limiter(3)
    target = np.tile(SPEC.home + np.array([0.05, 0, 0, 0, 0, 0, 0, 0]), (3, 1))
    target[1, 4] = bad
    limited = limit.limit(target)
    assert limited.held.tolist() == limited.clipped.tolist() == [False, True, False]
    assert np.array_equal(limited.set_point[1], SPEC.home)
    assert np.array_equal(limited.set_point[[0, 2]], target[[0, 2]])


def test_rows_keep_their_state_apart() -> None:
    rng = np.random.default_rng(1)
    together, alone = limiter(4), [limiter() for _ in range(4)]
    for _ in range(40):
        ids = rng.permutation(4)[: rng.integers(1, 5)]
        target = rng.uniform(SPEC.lower, SPEC.upper, (len(ids), 8))
        limited = together.limit(target, ids=ids)
        for row, i in enumerate(ids):
            assert limited.set_point[row] == pytest.approx(alone[i].limit(target[row : row + 1]).set_point[0], abs=1e-9)
    assert together.set_point == pytest.approx(np.vstack([one.set_point for one in alone]), abs=1e-9)


def test_what_is_returned_is_not_the_state() -> None:
    limit = limiter()
    limit.limit(SPEC.home[None]).set_point[:] = 99.0
    assert np.array_equal(limit.set_point[0], SPEC.home)


def test_misuse_is_refused() -> None:
    fresh = hal.SafetyLimiter(SPEC, 2, chain=CHAIN)
    home = np.tile(SPEC.home, (2, 1))
    with pytest.raises(hal.SafetyError, match="before reset"):
        fresh.limit(home)
    fresh.reset(home[:1], [1])
    with pytest.raises(hal.SafetyError, match="before reset"):
        fresh.limit(home)
    fresh.limit(home[:1], ids=[1])
    fresh.reset(home)
    for wrong in (home[:1], home[:, :7], SPEC.home):
        with pytest.raises(hal.SafetyError, match="must have shape"):
            fresh.limit(wrong)
    for dt in (0.0, 0.05, -1.0, float("nan"), float("inf")):
        with pytest.raises(hal.SafetyError, match="a period of"):
            fresh.limit(home, dt)
    with pytest.raises(hal.SafetyError, match="isn't finite"):
        fresh.reset(home * np.nan)
    with pytest.raises(hal.SafetyError, match="at least one"):
        hal.SafetyLimiter(SPEC, 0, chain=CHAIN)
    with pytest.raises(hal.SafetyError, match="positive"):
        hal.SafetyLimiter(SPEC, 1, dt=-0.1, chain=CHAIN)
    small = SPEC.model_copy(update={"workspace": hal.Box(lower=(0.5, -0.1, 0.1), upper=(0.6, 0.1, 0.2))})
    with pytest.raises(hal.SafetyError, match="home pose is outside"):
        hal.SafetyLimiter(small, 1, chain=CHAIN)
