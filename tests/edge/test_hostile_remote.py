"""Whatever comes over the wire, in whatever order, the served arm's own set-points keep the limits."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest

import hal
from hal.errors import LeaseError, Stopped
from hal.robot import Array
from robotlearn.edge import arm_messages as messages
from robotlearn.edge.remote import RemoteRobot
from tests.arms import fast_spec
from tests.edge.remote_rig import Raw, Rig, ticks
from tests.hal.hostile import Recording, check_set_points, hostile
from tests.waiting import until
from tests.wire.proxy import Proxy

KINDS = ["sound"] * 6 + ["old", "late", "nobody's", "short", "single", "rest", "rest", "stop"]
pytestmark = pytest.mark.usefixtures("runtime")


class Served(Recording):
    """Of an arm that brakes, what it was told: a stop of the arm at rest begins a new stretch, where that holds it."""

    def __init__(self, robot: hal.Robot) -> None:
        super().__init__(robot)
        self.stretches: list[tuple[Array | None, list[Array]]] = []
        self._position = robot.spec.home

    def read(self) -> hal.Reading:
        reading = super().read()
        self._position = reading.position.copy()
        return reading

    def stop(self) -> None:
        joints = len(self.spec.joints)
        grip = self.writes[-1] if self.writes else self.start if self.start is not None else self._position
        self.stretches.append((self.start, self.writes))
        self.start = np.append(self._position[:joints], grip[joints:])
        self.forget()
        super().stop()


def shoot(raw: Raw, rig: Rig, rng: np.random.Generator, orders: int, tokens: list[int]) -> None:
    """Set-points four at a time in any order: sound ones, old, late, of another's lease, of another shape or type."""
    for order in hostile(rig.loop.spec, rng, orders):
        batch: list[messages.ToArm] = []
        for _ in range(4):
            token = tokens[int(rng.integers(len(tokens)))]
            batch.append(
                {
                    "sound": lambda t=token, g=order.goal: raw.point(t, g),
                    "old": lambda t=token, g=order.goal: raw.point(t, g, sequence=1),
                    "late": lambda t=token, g=order.goal: raw.point(t, g, lasts=-1.0),
                    "nobody's": lambda g=order.goal: raw.point(7, g),
                    "short": lambda t=token, g=order.goal: raw.point(t, g[:5]),
                    "single": lambda t=token, g=order.goal: raw.point(t, np.float32(np.clip(g, -1e30, 1e30))),
                    "rest": lambda t=token: messages.Rest(raw.next(), t, time.monotonic() + 10),
                    "stop": lambda t=token: messages.Stop(raw.next(), t),
                }[str(rng.choice(KINDS))]()
            )
        for index in rng.permutation(len(batch)):
            raw.send(batch[index])
        ticks(rig.loop, order.periods)


def swing(raw: Raw, rig: Rig, token: int) -> None:
    """Until the arm is on its way."""
    spec, count = rig.loop.spec, rig.loop.done
    while rig.loop.done < count + 12:
        raw.send(messages.Rest(raw.next(), token, time.monotonic() + 10))
        raw.send(raw.point(token, spec.lower if count % 2 else spec.upper))
        ticks(rig.loop, 2)


def attacked(seed: int, orders: int = 12) -> None:
    spec, rng = fast_spec(driver_hz=200.0, control_hz=40.0, on_stop="brake"), np.random.default_rng(seed)
    served = Served(hal.RealTime(hal.make_robot(spec)))
    rig = Rig(served, "tcp://127.0.0.1:*")
    try:
        raw = Raw(rig.address, spec)
        first = rig.leases.acquire("first", 60.0).token
        shoot(raw, rig, rng, orders, [first])
        swing(raw, rig, first)
        rig.estop.press("an attack")
        shoot(raw, rig, rng, orders // 2, [first])
        rig.estop.clear()
        shoot(raw, rig, rng, orders, [first])
        swing(raw, rig, first)
        second = rig.leases.acquire("second", 60.0, take=True).token
        shoot(raw, rig, rng, orders, [first, second])
        with Proxy(rig.address) as proxy, RemoteRobot(spec, address=proxy.address, take=True) as robot:
            for torn in (True, False):
                for order in hostile(spec, rng, orders):
                    try:
                        robot.write(hal.Command(order.goal))
                    except Stopped:
                        with contextlib.suppress(Stopped):
                            robot.rest()
                    except (hal.DriverError, LeaseError):
                        pass  # a goal that is no number, or `second` again: it isn't sent
                    ticks(rig.loop, order.periods)
                if torn:
                    proxy.paused = True
                    with pytest.raises(hal.RobotFault):
                        while True:
                            robot.wait()
                    until(lambda: rig.loop.activity != "running", "the stop over there")
                    proxy.paused = False
                    robot.close()
                    robot.connect()
        counts = rig.server.stats()
        raw.close()
    finally:
        rig.estop.clear()
        rig.close()
    assert {"done", "old", "late", "lease", "refused", "stopped"} <= counts.keys()
    stretches = [(start, path) for start, path in (*served.stretches, (served.start, served.writes)) if path]
    for start, path in stretches:
        check_set_points(spec, start, np.array(path))
    assert max(np.ptp(path, axis=0).max() for _, path in stretches) > 0.1


def test_no_messages_make_a_set_point_leave_the_limits() -> None:
    attacked(1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 13))
def test_no_more_messages_do(seed: int) -> None:
    attacked(seed)
