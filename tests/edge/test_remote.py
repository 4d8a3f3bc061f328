"""A robot over the wire: the rules of any robot, leases, stops, and what a link can do to them."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash

import hal
from hal.control_loop import ControlLoop
from hal.errors import LeaseError, Stopped
from hal.estop import EStop
from hal.lease import Leases
from hal.robot import Clocked
from robotlearn.edge import arm_messages as messages
from robotlearn.edge.arm_server import ArmServer
from robotlearn.edge.arm_state import ArmStateFile
from robotlearn.edge.local import Tensor
from robotlearn.edge.remote import RemoteRobot
from robotlearn.errors import AddressError, ConfigError, WireError
from tests.arms import RecordingArm, fast_spec
from tests.edge.remote_rig import Raw, Rig, drive, estop, near, ticks
from tests.waiting import until
from tests.wire.proxy import Proxy

pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture
def arm() -> RecordingArm:
    return RecordingArm(fast_spec())


@pytest.fixture
def rig(arm: RecordingArm) -> Iterator[Rig]:
    made = Rig(arm)
    yield made
    made.close()


@pytest.fixture
def public(arm: RecordingArm) -> Iterator[Rig]:
    """The same over TCP."""
    made = Rig(arm, "tcp://127.0.0.1:*")
    yield made
    made.close()


@pytest.fixture
def raw(rig: Rig, arm: RecordingArm) -> Iterator[Raw]:
    client = Raw(rig.address, arm.spec)
    yield client
    client.close()


# ---- the rules of any robot


def test_it_is_a_driver_like_any_other(rig: Rig, arm: RecordingArm) -> None:
    robot = hal.make_robot(arm.spec, "remote", address=rig.address)
    hal.check_robot(robot)
    hal.check_robot(robot)  # it gave the lease back
    assert robot.capability(Clocked) is robot  # type: ignore[type-abstract]
    with pytest.raises(hal.DriverError, match="address"):
        hal.make_robot(arm.spec, "remote")
    with pytest.raises(AddressError, match="names no host and port"):
        hal.make_robot(arm.spec, "remote", address="tcp://*:1")
    with pytest.raises(hal.DriverError, match="did you mean 'front'"):
        hal.make_robot(arm.spec, "remote", address=rig.address, cameras=["fromt"])
    with pytest.raises(hal.DriverError, match="ttl is 0 s"):
        hal.make_robot(arm.spec, "remote", address=rig.address, ttl=0)


def test_a_simulated_arm_keeps_the_rules_and_goes_where_it_is_told() -> None:
    spec = hal.load_spec("panda").model_copy(update={"watchdog_s": 2.0})
    made = Rig(hal.RealTime(hal.make_robot(spec)), "tcp://127.0.0.1:*")
    try:
        hal.check_robot(hal.make_robot(spec, "remote", address=made.address))
        with hal.make_robot(spec, "remote", address=made.address) as robot:
            goal = robot.read().position
            goal[0] += 0.1
            end = time.monotonic() + 30
            while abs(robot.read().position[0] - goal[0]) > 0.01:
                assert time.monotonic() < end
                robot.write(hal.Command(goal))
                robot.wait()
    finally:
        made.close()


@pytest.mark.slow
def test_an_emulated_arm_keeps_the_rules(tmp_path: Path) -> None:
    from hal.emulators.so101 import EmulatedSO101

    emulated = EmulatedSO101(tmp_path / "port")
    emulated.write_calibration(tmp_path / "calibration" / "bench.json")
    emulated.start()
    try:
        spec = hal.load_spec("so101")
        options = {"port": str(tmp_path / "port"), "id": "bench", "calibration_dir": str(tmp_path / "calibration")}
        made = Rig(hal.make_robot(spec, "lerobot", **options))
        try:
            hal.check_robot(hal.make_robot(spec, "remote", address=made.address))
        finally:
            made.close()
    finally:
        emulated.close()


def test_readings_effort_and_images_arrive_as_they_are(rig: Rig, arm: RecordingArm) -> None:
    arm.effort = np.array([0.1, -0.2, np.nan, 0.4, 0.5, 0.6])
    with RemoteRobot(arm.spec, address=rig.address, cameras=("front",)) as robot:
        drive(robot, near(robot))
        robot.wait()
        reading = robot.read()
        assert np.array_equal(reading.position, arm.position)
        assert reading.effort is not None
        assert np.array_equal(reading.effort, arm.effort, equal_nan=True)
        assert reading.images["front"].shape == (128, 128, 3)
        assert reading.images["front"][0, 0, 0] > 0
        assert 0 <= time.monotonic() - reading.monotonic < 5
        assert abs(time.time() - time.monotonic() + reading.monotonic - reading.wall) < 0.5
    with RemoteRobot(arm.spec, address=rig.address) as robot:
        assert robot.read().images == {}


def test_another_spec_is_refused_by_what_differs(rig: Rig, arm: RecordingArm) -> None:
    other = fast_spec(watchdog_s=0.4)
    with pytest.raises(hal.RobotFault, match=r"another spec: watchdog_s is 2\.0 at the arm and 0\.4 at the client"):
        RemoteRobot(other, address=rig.address).connect()
    joints = [joint.model_dump() for joint in arm.spec.joints]
    joints[2]["velocity"] = 3.0
    with pytest.raises(hal.RobotFault, match=r"joints\.elbow_flex\.velocity is 2\.0 at the arm and 3\.0"):
        RemoteRobot(fast_spec(joints=tuple(joints)), address=rig.address).connect()
    with RemoteRobot(fast_spec(maker="someone else"), address=rig.address):
        pass  # none of its business


def test_nobody_there_is_one_clear_line(arm: RecordingArm, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robotlearn.edge.remote._PATIENCE_S", 0.3)
    robot = RemoteRobot(arm.spec, address=f"ipc://{runtime}/nobody")
    with pytest.raises(hal.RobotFault, match=r"no arm answers at ipc://.*robotlearn serve"):
        robot.connect()
    assert robot.health().state == "disconnected"


def test_a_public_address_is_refused_without_leave(arm: RecordingArm) -> None:
    loop = ControlLoop(arm, leases=Leases(Path(os.environ["ROBOTLEARN_RUNTIME_DIR"]) / "token"), estop=EStop("bench"))
    with pytest.raises(AddressError, match=r"there is no key.*insecure_public"):
        ArmServer(loop, "tcp://0.0.0.0:*", name="bench")
    server = ArmServer(loop, "tcp://0.0.0.0:*", name="bench", insecure_public=True)
    server.close()
    with pytest.raises(ValueError, match="needs leases"):
        ArmServer(ControlLoop(arm), "tcp://127.0.0.1:*", name="bench")


# ---- commands


def test_old_and_late_set_points_move_nothing_and_are_counted(rig: Rig, raw: Raw, arm: RecordingArm) -> None:
    token = raw.acquire().token
    assert token is not None
    goal = arm.spec.home.copy()
    goal[0] += 0.02
    first = raw.point(token, goal)
    assert raw.ask(first).verdict == "done"
    until(lambda: arm.position[0] == goal[0], "the motion")
    wrong = goal + 0.01
    for message, verdict in (
        (first, "old"),
        (raw.point(token, wrong, sequence=1), "old"),
        (raw.point(token, wrong, lasts=-0.001), "late"),
        (raw.point(token, wrong, lasts=float("nan")), "late"),
        (raw.point(token + 1, wrong), "lease"),
        (raw.point(token, wrong[:5]), "refused"),
    ):
        assert raw.ask(message).verdict == verdict, message
    stats = rig.server.stats()
    assert {key: stats[key] for key in ("done", "old", "late", "lease", "refused")} == {
        "done": 1, "old": 2, "late": 2, "lease": 1, "refused": 1
    }  # fmt: skip
    assert stats["set_points"] == 7
    assert rig.leases.refused == 1
    assert raw.ask(messages.Rest(raw.next(), token, time.monotonic() - 1)).verdict == "late"
    until(lambda: rig.loop.activity == "stopped", "the watchdog")
    assert raw.ask(raw.point(token, goal)).verdict == "stopped"
    assert arm.position[0] == goal[0]


def test_a_client_states_its_deadline(rig: Rig, arm: RecordingArm) -> None:
    with RemoteRobot(arm.spec, address=rig.address, deadline=1e-9) as robot:
        robot.write(hal.Command(near(robot)))
        until(lambda: robot.link.late == 1, "the late answer")
        assert arm.writes == []


def test_malformed_messages_are_counted_logged_once_and_dropped(
    rig: Rig, raw: Raw, arm: RecordingArm, caplog: pytest.LogCaptureFixture
) -> None:
    good = messages.encode(raw.point(1, arm.spec.home))
    broken = [good[:cut] for cut in range(0, len(good), 7)]
    inside = [good[8:cut] for cut in range(8, len(good), 7)]
    inside += [b"\xc1", b"\x80", secrets.token_bytes(50), b"\x91" * 5000]
    broken += [xxhash.xxh3_64_digest(body) + body for body in inside]
    broken += [good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :] for place in range(0, len(good), 9)]
    bad_tensor = messages.encode(messages.SetPoint(raw.next(), 1, Tensor("float64", (7,), b"123"), 0.0))
    for frame in [*broken, bad_tensor]:
        raw.socket.send(frame)
    raw.socket.send_multipart([good, good])
    until(lambda: rig.server.counters["bad_frames"] >= len(broken) + 2, "the count")
    assert raw.acquire().verdict == "done"  # still well
    assert len([one for one in caplog.records if "dropped, and will drop silently" in one.message]) == 1
    big = Raw(rig.address, arm.spec)
    big.socket.send(bytes(70_000))
    until(lambda: rig.server.stats()["disconnects"] >= 1, "the end of that connection")
    big.close()
    rig.server.check()


@pytest.mark.parametrize("cut", range(3))
def test_what_comes_from_an_arm_is_decoded_as_carefully(cut: int) -> None:
    frame = messages.encode(messages.Answer(1, "done", "", 0.0))
    said = "malformed" if cut == 2 else "checksum"
    with pytest.raises(WireError, match=said):
        messages.decode_from_arm([frame[:-3], frame + b"x", messages.encode(messages.Stop(1, 1))][cut])


def test_without_a_hello_there_is_nothing_but_the_estop(rig: Rig, arm: RecordingArm) -> None:
    stranger = Raw(rig.address, arm.spec, hello=False)
    refused = stranger.ask(messages.Acquire(1, 2.0, True))
    assert refused == messages.Refused(False, "there was no Hello")
    assert stranger.ask(messages.Press(2, "a stranger", "it burns")).verdict == "done"
    assert rig.estop.reason() == "e-stop by a stranger: it burns"
    stranger.close()


def test_more_clients_than_there_is_room_for(rig: Rig, arm: RecordingArm) -> None:
    clients = [Raw(rig.address, arm.spec) for _ in range(16)]
    extra = Raw(rig.address, arm.spec, hello=False)
    answer = extra.ask(messages.Hello(messages.SCHEMA, "raw", messages.agreed(arm.spec), ()))
    assert isinstance(answer, messages.Refused)
    assert "16 clients already" in answer.reason
    older = extra.ask(messages.Hello(99, "raw", messages.agreed(arm.spec), ()))
    assert "schema 99" in older.reason
    for client in [*clients, extra]:
        client.close()


def test_a_client_that_does_not_keep_up_gets_the_newest(rig: Rig, arm: RecordingArm) -> None:
    slow = Raw(rig.address, arm.spec, hello=False)
    slow.send(messages.Hello(messages.SCHEMA, "slow", messages.agreed(arm.spec), ("front",)))
    until(lambda: rig.server.counters["states_dropped"] > 3, "states that are not sent")
    done = rig.loop.done
    until(lambda: rig.loop.done > done + 10, "ticks all the same")
    seen = []
    while slow.socket.poll(0):
        message = messages.decode_from_arm(slow.socket.recv())
        seen += [message.number] if isinstance(message, messages.State) else []
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) <= (256 << 10) // (128 * 128 * 3) + 2
    slow.send(messages.Heard(seen[-1]))
    assert slow.socket.poll(20_000)
    newest = messages.decode_from_arm(slow.socket.recv())
    assert newest.number == seen[-1] + 1
    assert newest.period > newest.number
    slow.close()


# ---- leases


def test_a_second_holder_waits_or_takes(rig: Rig, arm: RecordingArm) -> None:
    with RemoteRobot(arm.spec, address=rig.address, holder="one") as one:
        drive(one, near(one))
        with pytest.raises(LeaseError, match="one has the lease"):
            RemoteRobot(arm.spec, address=rig.address, holder="two").connect()
        with RemoteRobot(arm.spec, address=rig.address, holder="two", take=True) as two:
            assert two.token is not None
            assert one.token is not None
            assert two.token > one.token
            until(lambda: one.health().state == "degraded", "the loss of the lease")
            with pytest.raises(LeaseError, match=r"two has it.*connect anew"):
                one.write(hal.Command(near(one)))
            one.stop()  # moves nothing, drops nothing
            drive(two, near(two))
            assert rig.leases.holder == "two"
    until(lambda: rig.leases.holder is None, "the lease to be given back")


@pytest.mark.slow
def test_a_caller_that_hangs_loses_its_lease(rig: Rig, arm: RecordingArm) -> None:
    with RemoteRobot(arm.spec, address=rig.address, ttl=1.5) as robot:
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            robot.rest()  # longer than the ttl: renewed
            robot.wait()
        assert rig.leases.holder is not None
        drive(robot, near(robot))
        until(lambda: rig.leases.holder is None, "the end of the lease")  # its thread of the link lives
        assert robot.link.silent_s < 5
        until(lambda: rig.loop.activity == "stopped", "the stop")
        until(lambda: robot.health().detail != "", "the loss to be known")
        with pytest.raises((LeaseError, Stopped)):
            robot.write(hal.Command(near(robot)))
    with RemoteRobot(arm.spec, address=rig.address) as robot:
        drive(robot, near(robot))


def test_a_stop_there_is_a_stop_here_until_rest(rig: Rig, arm: RecordingArm) -> None:
    with RemoteRobot(arm.spec, address=rig.address) as robot:
        robot.write(hal.Command(near(robot)))
        until(lambda: robot.health().state == "degraded", "the watchdog")
        assert "watchdog" in robot.health().detail
        with pytest.raises(Stopped, match=r"watchdog: no command for 2\.0 s"):
            robot.write(hal.Command(near(robot)))
        robot.rest()
        drive(robot, near(robot))  # at once
        arm.read_error = hal.RobotFault("the bus is gone")
        until(lambda: robot.health().state == "fault", "the fault there")
        with pytest.raises(hal.RobotFault, match="the bus is gone"):
            robot.read()
        arm.read_error = None


def test_a_control_loop_around_it_rests_and_stops_with_it(rig: Rig, arm: RecordingArm) -> None:
    """An arm process whose robot is a remote one: two loops, one inside the other."""
    outer = ControlLoop(RemoteRobot(arm.spec, address=rig.address))
    with outer:
        for _ in range(3):
            goal = near(outer)
            for _ in range(10):
                outer.write(hal.Command(goal))
                outer.wait()
            outer.rest()
            until(lambda: rig.loop.activity == "idle", "rest in the inner loop")
            ticks(outer, 20)  # longer than the watchdog waits
            assert outer.activity == "idle"
            assert rig.loop.activity == "idle"
        rig.estop.press("a test")
        with pytest.raises(Stopped, match="e-stop by a test"):
            while True:
                outer.write(hal.Command(near(outer)))
                outer.wait()
        rig.estop.clear()
        end = time.monotonic() + 30
        goal = near(outer)
        while abs(outer.read().position[0] - goal[0]) > 1e-3:
            assert time.monotonic() < end
            try:
                outer.write(hal.Command(goal))
            except Stopped:
                outer.rest()
            outer.wait()


# ---- the link


def test_round_trips_and_losses_are_visible(public: Rig, arm: RecordingArm) -> None:
    with Proxy(public.address) as proxy, RemoteRobot(arm.spec, address=proxy.address) as robot:
        for _ in range(20):
            robot.write(hal.Command(near(robot)))
            robot.wait()
        link = robot.link
        assert 0 < link.rtt_median_ms <= link.rtt_p99_ms
        assert link.answered == 1.0
        assert link.lost == 0
        assert robot.health().state == "ok"


def test_a_lost_link_is_a_watchdog_stop_there_and_a_fault_here(public: Rig, arm: RecordingArm) -> None:
    with Proxy(public.address) as proxy, RemoteRobot(arm.spec, address=proxy.address, ttl=1.0) as robot:
        goal = near(robot, 1.0)
        robot.write(hal.Command(goal))
        until(lambda: arm.written, "a motion")
        proxy.paused = True  # nothing comes through, and nobody is told
        with pytest.raises(hal.RobotFault, match=r"link lost: nothing from tcp://.* for \d\.\d s"):
            while True:
                robot.write(hal.Command(goal))
                robot.wait()
        assert robot.health().state == "fault"
        until(lambda: public.loop.activity == "stopped", "the stop over there")
        assert arm.stops
        count = len(arm.written)
        until(lambda: public.leases.holder is None, "the end of the lease")
        until(lambda: robot.link.lost > 0, "the losses to be counted")
        proxy.paused = False  # what was on its way arrives now, and is worthless
        until(lambda: robot.health().state != "fault", "the link again")

        def refused() -> bool:  # at the arm at once, here as soon as that is heard
            try:
                robot.write(hal.Command(goal))
            except (LeaseError, Stopped):
                return True
            return False

        until(refused, "the end of the lease to be known")
        assert len(arm.written) == count
        robot.close()
        robot.connect()
        drive(robot, near(robot))


def test_a_connection_that_breaks_is_made_anew_under_the_same_lease(public: Rig, arm: RecordingArm) -> None:
    with Proxy(public.address) as proxy, RemoteRobot(arm.spec, address=proxy.address, ttl=20.0) as robot:
        drive(robot, near(robot))
        token = robot.token
        proxy.reset()
        goal, before = near(robot), len(arm.written)

        def moved() -> bool:
            try:
                robot.write(hal.Command(goal))
            except Stopped:
                robot.rest()  # what was on its way when it broke is lost, a rest too
            except hal.RobotFault:
                pass
            return len(arm.written) > before

        until(moved, "the link again")
        until(lambda: moved() and np.allclose(arm.position, goal), "the motion")
        assert robot.token == token


# ---- the e-stop


def test_the_estop_over_the_wire_and_who_may_clear_it(rig: Rig, public_client: Callable[[], RemoteRobot]) -> None:
    robot = public_client()
    with robot:
        drive(robot, near(robot))
        robot.press_estop("smoke")
        until(lambda: robot.health().state == "degraded", "the state")
        with pytest.raises(Stopped, match="smoke"):
            robot.rest()
        with pytest.raises(hal.DriverError, match="robotlearn estop bench --clear"):
            robot.clear_estop(on_purpose=False)
        robot.clear_estop(on_purpose=True)
        with pytest.raises(Stopped):
            robot.write(hal.Command(near(robot)))
        until(lambda: not robot._state.estopped, "the release to be known")  # type: ignore[union-attr]
        robot.rest()
        drive(robot, near(robot))


def test_an_estop_here_is_latched_there_and_a_release_here_releases_it(
    rig: Rig, public_client: Callable[[], RemoteRobot], runtime: Path
) -> None:
    here = EStop("desk")
    with ControlLoop(public_client(), estop=here) as loop:
        loop.write(hal.Command(near(loop)))
        here.press("Ada", "smoke")  # as another process of this machine would
        until(lambda: rig.estop.pressed, "it to be latched there")
        assert "Ada: smoke" in rig.estop.reason()
        loop.clear_estop()
        assert not rig.estop.pressed and not here.pressed
        ticks(rig.loop, 5)
        assert not rig.estop.pressed
        loop.press_estop("Bob")
        until(lambda: rig.estop.pressed, "it to be latched again")


@pytest.fixture
def public_client(rig: Rig, arm: RecordingArm) -> Callable[[], RemoteRobot]:
    return lambda: RemoteRobot(arm.spec, address=rig.address)


def test_from_another_machine_it_can_be_pressed_and_not_cleared(public: Rig, arm: RecordingArm) -> None:
    with RemoteRobot(arm.spec, address=public.address) as robot:
        robot.press_estop()
        with pytest.raises(hal.DriverError, match="clear the e-stop at the robot"):
            robot.clear_estop(on_purpose=True)
        assert public.estop.pressed


def test_under_an_estop_one_may_connect_and_look(rig: Rig, arm: RecordingArm) -> None:
    rig.estop.press("a test")
    with RemoteRobot(arm.spec, address=rig.address) as robot:
        robot.read()
        assert "e-stop by a test" in robot.health().detail
        with pytest.raises(Stopped, match="e-stop by a test"):
            robot.write(hal.Command(near(robot)))


def test_no_set_point_after_the_tick_whatever_a_hostile_client_sends(rig: Rig, raw: Raw, arm: RecordingArm) -> None:
    token = raw.acquire().token
    assert token is not None
    done = threading.Event()

    def flood() -> None:
        period = 0.001
        due = time.monotonic()
        while not done.is_set():
            goal = arm.spec.home + 0.3 * np.sin(due * 3)
            raw.send(messages.Rest(raw.next(), token, time.monotonic() + 10))
            raw.send(raw.point(token, goal))
            due += period
            time.sleep(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        until(lambda: len(arm.written) > 5, "a motion")
        rig.estop.press("a test")
        pressed = rig.loop.done
        until(lambda: rig.loop.done > pressed + 1, "the tick")
        count = len(arm.written)
        refused = rig.server.counters["stopped"]
        until(lambda: rig.server.counters["stopped"] > refused + 200, "many more set-points")
        assert len(arm.written) == count
    finally:
        done.set()
        thread.join()


# ---- the command


def test_the_command_presses_and_releases_one_or_all(rig: Rig, arm: RecordingArm) -> None:
    rig.loop.write(hal.Command(near(rig.loop), rig.leases.acquire("me", 60.0).token))
    with ArmStateFile(rig.owned, robot="so101", driver="recording") as told:
        told.watch(rig.loop)
        done = estop("bench", "--why", "smoke")
    assert done.exit_code == 0 and done.output.startswith("stopped: bench\n")
    assert "e-stop pressed: bench. Release it with: robotlearn estop --clear bench" in done.output
    until(lambda: rig.loop.activity == "stopped", "the stop")
    assert "at the keyboard: smoke" in rig.loop.health().detail
    assert estop().exit_code == 1  # all; this arm process tells its state to nobody any more
    one = estop("bench", "--clear")
    assert one.exit_code == 1
    assert "still pressed: e-stop latched for all robots" in one.output
    assert rig.loop.estopped
    every = estop("--all", "--clear")
    assert (every.exit_code, rig.loop.estopped) == (0, False)
    assert "was not pressed" in estop("bench", "--clear").output
    unknown = estop("bemch")
    assert unknown.exit_code == 1
    assert "did you mean 'bench'" in unknown.output
    assert EStop("bemch").pressed
    for wrong in (("--clear",), ("bench", "--all"), ("../x",), ("@all",)):
        assert isinstance(estop(*wrong).exception, ConfigError), wrong
