"""The control loop over an arm that writes down what reaches it: what moves it, what stops it, what ends it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hal
from hal.control_loop import ControlLoop
from hal.errors import LeaseError, Stopped
from hal.estop import EStop
from hal.estop_input import Contact
from hal.lease import Leases
from hal.robot import Array, Clocked, Scene, Steppable
from tests.arms import RecordingArm, fast_spec
from tests.waiting import until

Make = Callable[..., tuple[ControlLoop, RecordingArm]]


@pytest.fixture
def make() -> Iterator[Make]:
    loops = []

    def made(spec: hal.RobotSpec | None = None, **options: Any) -> tuple[ControlLoop, RecordingArm]:
        arm = RecordingArm(fast_spec() if spec is None else spec)
        loop = ControlLoop(arm, **options)
        loops.append(loop)
        loop.connect()
        return loop, arm

    yield made
    for loop in loops:
        loop.close()


def near(loop: ControlLoop, offset: float = 0.02) -> Array:
    """A target for the next period."""
    goal = loop.read().position
    goal[0] += offset
    return goal


def drive(loop: ControlLoop, goal: Array, token: int | None = None) -> None:
    """Command `goal` once a period until the arm is there."""
    end = time.monotonic() + 30
    while not np.allclose(loop.read().position, goal, atol=1e-9):
        assert time.monotonic() < end, "the arm doesn't get there"
        loop.write(hal.Command(goal, token))
        loop.wait()


def test_a_target_is_reached_within_the_limits_and_nothing_is_written_before_one(make: Make) -> None:
    spec = fast_spec(driver_hz=200.0)
    loop, arm = make(spec)
    loop.wait()
    loop.wait()
    assert arm.written == []
    assert loop.activity == "idle"
    goal = spec.home + 0.1
    goal[5] = spec.home[5]
    drive(loop, goal)
    assert loop.activity == "running"
    way = np.array([spec.home, *(target for _, target in arm.written)])
    speed = np.diff(way, axis=0) * 200
    assert (np.abs(speed) <= spec.velocity + 1e-9).all()
    assert (np.abs(np.diff(speed, axis=0)) * 200 <= spec.acceleration + 1e-6).all()


def test_it_has_a_clock_and_hides_the_stepping(make: Make) -> None:
    loop, _ = make()
    assert loop.capability(Clocked) is loop  # type: ignore[type-abstract]
    assert loop.capability(Steppable) is None  # type: ignore[type-abstract]
    assert loop.capability(Scene) is None  # type: ignore[type-abstract]


def test_wait_counts_the_periods_that_went_by(make: Make) -> None:
    loop, _ = make()
    loop.wait()
    done = loop.done
    until(lambda: loop.done >= done + 5, "five ticks")
    assert loop.wait() >= 3
    done = loop.done
    until(lambda: loop.done >= done + 5, "five ticks")
    loop.skip()
    assert loop.wait() == 0
    assert loop.ticks().done >= 10
    assert len(loop.ticks().late) == loop.ticks().done


def test_until_tick_says_for_how_long_a_goal_is_in_time(make: Make) -> None:
    spec = fast_spec(control_hz=5.0, driver_hz=5.0)
    loop, arm = make(spec)
    for _ in range(2):
        loop.wait()
        until(lambda: loop.until_tick > 0, "the time between two ticks")
        assert loop.until_tick <= spec.dt_driver
        until(lambda: 0 < loop.until_tick < spec.dt_driver / 2, "half of it to be over")
        before = len(arm.written)
        loop.write(hal.Command(near(loop)))
        loop.wait()
        assert len(arm.written) == before + 1, "the tick took what was written in time"


def test_watchdog_stops_it_until_rest(make: Make) -> None:
    loop, arm = make()
    loop.write(hal.Command(near(loop)))
    until(lambda: loop.activity == "stopped", "the watchdog")
    assert arm.stops
    count = len(arm.written)
    assert loop.health().state == "degraded"
    assert "watchdog: no command for 2.0 s" in loop.health().detail
    with pytest.raises(Stopped, match="watchdog"):
        loop.write(hal.Command(near(loop)))
    loop.wait()
    loop.wait()
    assert len(arm.written) == count
    loop.rest()
    assert loop.health().state == "ok"
    drive(loop, near(loop))


def test_rest_needs_no_more_commands(make: Make) -> None:
    loop, arm = make(fast_spec(on_stop="brake"))
    start = loop.read().position
    loop.write(hal.Command(start + np.array([0.5, 0, 0, 0, 0, 0])))
    until(lambda: loop.read().position[0] > start[0] + 0.01, "a motion")
    loop.rest()
    until(lambda: loop.activity == "idle", "rest")
    done = loop.done
    until(lambda: loop.done > done + 25, "longer than the watchdog waits")
    assert loop.activity == "idle"
    assert not arm.stops
    assert loop.health().state == "ok"
    assert 0.01 < loop.read().position[0] - start[0] < 0.4  # it braked on the way


@pytest.mark.parametrize("on_stop", ["hold", "brake", "limp"])
def test_a_stop_is_what_the_spec_says(make: Make, on_stop: str) -> None:
    spec = fast_spec(on_stop=on_stop, driver_hz=200.0)
    loop, arm = make(spec)
    loop.write(hal.Command(near(loop, 0.5)))
    until(lambda: len(arm.written) > 3, "a motion")
    loop.stop()
    count = len(arm.written)
    if on_stop == "brake":
        done = loop.done
        until(lambda: loop.done > done + 60, "more than it takes to brake")
        assert not arm.stops
        way = np.array([target for _, target in arm.written])
        assert len(way) > count + 1
        assert (np.abs(np.diff(way, 2, axis=0)) * 200**2 <= spec.acceleration + 1e-6).all()
        assert np.array_equal(way[-1], loop.read().position)
    else:
        until(lambda: arm.stops, "the stop")  # what the driver then does is hold, or limp
        done = loop.done
        until(lambda: loop.done > done + 5, "some ticks")
        assert len(arm.written) <= count + 1  # the tick that was on its way
    loop.write(hal.Command(near(loop)))  # a stop that was asked for holds until the next write
    until(lambda: len(arm.written) > count + 1, "the next motion")


@pytest.mark.parametrize("on_stop", ["hold", "brake"])
def test_stops_at_rest_do_not_sink_an_arm_that_hangs_below_its_set_points(make: Make, on_stop: str) -> None:
    loop, arm = make(fast_spec(on_stop=on_stop))
    drive(loop, near(loop))
    loop.rest()
    until(lambda: loop.activity == "idle", "rest")
    ended = loop.done
    until(lambda: loop.done > ended + 2, "the end of the set-points")
    count = len(arm.written)
    for hangs, stopped in ((0.05, False), (0.2, True)):
        arm.position = arm.target - hangs
        loop.stop()
        done = loop.done
        until(lambda done=done: loop.done > done + 2, "the tick of the stop")
        assert bool(arm.stops) == stopped  # far from there it is held up by something, and told to stay
    assert len(arm.written) == count


def test_set_points_begin_where_a_limp_arm_has_fallen_to(make: Make) -> None:
    spec = fast_spec(on_stop="limp")
    loop, arm = make(spec)
    drive(loop, near(loop))
    loop.stop()
    until(lambda: arm.stops, "the stop")
    fallen, count = arm.position + 0.05, len(arm.written)
    arm.position = fallen
    until(lambda: np.array_equal(loop.read().position, fallen), "the fall to be seen")
    loop.write(hal.Command(spec.home))
    until(lambda: len(arm.written) > count, "the motion")
    assert (np.abs(arm.written[count][1] - fallen) <= spec.acceleration * spec.dt_driver**2 + 1e-12).all()


def test_estop_stops_at_the_next_tick_and_stays(make: Make) -> None:
    estop = EStop("bench")
    loop, arm = make(estop=estop)
    loop.write(hal.Command(near(loop, 0.5)))
    until(lambda: arm.written, "a motion")
    estop.press("a test", "because")
    pressed, done = time.monotonic(), loop.done
    until(lambda: loop.done > done + 1, "a tick")
    assert arm.stops
    assert loop.estopped
    count = len(arm.written)
    assert not [at for at, _ in arm.written if at > pressed + 2.5 * loop.spec.dt]
    with pytest.raises(Stopped, match="e-stop by a test: because"):
        loop.write(hal.Command(near(loop)))
    with pytest.raises(Stopped, match="e-stop by a test"):
        loop.rest()
    assert estop.clear()
    done = loop.done
    until(lambda: loop.done > done + 3, "some ticks")
    with pytest.raises(Stopped, match="e-stop"):  # cleared is not commanded
        loop.write(hal.Command(near(loop)))
    assert len(arm.written) == count
    loop.rest()
    drive(loop, near(loop))


def test_other_threads_of_python_make_room_at_once(make: Make) -> None:
    sys.setswitchinterval(0.005)
    loop, _ = make()
    until(lambda: loop.done, "a tick")
    assert sys.getswitchinterval() <= 0.0005


def test_what_a_tick_saw_before_a_rest_stops_nothing_after_it(make: Make) -> None:
    rested = threading.Event()

    class SlowlyRead(EStop):
        def reason(self) -> str:
            told = super().reason()
            ticks = threading.current_thread() is not threading.main_thread()
            if told and ticks:
                self.clear()
                resting.start()
                rested.wait(0.3)
            return told

    estop = SlowlyRead("bench")
    loop, _ = make(estop=estop)
    resting = threading.Thread(target=lambda: (loop.rest(), rested.set()))
    estop.press("a test")
    until(rested.is_set, "the rest")
    done = loop.done
    until(lambda: loop.done > done + 2, "some ticks")
    drive(loop, near(loop))


def test_the_lease_is_asked_for_at_each_write_and_each_tick(make: Make, tmp_path: Path) -> None:
    leases = Leases(tmp_path / "token")
    loop, arm = make(fast_spec(watchdog_s=20.0), leases=leases)
    for token in (None, 7):
        with pytest.raises(LeaseError, match="is over: nobody has it"):
            loop.write(hal.Command(near(loop), token))
    assert leases.refused == 2
    first = leases.acquire("one", 60.0)
    drive(loop, near(loop), first.token)
    second = leases.acquire("two", 60.0, take=True)
    until(lambda: loop.activity == "stopped", "the stop of who lost the lease")
    assert "lease" in loop.health().detail
    assert arm.stops
    count = len(arm.written)
    with pytest.raises(LeaseError, match="two has it"):
        loop.write(hal.Command(near(loop), first.token))
    with pytest.raises(Stopped):  # the next one must notice, too
        loop.write(hal.Command(near(loop), second.token))
    assert len(arm.written) == count
    loop.rest()
    drive(loop, near(loop), second.token)
    loop.token = second.token  # this process's own commands
    drive(loop, near(loop))


def test_a_blocked_joint_is_named(make: Make) -> None:
    loop, arm = make()
    arm.stuck = True
    arm.effort = np.append(loop.spec.effort[:5], 99.0)  # the gripper presses, as it should
    arm.effort[[0, 1, 3, 4]] = np.nan  # not measured
    end = time.monotonic() + 30
    with pytest.raises(Stopped, match=r"elbow_flex is blocked: 2.94 N m"):
        while time.monotonic() < end:
            loop.write(hal.Command(near(loop, 0.5)))
            loop.wait()
    assert arm.stops


def test_a_gripper_may_press_as_long_as_it_wants(make: Make) -> None:
    loop, arm = make()
    arm.stuck = True
    arm.effort = np.append(np.zeros(5), loop.spec.effort[5])
    for _ in range(40):
        loop.write(hal.Command(loop.spec.home))
        loop.wait()
    assert loop.activity == "running"


def test_torque_at_rest_is_no_fault(make: Make) -> None:
    loop, arm = make()
    arm.effort = loop.spec.effort.copy()
    done = loop.done
    until(lambda: loop.done > done + 40, "longer than a blocked joint may be")
    assert loop.activity == "idle"  # nothing was commanded


def test_a_driver_that_fails_while_reading_ends_the_loop(make: Make) -> None:
    loop, arm = make()
    loop.write(hal.Command(near(loop)))
    arm.read_error = hal.RobotFault("no answer from the bus")
    until(lambda: loop.activity == "fault", "the fault")
    assert loop.health() == hal.Health("fault", "no answer from the bus", {})
    assert arm.stops
    for call in (loop.read, loop.rest, loop.wait, lambda: loop.write(hal.Command(loop.spec.home))):
        with pytest.raises(hal.RobotFault, match="no answer from the bus"):
            call()
    arm.read_error = None
    loop.close()
    loop.connect()
    drive(loop, near(loop))


def test_a_bug_while_writing_shows_and_stops(make: Make) -> None:
    loop, arm = make()
    arm.write_error = ZeroDivisionError("oops")
    loop.write(hal.Command(near(loop)))
    until(lambda: loop.activity == "fault", "the fault")
    assert "the control loop failed: ZeroDivisionError('oops')" in loop.health().detail
    assert arm.stops
    with pytest.raises(hal.RobotFault, match="oops"):
        loop.wait()


def test_a_beat_that_fails_shows_and_stops(make: Make) -> None:
    broken = threading.Event()

    def beat() -> None:
        if broken.is_set():
            raise OSError("no such file")

    loop, arm = make(beat=beat)
    loop.write(hal.Command(near(loop)))
    broken.set()
    until(lambda: loop.activity == "fault", "the fault")
    assert arm.stops


def test_a_target_of_another_size_or_none_at_all(make: Make) -> None:
    loop, arm = make(fast_spec(on_stop="brake"))
    with pytest.raises(hal.DriverError, match=r"6 numbers, not \(5,\)"):
        loop.write(hal.Command(np.zeros(5)))
    start = loop.read().position
    goal = start + np.array([0.5, 0, 0, 0, 0, 0])
    loop.write(hal.Command(goal))
    until(lambda: len(arm.written) > 3, "a motion")
    for _ in range(30):
        loop.write(hal.Command(np.full(6, np.nan)))
        loop.wait()
    assert loop.read().position[0] < goal[0] - 0.1  # it braked, and stayed
    assert np.isfinite([target for _, target in arm.written]).all()


def test_the_target_is_copied(make: Make) -> None:
    loop, _ = make()
    goal = near(loop)
    wanted = goal.copy()
    for _ in range(20):
        loop.write(hal.Command(goal))
        goal[:] = np.nan
        loop.wait()
        goal[:] = wanted
    assert np.allclose(loop.read().position, wanted)


def test_before_connect_and_after_close(make: Make) -> None:
    loop, arm = make()
    loop.close()
    loop.close()
    assert not arm.connected
    assert loop.health().state == "disconnected"
    for call in (loop.read, loop.wait, loop.rest, lambda: loop.write(hal.Command(loop.spec.home))):
        with pytest.raises(hal.DriverError, match="not connected"):
            call()
    loop.stop()


def test_it_runs_a_simulation_by_the_clock_and_sets_its_state() -> None:
    spec = hal.load_spec("so101").model_copy(update={"control_hz": 50.0, "watchdog_s": 5.0})
    loop = ControlLoop(hal.RealTime(hal.make_robot(spec)))
    with loop:
        goal = spec.home + np.array([0.2, 0, 0, 0, 0, 0])
        loop.set_state(goal, {})
        assert np.allclose(loop.read().position, goal, atol=1e-6)
        until(lambda: loop.done > 10, "ticks")
        assert np.allclose(loop.read().position, goal, atol=0.02)
        target = loop.read().position
        for _ in range(50):
            target[0] -= 0.004
            loop.write(hal.Command(target))
            loop.wait()
        assert loop.read().position[0] < goal[0] - 0.1
        assert loop.capability(Scene) is loop  # type: ignore[type-abstract]


def test_a_stop_comes_before_what_is_written_after_it(make: Make) -> None:
    loop, arm = make(fast_spec(on_stop="hold"))
    for _ in range(20):
        loop.write(hal.Command(near(loop)))
        loop.wait()
        stops = len(arm.stops)
        loop.stop()
        loop.write(hal.Command(near(loop)))  # at once: before a tick
        until(lambda: loop._goal is None and not loop._wants, "both to be taken")
        assert len(arm.stops) == stops + 1
        assert loop.activity == "running"


def test_it_brakes_before_it_is_given_back() -> None:
    spec = fast_spec(driver_hz=200.0, on_stop="brake")
    arm = RecordingArm(spec)
    with ControlLoop(arm) as loop:
        goal = spec.home.copy()
        goal[0] += 0.5
        while loop.read().position[0] < spec.home[0] + 0.1:
            loop.write(hal.Command(goal))
            loop.wait()
    way = np.array([spec.home, *(target for _, target in arm.written)])
    speed = np.diff(way, axis=0) * 200
    assert abs(speed[-1]).max() < 1e-6  # it stood at last
    assert (np.abs(np.diff(speed, axis=0)) * 200 <= spec.acceleration + 1e-6).all()


class Wire(Contact):
    """A button whose wire a test holds."""

    down = False
    stuck = threading.Event()

    def open(self) -> None:
        pass

    def pressed(self) -> bool:
        while self.stuck.is_set():
            time.sleep(0.01)
        return self.down

    def close(self) -> None:
        pass


@pytest.mark.parametrize("full", [False, True])
def test_a_button_stops_it_even_where_nothing_can_be_written_down(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path))
    wire = Wire()
    loop, _ = make(estop=EStop("bench"), button=wire)
    drive(loop, near(loop))
    if full:
        monkeypatch.setattr("hal.estop.write_json", refuse)
    wire.down = True
    until(lambda: loop.activity == "stopped", "the stop")
    assert "the hardware e-stop: button" in loop.health().detail
    loop.clear_estop()
    until(lambda: loop.estopped, "it to be pressed anew, since the button is down")
    wire.down = False
    until(lambda: loop.clear_estop() or not loop.estopped, "the release")
    ticked = loop.done
    until(lambda: loop.done > ticked + 1, "a tick")
    loop.rest()
    drive(loop, near(loop))


def refuse(file: Path, content: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_button_that_hangs_is_pressed(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("hal.estop_input._HANGS_S", 0.2)
    wire = Wire()
    loop, _ = make(estop=EStop("bench"), button=wire)
    wire.stuck.set()
    try:
        until(lambda: loop.activity == "stopped", "the stop")
        assert "its input hangs" in loop.health().detail
    finally:
        wire.stuck.clear()
