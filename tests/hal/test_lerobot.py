"""LeRobot's own, unmodified SO-101 driver against an emulated bus with a MuJoCo arm behind it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hal import Command, DriverError, RobotFault, RobotSpec, SpecError, check_robot, load_spec, make_robot
from hal.emulators import feetech, presence
from hal.emulators.so101 import EmulatedSO101
from tests.film import filming

pytest.importorskip("lerobot")
pytestmark = pytest.mark.xdist_group("lerobot")  # importing it takes seconds


@pytest.fixture(autouse=True)
def nobody_at_the_keyboard(monkeypatch) -> None:
    def asked(prompt: str = "") -> str:
        raise AssertionError(f"asked on standard input: {prompt}")

    monkeypatch.setattr("builtins.input", asked)


def emulated(folder: Path, name: str = "bench") -> EmulatedSO101:
    arm = EmulatedSO101(folder / f"port-{name}")
    arm.write_calibration(folder / "calibration" / f"{name}.json")
    arm.start()
    return arm


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[EmulatedSO101]:
    arm = emulated(tmp_path)
    yield arm
    arm.close()


@pytest.fixture
def options(tmp_path: Path) -> dict[str, object]:
    return {"port": str(tmp_path / "port-bench"), "id": "bench", "calibration_dir": str(tmp_path / "calibration")}


def patiently(connect: Callable[[], None]) -> None:
    """LeRobot waits 0.05 s for an answer and asks once; a busy machine takes longer now and then."""
    for _ in range(10):
        with contextlib.suppress(ConnectionError, RuntimeError):
            return connect()
    connect()


def until(condition: Callable[[], bool], arm: EmulatedSO101, seconds: float = 10.0) -> bool:
    """Whether it becomes true within so many seconds of the arm's own time."""
    end = arm.data.time + seconds
    tick = threading.Event()
    while arm.data.time < end:
        if condition():
            return True
        tick.wait(0.01)
    return False


def test_keeps_the_rules_of_robot(arm, options):
    check_robot(make_robot(load_spec("so101"), "lerobot", **options))


def test_reads_si_units_and_goes_where_it_is_told(arm, options):
    spec = load_spec("so101")
    with make_robot(spec, "lerobot", **options) as robot:
        # It hangs a little below its goals, was sent to where it hung, and was without torque for a moment.
        assert until(lambda: bool(np.allclose(robot.read().position, spec.home, atol=0.1)), arm)
        goal = spec.home + np.array([0.2, 0.1, -0.1, 0.1, 0.3, -0.02])
        robot.write(Command(goal))
        assert until(lambda: bool(np.allclose(robot.read().position, goal, atol=0.03)), arm)
        assert until(lambda: bool(np.abs(robot.read().velocity).max() < 0.05), arm)
        assert np.allclose(robot.read().position[:5], arm.data.qpos[:5], atol=0.01)


def test_velocity_is_that_of_the_joint(arm, options):
    spec = load_spec("so101")
    with make_robot(spec, "lerobot", **options) as robot:
        robot.write(Command(spec.home + np.array([0.8, 0, 0, 0, 0, 0])))

        def alike() -> bool:
            reading, true = robot.read(), arm.data.qvel[0]
            return abs(true) > 0.5 and abs(reading.velocity[0] - true) < 0.4

        assert until(alike, arm)


def test_connect_never_makes_it_jump(arm, options):
    memory = arm.memory[1]
    feetech.GOAL.set(memory, 3000)  # where the host before wanted it, with the torque off since
    feetech.TORQUE_ENABLE.set(memory, 0)
    arm.written(1, 40, 4)
    before = arm.data.qpos[0]
    with make_robot(load_spec("so101"), "lerobot", **options) as robot:
        assert not until(lambda: abs(robot.read().position[0] - before) > 0.05, arm, 0.5)


@pytest.mark.parametrize(("what", "amount"), [("torn", 3), ("corrupt", 1), ("corrupt", 6), ("late", 0.1)])
def test_single_bad_packets_are_read_again(arm, options, what, amount):
    with make_robot(load_spec("so101"), "lerobot", **options) as robot:
        before = robot.read().position
        setattr(arm.bus, what, amount)
        assert np.allclose(robot.read().position, before, atol=0.02)
        assert getattr(arm.bus, what) == 0
        assert robot.health().state == "ok"


def test_connect_survives_a_bad_packet(arm, options):
    robot = make_robot(load_spec("so101"), "lerobot", **options)
    arm.bus.corrupt = 1
    with robot:
        assert arm.bus.corrupt == 0
        assert robot.health().state == "ok"


def test_late_answer_is_not_taken_for_the_next(arm, options):
    with make_robot(load_spec("so101"), "lerobot", **options) as robot:
        arm.bus.late = 0.08  # LeRobot waits 0.05 s, asks again, and then two answers come
        before = robot.read().position
        robot.write(Command(robot.spec.home + np.array([0.4, 0, 0, 0, 0, 0])))
        assert until(lambda: bool(abs(arm.data.qpos[0] - before[0]) > 0.3), arm)
        assert abs(robot.read().position[0] - arm.data.qpos[0]) < 0.05


def test_late_position_is_not_taken_for_a_status(arm, options):
    with make_robot(load_spec("so101"), "lerobot", **options) as robot:
        before = robot.read().position
        for _ in range(8):  # as many as there are turns of what is watched
            arm.bus.late = 0.08
            robot._watched_at = -np.inf
            assert np.allclose(robot.read().position, before, atol=0.05)
        assert robot.health().state == "ok"
        telemetry = robot.health().telemetry
        assert (telemetry["temperature"] < 60).all() and (abs(telemetry["voltage"] - 12) < 8).all(), telemetry


def test_late_answer_of_another_register_is_no_status(arm, options):
    with make_robot(load_spec("so101"), "lerobot", **options) as robot:
        answer, asked = arm.bus._answer, []

        def late(packet: bytes) -> Iterator[bytes]:
            address, ids = packet[3], packet[5:]
            if packet[2] == 0x82 and address == feetech.STATUS.address:
                asked.append(packet)
                if len(asked) == 1:
                    yield from (arm.bus._reply(each, feetech.POSITION.address, 2) for each in ids)
            yield from answer(packet)

        arm.bus._answer = late
        assert until(lambda: bool(robot.read()) and len(asked) > 2, arm)
        assert robot.health().state == "ok"


def test_noise_that_stays_is_a_fault(arm, options):
    with make_robot(load_spec("so101"), "lerobot", **options) as robot:
        arm.bus.corrupt = 1000
        with pytest.raises(RobotFault, match=r"so101: reading: shoulder_pan \(motor 1 on .*port-bench\) .*ncorrect"):
            robot.read()
        assert robot.health().state == "fault"
        with pytest.raises(RobotFault):
            robot.write(Command(robot.spec.home.copy()))
        robot.stop()


def test_dead_servo_is_a_fault_until_it_comes_back(arm, options):
    robot = make_robot(load_spec("so101"), "lerobot", **options)
    robot.connect()
    arm.bus.dead.add(3)
    named = r"elbow_flex \(motor 3 on .*port-bench\) doesn't answer: There is no status packet!$"
    with pytest.raises(RobotFault, match=named):
        robot.read()
    robot.close()
    assert robot.health().state == "disconnected"
    with pytest.raises(RobotFault, match=named):
        robot.connect()
    assert robot.health().state == "fault"
    arm.bus.dead.clear()
    with robot:
        assert robot.read().position.shape == (6,)
        assert robot.health().state == "ok"


def test_overloaded_joint_is_a_fault_and_an_overloaded_gripper_is_not(arm, options):
    robot = make_robot(load_spec("so101"), "lerobot", **options)
    with robot:
        feetech.STATUS.set(arm.memory[6], feetech.OVERLOAD)
        assert until(lambda: bool(robot.read()) and robot.health().state == "degraded", arm)
        assert "gripper" in robot.health().detail
        feetech.STATUS.set(arm.memory[2], feetech.OVERLOAD)
        with pytest.raises(RobotFault, match=r"shoulder_lift \(status 0x20 overload\)"):
            until(lambda: robot.read() is None, arm)
        robot.stop()
    with pytest.raises(RobotFault, match=r"shoulder_lift .* reports an error: status 0x20 overload; gripper"):
        robot.connect()
    arm.cycle_power()
    with robot:
        assert robot.health().state == "ok"


def test_stalled_servo_protects_itself(arm, options):
    with make_robot(load_spec("so101"), "lerobot", **options) as robot:
        closed = robot.read().position
        closed[5] = 0.0
        feetech.PROTECTION_TIME.set(arm.memory[6], 20)  # 0.2 s
        with arm.lock:
            arm.model.jnt_range[5] = [0.5, 1.9]  # something hard between the jaws
        robot.write(Command(closed))
        assert until(lambda: bool(robot.read()) and robot.health().state == "degraded", arm, 20.0)
        assert arm.model.actuator_forcerange[5, 1] < 0.5 * 1.47


def test_telemetry_comes_in_its_units(arm, options):
    with make_robot(load_spec("so101"), "lerobot", **options) as robot:
        assert until(lambda: bool(robot.read()) and len(robot.health().telemetry) == 3, arm)
        telemetry = robot.health().telemetry
        assert np.allclose(telemetry["voltage"], 12.0)
        assert np.all((telemetry["temperature"] > 15) & (telemetry["temperature"] < 80))
        assert np.all((telemetry["current"] >= 0) & (telemetry["current"] < 3))


def test_unplugged_port_is_a_fault_and_a_port_that_comes_back_works(arm, options):
    robot = make_robot(load_spec("so101"), "lerobot", **options)
    robot.connect()
    arm.bus.unplug()
    with pytest.raises(RobotFault, match=r"reading: the port .*port-bench is gone: "):
        robot.read()
    assert robot.health().state == "fault"
    robot.close()
    with pytest.raises(RobotFault, match=r"Could not connect on port '.*port-bench'"):
        robot.connect()
    arm.bus.plug_in()
    with robot:
        assert robot.read().position.shape == (6,)


def test_without_calibration_it_says_which_command_makes_one(arm, options):
    robot = make_robot(load_spec("so101"), "lerobot", **{**options, "id": "unknown"})
    with pytest.raises(DriverError, match=r"calibrate --robot.type=so101_follower --robot.id=unknown --robot.*port"):
        robot.connect()
    assert robot.health().state == "disconnected"


def test_other_calibration_in_the_motors_is_refused_or_written_without_a_jump(arm, options):
    pan = arm.memory[1]
    feetech.OFFSET.set(pan, 300)  # its present position is 300 steps less than the file's offset has it
    feetech.GOAL.set(pan, feetech.GOAL.get(pan) - 300)
    arm.written(1, 40, 4)
    before = arm.data.qpos[0]
    with pytest.raises(RobotFault, match=r"another calibration than .*bench\.json; run lerobot-calibrate"):
        make_robot(load_spec("so101"), "lerobot", **options).connect()
    with make_robot(load_spec("so101"), "lerobot", calibration="write", **options) as robot:
        assert feetech.OFFSET.get(pan) == 0
        assert not until(lambda: abs(robot.read().position[0] - before) > 0.05, arm, 0.5)


def test_calibration_that_lerobot_makes_is_accepted(arm, options, tmp_path, monkeypatch):
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    (tmp_path / "calibration" / "bench.json").unlink()
    arm.model.opt.gravity[:] = 0  # hands hold it
    ranges = arm.model.jnt_range[:6]
    middle = ranges.mean(axis=1) + 0.1

    def move(pose: np.ndarray) -> bool:
        with arm.lock:
            arm.data.qpos[:6], arm.data.qvel[:6] = pose, 0
        return False

    poses = iter((ranges[:, 0], ranges[:, 1], middle))
    pressed = iter((False, False, False, True))
    monkeypatch.setattr("builtins.input", lambda prompt: str(move(middle)))
    monkeypatch.setattr("lerobot.motors.motors_bus.enter_pressed", lambda: next(pressed) or move(next(poses)))
    theirs = SO101Follower(SO101FollowerConfig(**{**options, "calibration_dir": tmp_path / "calibration"}))
    patiently(theirs.bus.connect)
    theirs.calibrate()
    theirs.bus.disconnect()
    made = json.loads((tmp_path / "calibration" / "bench.json").read_text())
    assert all(abs(joint["homing_offset"] - 0.1 / 2 / np.pi * 4096) < 3 for joint in made.values())
    with make_robot(load_spec("so101"), "lerobot", **options) as robot:
        # The zero of a joint is the middle of the range it was moved through; the roll's is where it was at the start.
        assert np.allclose(robot.read().position[:4], middle[:4], atol=0.01)
        assert abs(robot.read().position[4]) < 0.01


def pair() -> RobotSpec:
    """Two SO-101 as one robot of twelve joints; the grippers are two of them."""
    one = load_spec("so101")
    hand = one.joints[0].model_copy(update={"name": "gripper", "lower": 0.0, "upper": 0.07, "home": 0.07})
    arm = (*one.joints, hand)
    joints = tuple(
        axis.model_copy(update={"name": f"{side}_{axis.name}"}) for side in ("left", "right") for axis in arm
    )
    per_arm = {"use_degrees": True, "disable_torque_on_disconnect": False}
    block = one.lerobot.model_copy(
        update={
            "type": "bi_so_follower",
            "keys": tuple(f"{joint.name}.pos" for joint in joints),
            "scale": 2 * one.lerobot.scale,
            "options": {"left_arm_config": per_arm, "right_arm_config": per_arm},
        }
    )
    rest = {"gripper": None, "mujoco": None, "guard": None, "driver": "lerobot", "lerobot": block}
    return one.model_copy(update={"name": "pair", "joints": joints, **rest})


def test_two_arms_are_one_robot(tmp_path):
    left, right = emulated(tmp_path, "pair_left"), emulated(tmp_path, "pair_right")
    spec = RobotSpec.model_validate_json(pair().model_dump_json())
    ports = {f"{side}_arm_config": {"port": str(tmp_path / f"port-pair_{side}")} for side in ("left", "right")}
    try:
        with make_robot(spec, id="pair", calibration_dir=str(tmp_path / "calibration"), **ports) as robot:
            start = robot.read().position
            assert start.shape == (12,)
            target = start.copy()
            target[[0, 6]] += 0.3, -0.3
            robot.write(Command(target))
            assert until(lambda: bool(np.allclose(robot.read().position, target, atol=0.03)), left)
            assert left.data.qpos[0] > start[0] + 0.2
            assert right.data.qpos[0] < start[6] - 0.2
            right.bus.dead.add(2)
            with pytest.raises(RobotFault, match=r"right_shoulder_lift \(motor 2 on .*port-pair_right\)"):
                robot.read()
    finally:
        left.close()
        right.close()


def test_robot_with_other_servos_is_known(tmp_path):
    pytest.importorskip("dynamixel_sdk")
    spec = load_spec("so101")
    block = spec.lerobot.model_copy(update={"type": "koch_follower"})
    robot = make_robot(spec.model_copy(update={"lerobot": block}), "lerobot", port=str(tmp_path / "no"), id="k")
    with pytest.raises(DriverError, match=r"no calibration .*k\.json; run lerobot-calibrate --robot.type=koch"):
        robot.connect()


@pytest.fixture
def camera() -> Iterator[dict[str, object]]:
    picture = np.zeros((160, 320, 3), np.uint8)
    picture[:, 80:240] = (0, 255, 0)  # green in the middle, which is what a square picture keeps
    with filming(picture) as options:
        yield options


def test_cameras_are_lerobots(arm, options, camera):
    spec = load_spec("so101")
    with pytest.raises(DriverError, match="no camera 'top'"):
        make_robot(spec, "lerobot", cameras={"top": camera}, **options)
    with pytest.raises(DriverError, match="Specifying 'width' is required"):
        make_robot(spec, "lerobot", cameras={"front": {"type": "opencv", "index_or_path": 0}}, **options)
    with make_robot(spec, "lerobot", cameras={"front": camera}, **options) as robot:
        image = robot.read().images["front"]
        assert image.shape == (128, 128, 3)
        assert image.dtype == np.uint8
        assert np.allclose(image.mean(axis=(0, 1)), (0, 255, 0), atol=20)
        assert not np.shares_memory(image, robot.read().images["front"])


def test_camera_that_is_not_there_is_a_fault_and_the_port_is_free_again(arm, options):
    absent = {"type": "opencv", "index_or_path": "/dev/video99", "width": 320, "height": 160, "fps": 30}
    with pytest.raises(RobotFault, match="connecting: Failed to open OpenCVCamera"):
        make_robot(load_spec("so101"), "lerobot", cameras={"front": absent}, **options).connect()
    with make_robot(load_spec("so101"), "lerobot", **options) as robot:
        assert robot.health().state == "ok"


def test_wrong_options_are_one_line(options):
    spec = load_spec("so101")
    with pytest.raises(DriverError, match="prot"):
        make_robot(spec, "lerobot", prot="x", **options)
    with pytest.raises(SpecError, match="block 'lerobot'"):
        make_robot(load_spec("panda"), "lerobot", **options)
    block = spec.lerobot.model_copy(update={"type": "so101_folower"})
    with pytest.raises(DriverError, match="did you mean 'so101_follower'"):
        make_robot(spec.model_copy(update={"lerobot": block}), "lerobot", **options)


def test_stop_holds_the_pose_that_is_measured(arm, options):
    with make_robot(load_spec("so101"), "lerobot", **options) as robot:
        robot.write(Command(robot.spec.home + np.array([1.0, 0, 0, 0, 0, 0])))
        assert until(lambda: bool(arm.data.qvel[0] > 0.5), arm)
        robot.stop()
        at = robot.read().position[0]
        assert until(lambda: bool(abs(arm.data.qvel[0]) < 0.01), arm)
        assert abs(arm.data.qpos[0] - at) < 0.1


def test_limp_arm_stays_where_it_fell_until_it_is_told(arm, options):
    spec = load_spec("so101").model_copy(update={"on_stop": "limp"})
    with make_robot(spec, "lerobot", **options) as robot:
        home = robot.read().position
        robot.stop()
        assert [feetech.TORQUE_ENABLE.get(memory) for memory in arm.memory.values()] == [0] * 6
        assert until(lambda: bool(np.abs(robot.read().position - home).max() > 0.3), arm)  # it falls
        off_by: list[int] = []
        obey = arm.written

        def watched(servo: int, address: int, size: int) -> None:
            if address == feetech.TORQUE_ENABLE.address:
                arm.refresh()
                off_by.append(abs(feetech.GOAL.get(arm.memory[servo]) - feetech.POSITION.get(arm.memory[servo])))
            obey(servo, address, size)

        arm.written = watched
        fallen = robot.read().position
        robot.write(Command(np.clip(fallen, spec.lower, spec.upper)))
        assert [feetech.TORQUE_ENABLE.get(memory) for memory in arm.memory.values()] == [1] * 6
        assert len(off_by) == 6
        assert max(off_by) < 60  # steps, that it fell in the meantime
        assert not until(lambda: bool(np.abs(robot.read().position - fallen).max() > 0.1), arm, 0.5)
    assert [feetech.TORQUE_ENABLE.get(memory) for memory in arm.memory.values()] == [0] * 6


COMMAND = "import typer; from robotlearn.commands.emulate import emulate; typer.run(emulate)"


@pytest.fixture
def runtime(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path / "runtime"


def launch(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", COMMAND, "so101", *arguments], stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().rstrip())


def test_command_serves_its_port_until_it_is_stopped(runtime):
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    process = launch("--name", "desk")
    try:
        port = first_line(process)
        (found,) = presence.present()
        assert found["options"]["port"] == str(port)
        folder = Path(found["options"]["calibration_dir"])
        theirs = SO101Follower(SO101FollowerConfig(port=str(port), id="desk", calibration_dir=folder))
        patiently(theirs.bus.connect)
        assert theirs.is_calibrated
        assert len(theirs.get_observation()) == 6
        theirs.disconnect()
        ended(process, signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    assert not os.path.lexists(port)
    assert presence.present() == []


def test_killed_emulator_hinders_nobody(runtime, tmp_path):
    killed, stopped = launch(), launch("--name", "two", "--port", str(tmp_path / "mine"))
    try:
        port, other = first_line(killed), first_line(stopped)
        assert other == tmp_path / "mine"
        with pytest.raises(DriverError, match="an emulator named 'so101' runs already"), presence.Presence("so101"):
            pass
        assert [found["name"] for found in presence.present()] == ["so101", "two"]
        killed.kill()
        killed.wait()
        assert [found["name"] for found in presence.present()] == ["two"]
        assert os.path.lexists(port)
        with presence.Presence("so101"):
            arm = EmulatedSO101(port)
            arm.start()
            assert port.exists()
            arm.close()
        ended(stopped, signal.SIGINT)
    finally:
        for process in (killed, stopped):
            process.kill()
            process.wait()
    assert not os.path.lexists(port)
    assert not os.path.lexists(other)


def ended(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)
    assert process.wait(30) == 0


def test_view_without_a_display_is_one_line(runtime, monkeypatch):
    from robotlearn.commands.emulate import emulate
    from robotlearn.errors import DisplayError

    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(DisplayError, match="no display here"):
        emulate("so101", view=True)


def test_name_and_port_that_cannot_be_are_refused(runtime, tmp_path):
    with pytest.raises(DriverError, match=r"it can't be '\.\./x'"):
        presence.Presence("../x")
    (tmp_path / "file").touch()
    arm = EmulatedSO101(tmp_path / "file")
    with pytest.raises(DriverError, match="in the way"):
        arm.start()
    arm.close()
    assert (tmp_path / "file").exists()
