"""Both drivers against a node of rclpy's alone and against both kinds of emulated arm, in processes of their own."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import rclpy

import hal
from hal import Command, DriverError, RobotFault
from hal.drivers.dds import DdsTransport
from hal.drivers.ros import JOINT_STATE
from hal.drivers.ros2 import RclpyTransport
from hal.drivers.ros_options import Qos
from hal.joint_topics import JointTopics, joint_driver
from tests.fakes import small_spec
from tests.waiting import until

COMMAND = "/joint_trajectory_controller/joint_trajectory"
FORWARD = "/forward_position_controller/commands"
STATES = {"name": ["wheel", "gripper", "elbow", "shoulder"], "position": [9.0, 0.04, 0.2, 0.1],
          "velocity": [9.0, 0.4, 0.02, 0.01], "effort": [9.0, 40.0, 2.0, 1.0]}  # fmt: skip
DRIVERS = pytest.mark.parametrize("driver", ["ros2", "dds"])
PICTURE = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


class Somebody:
    """The process of `node.py`."""

    def __init__(self, reliability: str = "RELIABLE", domain: str = "") -> None:
        command = [sys.executable, str(Path(__file__).with_name("node.py")), reliability]
        env = os.environ | ({"ROS_DOMAIN_ID": domain} if domain else {})
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.got: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        self.say(states=STATES)

    def say(self, **what: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def calm(self) -> None:
        """As it was at the start."""
        self.say(states=STATES, stamp=True, images={}, compressed={})
        self.got.clear()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.got.append(json.loads(line))


@pytest.fixture(scope="module")
def shared() -> Iterator[Somebody]:
    node = Somebody()
    yield node
    node.kill()


@pytest.fixture
def node(shared: Somebody) -> Iterator[Somebody]:
    shared.calm()
    yield shared


def robot(driver: str, **options: Any) -> hal.Robot:
    return hal.make_robot(small_spec(), driver, **{"timeout_s": 2.0, "connect_timeout_s": 20.0, **options})


def refused(driver: str, *words: str, **options: Any) -> str:
    """Why it can't be connected to, as it is said once everybody is known who is there: with all those words."""
    said: list[str] = []

    def all_known() -> bool:
        with pytest.raises(RobotFault) as caught:
            robot(driver, **{"connect_timeout_s": 2.0, **options}).connect()
        said.append(str(caught.value))
        print(said[-1])  # pytest shows it
        return all(word in said[-1] for word in words)

    until(all_known, f"a refusal with {words}")
    return said[-1]


def eventually_read(arm: hal.Robot, wanted: Callable[[hal.Reading], bool], what: str) -> hal.Reading:
    until(lambda: wanted(arm.read()), what)
    return arm.read()


@DRIVERS
def test_reads_and_writes(node: Somebody, driver: str) -> None:
    with robot(driver) as arm:
        reading = eventually_read(arm, lambda one: bool(np.allclose(one.position, [0.1, 0.2, 0.04])), "the joints")
        assert np.allclose(reading.velocity, [0.01, 0.02, 0.4])
        assert reading.effort is not None and np.allclose(reading.effort, [1.0, 2.0, 40.0])
        assert reading.position.dtype == reading.velocity.dtype == reading.effort.dtype == np.float64
        until(lambda: node.got, "the pose at connect, which a command would replace on its way")
        arm.write(Command(np.array([0.5, -0.5, 0.02])))
        until(lambda: len(node.got) >= 2, "the pose at connect and the command")
        assert node.got[0]["positions"] == pytest.approx([0.1, 0.2, 0.04])
        assert node.got[1] == {"kind": "trajectory", "names": ["shoulder", "elbow", "gripper"],
                               "positions": [0.5, -0.5, 0.02], "seconds": pytest.approx(0.05)}  # fmt: skip
        arm.stop()
        until(lambda: len(node.got) >= 3, "the stop")
        assert node.got[2]["positions"] == pytest.approx([0.1, 0.2, 0.02])
        arm.write(Command(np.array([0.5, -0.5, 0.02])))
    until(lambda: len(node.got) >= 5, "the stop at the end")
    assert node.got[4]["positions"] == pytest.approx([0.1, 0.2, 0.02])


@DRIVERS
def test_numbers(node: Somebody, driver: str) -> None:
    with robot(driver, command=FORWARD, command_type="float64_multi_array") as arm:
        until(lambda: node.got, "the pose at connect, which a command would replace on its way")
        arm.write(Command(np.array([0.5, -0.5, 0.02])))
        until(lambda: len(node.got) >= 2, "the command")
    assert node.got[1] == {"kind": "numbers", "data": [0.5, -0.5, 0.02]}


@DRIVERS
def test_images(node: Somebody, driver: str) -> None:
    packed = io.BytesIO()
    PIL.Image.fromarray(PICTURE).save(packed, "PNG")
    raw = {"height": 6, "width": 8}
    node.say(
        images={
            "/rgb": {**raw, "encoding": "rgb8", "step": 24, "data": PICTURE.ravel().tolist()},
            "/bgr": {**raw, "encoding": "bgr8", "step": 24, "data": PICTURE[:, :, ::-1].ravel().tolist()},
            "/mono": {**raw, "encoding": "mono8", "step": 8, "data": PICTURE[:, :, 0].ravel().tolist()},
        },
        compressed={"/png": {"format": "png", "data": list(packed.getvalue())}},
    )
    cameras = {"rgb": {}, "bgr": {}, "mono": {}, "png": {"compressed": True}}
    spec = small_spec(cameras=tuple({"name": name, "width": 8, "height": 6, "fps": 10.0} for name in cameras))
    options = {name: {"topic": f"/{name}", "timeout_s": 3.0, **more} for name, more in cameras.items()}
    with hal.make_robot(spec, driver, timeout_s=3.0, connect_timeout_s=20.0, cameras=options) as arm:
        images = arm.read().images
    assert all(np.array_equal(images[name], PICTURE) for name in ("rgb", "bgr", "png"))
    assert np.array_equal(images["mono"], np.repeat(PICTURE[:, :, :1], 3, axis=2))


@DRIVERS
def test_stamps_of_simulated_time_are_not_taken_for_the_wall(node: Somebody, driver: str) -> None:
    with robot(driver) as arm:
        node.say(stamp=False)
        before = arm.read().monotonic
        until(lambda: arm.read().monotonic > before + 0.1, "such stamps")
        assert abs(arm.read().wall - time.time()) < 1


@DRIVERS
def test_what_is_missing_is_named(node: Somebody, driver: str) -> None:
    refused(
        driver,
        "nobody publishes /joint_state (sensor_msgs/msg/JointState): did you mean '/joint_states'? valid: /joint_",
        f"{COMMAND}: its subscribers are reliable, this side asks for best_effort: set qos.reliability to reliable",
        joint_states="/joint_state",
        command_qos={"reliability": "best_effort"},
    )
    wrong = {"joints": {"elbow": {"joint": "elbo"}}, "cameras": {"eye": {"topic": "/png"}}}
    node.say(compressed={"/png": {"format": "png", "data": []}})
    said = refused(
        driver,
        "/joint_states: it has no joint 'elbo': did you mean 'elbow'? valid: elbow, gripper, shoulder, wheel",
        "/png is of type sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image",
        "nobody subscribes to /arm_controller/joint_trajectory (trajectory_msgs/msg/JointTrajectory): ",
        f"valid: {COMMAND}",
        command="/arm_controller/joint_trajectory",
        **wrong,
    )
    assert said.endswith(f"valid: {COMMAND}")


@DRIVERS
def test_silence_and_a_joint_that_vanishes(node: Somebody, driver: str) -> None:
    arm = robot(driver)
    with arm:
        node.say(states=None)
        until(lambda: arm.health().state == "fault", "the silence to be noticed")
        with pytest.raises(RobotFault, match=r"small: /joint_states is silent: its last message came \d\.\d\d s ago"):
            arm.read()
        node.say(states=STATES)
        arm.close()
        arm.connect()
        assert arm.read().position.shape == (3,)
        node.say(states={"name": ["shoulder", "gripper"], "position": [0.1, 0.04]})
        until(lambda: arm.health().state == "fault", "the joint to be missed")
        with pytest.raises(RobotFault, match=r"small: /joint_states has had no joint 'elbow' for \d\.\d\d s"):
            arm.write(Command(np.zeros(3)))


def test_node_that_is_killed_and_comes_back() -> None:
    """One best-effort node for both drivers: what is read reliably isn't heard, and that is named."""
    domain = (int(os.environ["ROS_DOMAIN_ID"]) + 1) % 102  # a second one, so that the other node isn't there
    process = Somebody("BEST_EFFORT", str(domain))
    arms = [robot(driver, domain=domain) for driver in ("ros2", "dds")]
    try:
        for arm in arms:
            arm.connect()
        why = "/joint_states: its publishers are best_effort, this side asks for reliable: set qos.reliability to"
        refused("ros2", why, joint_states_qos={"reliability": "reliable"}, domain=domain)
        process.kill()
        for arm in arms:
            until(lambda arm=arm: arm.health().state == "fault", "its death to be noticed")
            with pytest.raises(RobotFault, match="/joint_states is silent"):
                arm.read()
        process = Somebody(domain=str(domain))
        for arm in arms:
            arm.close()
            arm.connect()
            arm.write(Command(np.array([0.5, -0.5, 0.02])))
            assert arm.health().state == "ok"
        until(
            lambda: len([one for one in process.got if one.get("positions") == [0.5, -0.5, 0.02]]) == 2, "both commands"
        )
    finally:
        for arm in arms:
            arm.close()
        process.kill()


def test_gripper_action_without_control_msgs_names_the_package(node: Somebody) -> None:
    if importlib.util.find_spec("control_msgs") is not None:
        pytest.skip("control_msgs is installed")
    with pytest.raises(DriverError, match=r"GripperCommand of the package control_msgs .*apt install .*-control-msgs"):
        robot("ros2", gripper={"type": "gripper_command", "command": "/hand/gripper_cmd"}).connect()


@pytest.mark.parametrize("kind", ["gripper_command", "parallel_gripper_command"])
def test_gripper_action(node: Somebody, kind: str) -> None:
    actions = pytest.importorskip("control_msgs.action", reason="no control_msgs: it comes with a ROS installation")
    from rclpy.action import ActionServer, GoalResponse

    action = actions.GripperCommand if kind == "gripper_command" else actions.ParallelGripperCommand
    goals: list[Any] = []

    def decide(goal: Any) -> Any:
        goals.append(goal.command)
        return GoalResponse.REJECT if len(goals) == 1 else GoalResponse.ACCEPT

    def follow(handle: Any) -> Any:
        handle.succeed()
        return action.Result()

    node.say(states={"name": ["shoulder", "elbow", "finger"], "position": [0.1, 0.2, 0.02]})
    hand = {"joint": "finger", "scale": 2.0, "type": kind, "command": "/hand/gripper_cmd", "max_effort": 12.0}
    refused("ros2", f"there is no server of the action /hand/gripper_cmd ({kind})", gripper=hand)
    transport = RclpyTransport("hand")  # for its node and thread
    server = ActionServer(transport._node, action, "/hand/gripper_cmd", follow, goal_callback=decide)
    try:
        with robot("ros2", gripper=hand) as arm:
            assert not goals  # what it holds, it goes on holding

            def sent(width: float, count: int) -> bool:
                arm.write(Command(np.array([0.1, 0.2, width])))
                return len(goals) >= count

            until(lambda: sent(0.06, 2), "the goal that was refused at first")
            until(lambda: sent(0.02, 3), "another goal")
            widths = [goal.position if kind == "gripper_command" else goal.position[0] for goal in goals]
            assert widths == pytest.approx([0.03, 0.03, 0.01])
            assert (goals[0].max_effort if kind == "gripper_command" else goals[0].effort[0]) == 12.0
            server.destroy()
            until(lambda: arm.health().state == "fault", "the server's absence to be noticed")
            with pytest.raises(RobotFault, match="nobody listens on /hand/gripper_cmd any more"):
                arm.write(Command(np.zeros(3)))
    finally:
        transport.close()


def test_plain_dds_is_a_node_to_rclpy() -> None:
    first, second, ours = DdsTransport("first_seen"), DdsTransport("second_seen"), rclpy.Context()
    rclpy.init(context=ours)
    watcher = rclpy.create_node("watcher", context=ours)

    def seen(name: str) -> bool:
        return any(node.startswith(name) for node in watcher.get_node_names())

    try:
        until(lambda: seen("first_seen") and seen("second_seen"), "the nodes to be seen")
        first.close()
        until(lambda: not seen("first_seen"), "the first to be gone")
        assert seen("second_seen")
    finally:
        first.close()
        second.close()
        watcher.destroy_node()
        rclpy.shutdown(context=ours)


def test_closes_while_messages_come() -> None:
    qos, interval = Qos(reliability="reliable"), sys.getswitchinterval()
    ended, source = threading.Event(), RclpyTransport("talker")
    talker = source.publisher("/talk", JOINT_STATE, qos)

    def talk() -> None:
        while not ended.is_set():
            talker.publish(name=["a"], position=[0.0], velocity=[], effort=[])

    thread = threading.Thread(target=talk)
    thread.start()
    sys.setswitchinterval(2e-6)  # threads take turns within every line
    try:
        for _ in range(25):
            transport, heard = RclpyTransport("hasty"), threading.Event()
            transport.subscribe("/talk", JOINT_STATE, qos, lambda _, it=heard: it.set())
            assert heard.wait(20)
            transport.close()  # pytest fails a test one of whose threads dies
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        thread.join()
        source.close()


def test_joint_states_are_found_through_rclpy(node: Somebody) -> None:
    assert joint_driver() == "ros2"
    topics = JointTopics()
    try:
        until(lambda: {"/joint_states": {*STATES["name"]}} == {one.name: {*one.joints} for one in topics.heard()}, "it")
    finally:
        topics.close()


ARM = """
import sys, hal
from hal.drivers.{module} import {transport}
from hal.emulators.ros_arm import EmulatedRosArm
arm = EmulatedRosArm(hal.load_spec("panda"), {transport}("arm"), namespace="{module}_arm", cameras={cameras})
arm.start()
sys.stdin.read()
arm.close()
"""


@pytest.fixture(scope="module")
def arms() -> Iterator[dict[str, dict[str, Any]]]:
    """Emulated arms of both kinds, with a camera where pictures can be drawn; the driver's options of each."""
    cameras = ["front"] if os.environ.get("MUJOCO_GL") else []
    kinds = {"ros2": RclpyTransport.__name__, "dds": DdsTransport.__name__}
    programs = [ARM.format(module=kind, transport=name, cameras=cameras) for kind, name in kinds.items()]
    processes = [subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE) for text in programs]
    yield {
        kind: {
            "joint_states": f"/{kind}_arm/joint_states",
            "command": f"/{kind}_arm{COMMAND}",
            "cameras": {name: {"topic": f"/{kind}_arm/{name}/image_raw", "timeout_s": 3.0} for name in cameras},
            "timeout_s": 3.0,
            "connect_timeout_s": 20.0,
        }
        for kind in kinds
    }
    for process in processes:
        process.communicate()


@pytest.mark.parametrize("kind", ["ros2", "dds"])
@DRIVERS
def test_emulated_arms(arms: dict[str, dict[str, Any]], driver: str, kind: str) -> None:
    spec = hal.load_spec("panda")
    arm = hal.make_robot(spec, driver, **arms[kind])
    with arm:
        goal = spec.home + np.array([0.2, 0.1, -0.1, 0.1, 0.1, -0.1, 0.2, -0.03]) * (1 if driver == "ros2" else -0.5)
        arm.write(Command(np.clip(goal, spec.lower, spec.upper)))
        until(lambda: np.allclose(arm.read().position[:7], goal[:7], atol=0.01), "the arm to be there")
        reading = arm.read()
        assert reading.effort is not None and abs(reading.effort[1]) > 0.5  # gravity
        for image in reading.images.values():
            assert image.shape == (128, 128, 3) and image.std() > 5
        assert set(reading.images) == set(arms[kind]["cameras"])
    hal.check_robot(arm)
