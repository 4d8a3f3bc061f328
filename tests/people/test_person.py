"""Taking over from a policy and giving back, without a jump."""

from __future__ import annotations

import numpy as np
import pytest

from envs.control import JointDeltaControl
from hal import Reading, load_spec
from robotlearn.people.intent import LINEAR, Event, Intent
from robotlearn.people.person import Person
from tests.people.scripted import Scripted

SPEC = load_spec("so101")
ONE = np.zeros(1, np.int64)
READING = Reading(SPEC.home, np.zeros(SPEC.dim), 0.0, 0.0)


class Arm:
    """A policy that always wants the same, and what becomes of it with a person beside it."""

    def __init__(self, person: Person, delta: float) -> None:
        self.person = person
        self.control = JointDeltaControl(SPEC, 1)
        self.control.reset(ONE, SPEC.home[None])
        self.policy = np.concatenate([np.full(5, delta), [0.05]]).astype(np.float32)
        self.path = [SPEC.home.copy()]

    @property
    def set_point(self) -> np.ndarray:
        return self.control.set_point(ONE)[0]

    def tick(self) -> np.ndarray | None:
        action = self.person.action(READING, self.set_point, self.policy)
        self.control.apply(ONE, (self.policy if action is None else action)[None])
        self.path.append(self.set_point)
        return action


def test_without_the_switch_the_policy_acts(device: Scripted) -> None:
    arm = Arm(Person(SPEC, device), 0.02)
    device.intent = Intent(linear=(LINEAR, 0, 0))
    assert all(arm.tick() is None for _ in range(10))
    assert arm.person.interventions == 0


def test_a_person_takes_over_from_where_the_arm_is(device: Scripted) -> None:
    arm = Arm(Person(SPEC, device), 0.02)
    for _ in range(5):
        arm.tick()
    device.intent = Intent(enable=True)
    first = arm.tick()
    assert first is not None and first.dtype == np.float32
    assert np.array_equal(first[:5], np.zeros(5)) and first[5] == np.float32(arm.path[-2][5])
    device.intent = Intent(linear=(LINEAR, 0, 0), enable=True)
    assert np.abs(np.asarray(arm.tick())[:5]).max() > 0.01
    assert arm.person.enabled and arm.person.interventions == 1


def test_a_leader_that_stands_elsewhere_is_crept_to(device: Scripted) -> None:
    arm = Arm(Person(SPEC, device, speed=1.0), 0.0)
    arm.tick()
    device.intent = Intent(target=SPEC.home + 0.5, enable=True)
    for _ in range(10):
        action = arm.tick()
        assert action is not None and np.abs(action[:5]).max() <= 0.1 * 2.0 * 0.1 + 1e-6
    device.intent = Intent()
    arm.tick()
    device.intent = Intent(target=arm.set_point - 0.5, enable=True)
    assert np.abs(np.asarray(arm.tick())[:5]).max() <= 0.1 * 2.0 * 0.1 + 1e-6
    assert arm.person.interventions == 2


def test_the_policy_gets_the_arm_back_bit_by_bit(device: Scripted) -> None:
    arm = Arm(Person(SPEC, device, blend_s=0.5), 0.06)
    arm.tick()
    device.intent = Intent(enable=True)
    arm.tick()
    device.intent = Intent()
    shares = []
    while (action := arm.tick()) is not None:
        shares.append(action[0] / 0.06)
    assert np.allclose(shares, np.arange(1, 6) / 6)
    assert not arm.person.enabled
    assert arm.tick() is None


def test_both_hand_overs_keep_the_arms_limits_and_nothing_jumps(device: Scripted) -> None:
    arm = Arm(Person(SPEC, device, speed=1.0), 0.1)
    rng = np.random.default_rng(1)
    for tick in range(60):
        device.intent = Intent(
            linear=tuple(rng.uniform(-LINEAR, LINEAR, 3)),
            target=SPEC.home + rng.uniform(-1, 1, 6) if tick % 3 else None,
            enable=bool(tick // 7 % 2),
        )
        arm.policy[:5] = rng.uniform(-0.2, 0.2, 5)
        arm.tick()
    velocity = np.diff(arm.path, axis=0) / SPEC.dt
    assert (np.abs(velocity) <= SPEC.velocity + 1e-9).all()
    assert (np.abs(np.diff(velocity, axis=0)) <= SPEC.acceleration * SPEC.dt + 1e-9).all()
    assert arm.person.interventions == 4


def test_a_device_that_is_gone_lets_go(device: Scripted) -> None:
    arm = Arm(Person(SPEC, device, blend_s=0.1), 0.02)
    arm.tick()
    device.intent = Intent(linear=(LINEAR, 0, 0), enable=True)
    arm.tick()
    device.error = "leader: nothing for 0.3 s"
    assert arm.tick() is not None  # given back smoothly, too
    assert arm.tick() is None
    assert arm.person.fault == device.error
    device.error = ""
    assert arm.tick() is None  # it isn't asked again: a loose plug must not move an arm


def test_a_new_episode_begins_with_the_whole_policy(device: Scripted) -> None:
    arm = Arm(Person(SPEC, device), 0.02)
    arm.tick()
    device.intent = Intent(enable=True)
    arm.tick()
    device.intent = Intent()
    assert arm.tick() is not None
    arm.person.restart()
    assert arm.tick() is None


def test_a_switch_held_at_the_start_or_since_a_stop_must_be_let_go_of(device: Scripted) -> None:
    arm = Arm(Person(SPEC, device, blend_s=0), 0.02)
    device.intent = Intent(linear=(LINEAR, 0, 0), enable=True)
    assert arm.tick() is None and arm.tick() is None
    device.intent = Intent()
    arm.tick()
    device.intent = Intent(linear=(LINEAR, 0, 0), enable=True)
    assert arm.tick() is not None
    arm.person.restart()
    assert arm.tick() is not None, "a new episode leaves a held switch held"
    arm.person.release()
    assert device.released == 1 and arm.tick() is None and not arm.person.enabled
    device.intent = Intent()
    arm.person.look()  # between two episodes
    device.intent = Intent(enable=True)
    assert arm.tick() is not None
    assert arm.person.interventions == 2


def test_events_are_handed_on_once(device: Scripted) -> None:
    person = Person(SPEC, device)
    device.intent = Intent(events=(Event.SUCCESS,))
    person.action(READING, SPEC.home, SPEC.home.astype(np.float32))
    device.intent = Intent(events=(Event.NEXT,))
    person.look()
    assert person.take_events() == (Event.SUCCESS, Event.NEXT)
    assert person.take_events() == ()
    person.close()
    assert device.closed


@pytest.mark.parametrize("blend", [-1.0, 11.0, float("nan")])
def test_the_time_of_a_hand_over_is_bounded(device: Scripted, blend: float) -> None:
    with pytest.raises(ValueError, match="blend_s"):
        Person(SPEC, device, blend_s=blend)
