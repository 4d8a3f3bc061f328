"""From intents to actions: where the tool goes, how fast, and that nothing makes an arm jump."""

from __future__ import annotations

import numpy as np
import pytest

from hal import Chain, load_spec
from robotlearn.people.intent import LINEAR, Intent
from robotlearn.people.mapping import CREEP, Mapping

ROBOTS = ["panda", "so101", "ur5e"]
AXES = {"x": (1, 0, 0), "-x": (-1, 0, 0), "y": (0, 1, 0), "-y": (0, -1, 0), "z": (0, 0, 1), "-z": (0, 0, -1)}


@pytest.mark.parametrize("robot", ROBOTS)
@pytest.mark.parametrize("axis", AXES)
def test_the_tool_goes_where_it_is_sent_and_keeps_its_orientation(robot: str, axis: str) -> None:
    spec = load_spec(robot)
    mapping, chain, joints = Mapping(spec, 0.1), Chain(spec), len(spec.joints)
    direction = np.array(AXES[axis], float)
    set_point = spec.home.copy()
    start, before = chain.forward(set_point[None, :joints])
    for _ in range(8):
        set_point[:joints] += mapping.action(Intent(linear=tuple(LINEAR * direction)), set_point)[:joints]
    end, after = chain.forward(set_point[None, :joints])
    way = (end - start)[0]
    assert way @ direction > 0.015
    assert np.linalg.norm(way - (way @ direction) * direction) < 0.1 * (way @ direction)
    turned = np.arccos(np.clip((np.trace(before[0].T @ after[0]) - 1) / 2, -1, 1))
    # so101's wrist ends at 95 degrees: there it goes on up, and turns.
    assert turned < (0.3 if (robot, axis) == ("so101", "z") else 0.02)


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_tool_turns_about_the_axis_asked_for_and_stays_where_it_is(robot: str) -> None:
    spec = load_spec(robot)
    mapping, chain, joints = Mapping(spec, 0.2), Chain(spec), len(spec.joints)
    set_point = spec.home.copy()
    start, before = chain.forward(set_point[None, :joints])
    for _ in range(10):
        set_point[:joints] += mapping.action(Intent(angular=(0, 0, 2.0)), set_point)[:joints]
    end, after = chain.forward(set_point[None, :joints])
    turn = after[0] @ before[0].T
    assert np.abs(end - start).max() < 0.005
    assert np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]) == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("speed", [0.05, 0.25, 1.0])
def test_no_intent_is_faster_than_the_share_of_speed(speed: float) -> None:
    spec = load_spec("so101")
    mapping = Mapping(spec, speed)
    fastest = speed * spec.velocity * spec.dt + 1e-9
    rng = np.random.default_rng(0)
    for _ in range(200):
        set_point = rng.uniform(spec.lower, spec.upper)
        linear, angular = rng.normal(0, 5, (2, 3))
        wild = Intent(tuple(linear), tuple(angular), rng.uniform(-1, 1))
        follow = Intent(target=rng.uniform(2 * spec.lower, 2 * spec.upper))
        mapping.creeping = bool(rng.integers(2))
        for intent in (wild, follow):
            change = mapping.action(intent, set_point) - mapping.rest(set_point)
            assert (np.abs(change) <= fastest).all()


def test_a_joint_at_its_end_is_not_sent_beyond_it() -> None:
    spec = load_spec("so101")
    mapping = Mapping(spec)
    set_point = spec.home.copy()
    for _ in range(100):
        set_point[:5] += mapping.action(Intent(linear=(0, 0, LINEAR)), set_point)[:5]
        assert (set_point <= spec.upper + 1e-9).all() and (set_point >= spec.lower - 1e-9).all()


def test_the_gripper_opens_closes_and_stays_within_its_width() -> None:
    spec = load_spec("so101")
    mapping = Mapping(spec, 0.5)
    closed = spec.home.copy()
    closed[-1] = 0.0
    assert mapping.action(Intent(grip=1.0), closed)[-1] == pytest.approx(0.5 * 0.15 * 0.1)
    assert mapping.action(Intent(grip=-1.0), closed)[-1] == 0.0
    assert mapping.action(Intent(), closed)[-1] == 0.0


def test_a_follower_creeps_to_its_leader_on_a_line_and_only_then_follows_it_faster() -> None:
    spec = load_spec("so101")
    mapping = Mapping(spec, 0.5)
    leader = spec.home + np.array([0.6, -0.3, 0.2, -0.1, 0.3, -0.03])
    set_point, steps = spec.home.copy(), 0
    while mapping.creeping:
        action = mapping.action(Intent(target=leader), set_point)
        moved = np.concatenate([action[:5], [action[-1] - set_point[-1]]])
        share = moved / (leader - set_point)
        if mapping.creeping:
            assert np.allclose(share, share[0])  # a straight line
            assert (np.abs(moved) <= CREEP * spec.velocity * spec.dt + 1e-9).all()
        set_point = set_point + moved
        steps += 1
        assert steps < 100
    assert steps > 0.5 / (CREEP * 2.0 * 0.1)
    leader = leader + 0.2
    assert mapping.action(Intent(target=leader), set_point)[0] == pytest.approx(0.5 * 2.0 * 0.1)
    mapping.engage()
    assert mapping.action(Intent(target=leader), set_point)[0] <= CREEP * 2.0 * 0.1 + 1e-9


def test_a_leader_that_reads_nonsense_moves_nothing() -> None:
    spec = load_spec("so101")
    action = Mapping(spec).action(Intent(target=np.full(spec.dim, np.nan)), spec.home)
    assert np.array_equal(action, Mapping(spec).rest(spec.home))


@pytest.mark.parametrize("speed", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_of_speed_is_a_share(speed: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Mapping(load_spec("so101"), speed)
