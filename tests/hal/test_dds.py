"""The driver `dds` and the mapping that it shares with `ros2`, against real participants on this machine."""

import io
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import PIL.Image
import pytest

import hal
from hal import Command, DriverError, RobotFault
from hal.drivers import ros_types
from hal.drivers.dds import DdsTransport
from hal.drivers.ros import COMPRESSED, IMAGE, JOINT_STATE, NUMBERS, TRAJECTORY
from hal.drivers.ros_options import Qos
from hal.emulators.ros_arm import EmulatedRosArm
from tests.fakes import small_spec
from tests.waiting import until

RELIABLE = Qos(reliability="reliable", depth=10)
COMMAND = "/joint_trajectory_controller/joint_trajectory"
FORWARD = "/forward_position_controller/commands"


@pytest.fixture(scope="module", autouse=True)
def domain() -> Iterator[None]:
    """A domain of this module's own, which nobody on another machine can join."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(random.SystemRandom().randrange(102)))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


class Node:
    """Publishes what it is told to, a hundred times a second, and keeps the commands that come."""

    def __init__(self, *, command: str = COMMAND, kind: str = TRAJECTORY, qos: Qos = RELIABLE) -> None:
        self.transport = DdsTransport("node")
        self.sent: dict[tuple[str, str], dict[str, Any]] = {}
        self.got: list[Any] = []
        self._publishers: dict[tuple[str, str], Any] = {}
        self._qos = qos
        if command:
            self.listen(command, kind)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def listen(self, topic: str, kind: str) -> None:
        self.transport.subscribe(topic, kind, self._qos, self.got.append)

    def say(self, topic: str = "/joint_states", kind: str = JOINT_STATE, **fields: Any) -> None:
        if (topic, kind) not in self._publishers:
            self._publishers[topic, kind] = self.transport.publisher(topic, kind, self._qos)
        self.sent[topic, kind] = fields

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.transport.close()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            for key, fields in list(self.sent.items()):
                self._publishers[key].publish(**fields)


@pytest.fixture
def nodes() -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(**options: Any) -> Node:
        made.append(Node(**options))
        return made[-1]

    yield make
    for node in made:
        node.close()


@pytest.fixture
def node(nodes: Callable[..., Node]) -> Node:
    """Of the arm of `small_spec`, its joints in another order and among others."""
    made = nodes()
    made.say(name=["wheel", "gripper", "elbow", "shoulder"], position=[9.0, 0.04, 0.2, 0.1],
             velocity=[9.0, 0.4, 0.02, 0.01], effort=[9.0, 40.0, 2.0, 1.0])  # fmt: skip
    return made


def robot(**options: Any) -> hal.Robot:
    return hal.make_robot(small_spec(), "dds", **{"timeout_s": 2.0, **options})


def refused(**options: Any) -> str:
    """Why it can't be connected to, said within a moment."""
    with pytest.raises(RobotFault) as caught:
        robot(**{"connect_timeout_s": 0.3, **options}).connect()
    return str(caught.value)


@pytest.fixture
def arm() -> Iterator[EmulatedRosArm]:
    made = EmulatedRosArm(hal.load_spec("panda"), DdsTransport("arm"), namespace="panda_1")
    made.start()
    yield made
    made.close()


def test_keeps_the_rules_of_robot(arm: EmulatedRosArm) -> None:
    hal.check_robot(hal.make_robot(arm.spec, "dds", **arm.options))


@pytest.mark.parametrize("kind", ["joint_trajectory", "float64_multi_array"])
def test_the_arm_goes_where_it_is_told(arm: EmulatedRosArm, kind: str) -> None:
    options = dict(arm.options)
    if kind == "float64_multi_array":
        options |= {"command": "/panda_1" + FORWARD, "command_type": kind}
    goal = arm.spec.home + np.array([0.2, 0.1, -0.1, 0.1, 0.1, -0.1, 0.2, -0.03])
    with hal.make_robot(arm.spec, "dds", **options) as panda:
        panda.write(Command(goal))
        until(lambda: np.allclose(panda.read().position, goal, atol=0.01), "the arm to be there")
        until(lambda: np.abs(panda.read().velocity).max() < 0.01, "the arm to rest")
        reading = panda.read()
        assert np.allclose(reading.position[:7], arm.data.qpos[:7], atol=1e-3)
        assert np.allclose(reading.position[7], arm.data.qpos[7:9].sum(), atol=1e-3)
        assert reading.effort is not None
        torque = arm.data.qfrc_actuator
        until(lambda: np.allclose(panda.read().effort[:7], torque[:7], atol=0.05), "its torques, as it settles")
        assert abs(reading.effort[1]) > 0.5  # gravity


def test_joints_go_by_name(node: Node) -> None:
    with robot() as arm:
        reading = arm.read()
    assert np.allclose(reading.position, [0.1, 0.2, 0.04])
    assert np.allclose(reading.velocity, [0.01, 0.02, 0.4])
    assert reading.effort is not None and np.allclose(reading.effort, [1.0, 2.0, 40.0])


def test_names_units_signs_and_offsets_both_ways(nodes: Callable[..., Node]) -> None:
    node = nodes()
    node.say(
        name=["a", "b", "finger"], position=[90.0, 10.0, 0.02], velocity=[90.0, 10.0, 0.01], effort=[1.0, 2.0, 3.0]
    )
    options = {
        "unit": "deg",
        "joints": {"shoulder": {"joint": "b", "scale": -1.0}, "elbow": {"joint": "a", "offset": -1.0}},
        "gripper": {"joint": "finger", "scale": 2.0},
    }
    with robot(**options) as arm:
        reading = arm.read()
        assert np.allclose(reading.position, [-np.deg2rad(10), np.deg2rad(90) - 1.0, 0.04])
        assert np.allclose(reading.velocity, [-np.deg2rad(10), np.deg2rad(90), 0.02])
        assert reading.effort is not None and np.allclose(reading.effort, [-2.0, 1.0, 3.0])
        arm.write(Command(np.array([0.5, 0.25, 0.06])))
        until(lambda: len(node.got) >= 2, "the command")
        command = node.got[1]
        assert command.joint_names == ["b", "a", "finger"]
        assert np.allclose(command.points[0].positions, [-np.rad2deg(0.5), np.rad2deg(1.25), 0.03])
        after = command.points[0].time_from_start
        assert (after.sec, after.nanosec) == (0, 50_000_000)  # one period


def test_connecting_and_stopping_hold_the_measured_pose(node: Node) -> None:
    with robot(time_from_start_s=1.5) as arm:
        until(lambda: node.got, "the first command")
        assert np.allclose(node.got[0].points[0].positions, [0.1, 0.2, 0.04])
        assert node.got[0].points[0].time_from_start.sec == 1
        assert node.got[0].points[0].time_from_start.nanosec == 500_000_000
        arm.write(Command(np.array([0.5, 0.5, 0.01])))
        arm.stop()
        until(lambda: len(node.got) == 3, "the stop")
        assert np.allclose(node.got[2].points[0].positions, [0.1, 0.2, 0.01])  # the gripper keeps its grip
        arm.write(Command(np.array([0.5, 0.5, 0.01])))
        until(lambda: len(node.got) == 4, "the command after the stop")
    until(lambda: len(node.got) == 5, "the stop at the end")
    assert np.allclose(node.got[4].points[0].positions, [0.1, 0.2, 0.01])


def test_joints_from_several_messages_and_velocities_that_nobody_publishes(nodes: Callable[..., Node]) -> None:
    first, second = nodes(), nodes(command="")
    first.say(name=["shoulder", "elbow"], position=[0.1, 0.2])
    second.say(name=["gripper"], position=[0.04], velocity=[float("nan")])
    with robot() as arm:
        assert np.allclose(arm.read().position, [0.1, 0.2, 0.04])
        assert np.allclose(arm.read().velocity, 0)
        assert arm.read().effort is None
        for step in range(100):
            first.say(name=["shoulder", "elbow"], position=[0.1 + 0.01 * step, 0.2])
            before = arm.read().monotonic
            until(lambda before=before: arm.read().monotonic > before, "the next message")
        until(lambda: arm.read().position[0] > 1.0, "the last one")
        first.say(name=["shoulder", "elbow"], position=[1.5, 0.2])
        until(lambda: arm.read().velocity[0] > 1, "a speed")


def test_numbers_and_a_gripper_on_a_topic_of_its_own(nodes: Callable[..., Node]) -> None:
    arms, hand = nodes(command=FORWARD, kind=NUMBERS), nodes(command="/hand/joint_trajectory")
    arms.say(name=["shoulder", "elbow", "gripper"], position=[0.1, 0.2, 0.04])
    options = {
        "command": FORWARD,
        "command_type": "float64_multi_array",
        "gripper": {"command": "/hand/joint_trajectory"},
    }
    with robot(**options) as arm:
        until(lambda: arms.got, "the pose at connect")
        assert not hand.got  # what it holds, it goes on holding
        arm.write(Command(np.array([0.3, 0.4, 0.05])))
        until(lambda: len(arms.got) == 2 and hand.got, "both commands")
        assert list(arms.got[1].data) == [0.3, 0.4]
        assert (hand.got[0].joint_names, hand.got[0].points[0].positions) == (["gripper"], [0.05])
        arm.stop()
        until(lambda: len(arms.got) == 3, "the stop")
        assert list(arms.got[2].data) == [0.1, 0.2] and len(hand.got) == 1


PICTURE = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
GREY = np.repeat(PICTURE[:, :, :1], 3, axis=2)


def _padded(rows: np.ndarray) -> bytes:
    return np.pad(rows.reshape(6, -1), ((0, 0), (0, 5))).tobytes()


@pytest.mark.parametrize(
    ("encoding", "step", "data", "expected"),
    [
        ("rgb8", 24, PICTURE.tobytes(), PICTURE),
        ("bgr8", 24, PICTURE[:, :, ::-1].tobytes(), PICTURE),
        ("rgb8", 29, _padded(PICTURE), PICTURE),
        ("mono8", 13, _padded(PICTURE[:, :, 0]), GREY),
        ("bgra8", 32, np.dstack((PICTURE[:, :, ::-1], GREY[:, :, 0])).tobytes(), PICTURE),
    ],
    ids=["rgb8", "bgr8", "rgb8 padded", "mono8 padded", "bgra8"],
)
def test_raw_images(node: Node, encoding: str, step: int, data: bytes, expected: np.ndarray) -> None:
    node.say("/eye/image_raw", IMAGE, height=6, width=8, encoding=encoding, step=step, data=data)
    with robot(cameras={"eye": {"topic": "/eye/image_raw", "timeout_s": 3.0}}) as arm:
        image = arm.read().images["eye"]
    assert image.dtype == np.uint8 and np.array_equal(image, expected)


@pytest.mark.parametrize(("form", "quality"), [("PNG", 0), ("JPEG", 50)])
def test_compressed_images(node: Node, form: str, quality: float) -> None:
    packed = io.BytesIO()
    PIL.Image.fromarray(GREY).save(packed, form, quality=100)
    node.say("/eye/compressed", COMPRESSED, format=form.lower(), data=packed.getvalue())
    with robot(cameras={"eye": {"topic": "/eye/compressed", "compressed": True, "timeout_s": 3.0}}) as arm:
        image = arm.read().images["eye"]
    assert image.shape == (6, 8, 3)
    assert np.abs(image.astype(int) - GREY).mean() <= quality


def test_images_that_are_none_are_faults_that_say_why(node: Node) -> None:
    eye = {"cameras": {"eye": {"topic": "/eye", "timeout_s": 0.3}}}
    node.say("/eye", IMAGE, height=6, width=8, encoding="16UC1", step=16, data=bytes(96))
    assert "/eye: encoding '16UC1': valid: bgr8, " in refused(**eye)
    node.say("/eye", IMAGE, height=8, width=6, encoding="rgb8", step=18, data=bytes(144))
    assert "/eye: an image is 6 x 8, in the spec 8 x 6" in refused(**eye)
    node.say("/eye", IMAGE, height=6, width=8, encoding="rgb8", step=24, data=bytes(20))
    assert "/eye: 20 bytes are no 8 x 6 image with 24 bytes a row" in refused(**eye)
    node.say("/eye", IMAGE, height=6, width=8, encoding="rgb8", step=24, data=PICTURE.tobytes())
    with robot(**eye) as arm:
        del node.sent["/eye", IMAGE]
        until(lambda: arm.health().state == "fault", "the camera's silence to be noticed")
        with pytest.raises(
            RobotFault, match=r"small: /eye is silent: the last image of camera 'eye' came \d\.\d\d s ago"
        ):
            arm.read()


def test_compressed_rubbish_is_a_fault(node: Node) -> None:
    node.say("/eye", COMPRESSED, format="jpeg", data=b"no picture")
    said = refused(cameras={"eye": {"topic": "/eye", "compressed": True}})
    assert "/eye: cannot identify image file" in said


def test_silence_is_a_fault_until_reconnected(node: Node) -> None:
    arm = robot()
    with arm:
        message = node.sent.pop(("/joint_states", JOINT_STATE))
        until(lambda: arm.health().state == "fault", "the silence to be noticed")
        with pytest.raises(RobotFault, match=r"small: /joint_states is silent: its last message came \d\.\d\d s ago"):
            arm.read()
        node.say(**message)
        with robot() as other:  # so it speaks again
            before = other.read().monotonic
            until(lambda: other.read().monotonic > before + 0.1, "joint states")
        with pytest.raises(RobotFault, match="silent"):  # the arm may have been moved meanwhile
            arm.write(Command(np.zeros(3)))
        before = len(node.got)
        arm.close()
        arm.connect()
        assert arm.health().state == "ok"
        arm.write(Command(np.zeros(3)))
        until(lambda: len(node.got) >= before + 2, "commands again")


def test_missing_topic_is_named_with_what_there_is(node: Node) -> None:
    said = refused(joint_states="/arm/joint_state", command="/arm_controller/joint_trajectory")
    assert "within 0.3 s: nobody publishes /arm/joint_state (sensor_msgs/msg/JointState): " in said
    assert "did you mean '/joint_states'? valid: /joint_states; nobody subscribes to /arm_controller/joint_traj" in said
    assert said.endswith(f"valid: {COMMAND}")


def test_topic_of_another_type(node: Node) -> None:
    node.say("/eye", COMPRESSED, format="png", data=b"")
    said = refused(cameras={"eye": {"topic": "/eye"}}, command_type="float64_multi_array")
    assert "/eye is of type sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image" in said
    assert f"{COMMAND} is of type trajectory_msgs/msg/JointTrajectory, not std_msgs/msg/Float64MultiArray" in said


def test_misnamed_joint(node: Node) -> None:
    said = refused(joints={"elbow": {"joint": "elbo"}})
    assert said.endswith(
        "/joint_states: it has no joint 'elbo': did you mean 'elbow'? valid: elbow, gripper, shoulder, wheel"
    )


def test_a_process_is_one_participant_however_often_it_connects(node: Node) -> None:
    """Of those that are made and deleted in a row, some find nobody that came meanwhile."""
    seen = []
    for _ in range(2):
        transport = DdsTransport("once")
        seen.append(transport._participant.guid)
        transport.close()
    assert seen[0] == seen[1]


def test_joint_that_vanishes(node: Node) -> None:
    with robot() as arm:
        node.say(name=["gripper", "shoulder"], position=[0.04, 0.1])
        until(lambda: arm.health().state == "fault", "the joint to be missed")
        with pytest.raises(RobotFault, match=r"/joint_states has had no joint 'elbow' for 2.\d+ s"):
            arm.read()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": ["shoulder", "elbow", "gripper"], "position": [1.0]}, "a message has 3 names and 1 positions"),
        ({"name": ["elbow"], "position": [float("nan")]}, "joint 'elbow' is at nan"),
    ],
)
def test_states_that_make_no_sense(nodes: Callable[..., Node], fields: dict[str, Any], why: str) -> None:
    nodes().say(**fields)
    assert refused().endswith(f"/joint_states: {why}")


def test_quality_of_service_that_does_not_match(nodes: Callable[..., Node]) -> None:
    lax = nodes(qos=Qos())
    lax.say(name=["shoulder", "elbow", "gripper"], position=[0.1, 0.2, 0.04])
    said = refused(joint_states_qos={"reliability": "reliable"})
    assert (
        "/joint_states: its publishers are best_effort, this side asks for reliable: set qos.reliability to best_"
        in said
    )
    lax.close()
    strict = nodes()
    strict.say(name=["shoulder", "elbow", "gripper"], position=[0.1, 0.2, 0.04])
    said = refused(command_qos={"reliability": "best_effort"})
    assert f"{COMMAND}: its subscribers are reliable, this side asks for best_effort: set" in said


def test_controller_that_goes(nodes: Callable[..., Node]) -> None:
    controller, broadcaster = nodes(), nodes(command="")
    broadcaster.say(name=["shoulder", "elbow", "gripper"], position=[0.1, 0.2, 0.04])
    with robot() as arm:
        controller.transport.close()
        until(lambda: arm.health().state == "fault", "its absence to be noticed")
        with pytest.raises(RobotFault, match=f"nobody listens on {COMMAND} any more"):
            arm.write(Command(np.zeros(3)))


def test_wall_is_the_stamp_where_it_is_sane(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    with robot() as arm:
        reading = arm.read()
        stamps = {reading.wall}
        assert abs(reading.wall - time.time()) < 5 and time.monotonic() - reading.monotonic < 5
    monkeypatch.setattr(ros_types, "Time", lambda sec, nanosec: ros_types.Header().stamp)  # as simulated time begins
    with robot() as arm:
        before = arm.read().monotonic
        until(lambda: arm.read().monotonic > before, "a message with such a stamp")
        assert abs(arm.read().wall - time.time()) < 1
        assert arm.read().wall not in stamps


def test_message_that_cannot_be_decoded_is_a_fault_and_not_the_end(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **named: Any) -> Any:
        return b"\xff".decode()

    monkeypatch.setattr(ros_types.JointState, "deserialize", broken)
    assert "/joint_states: 'utf-8' codec can't decode byte 0xff" in refused()
    monkeypatch.undo()
    with robot() as arm:
        monkeypatch.setattr(ros_types.JointState, "deserialize", broken)
        until(lambda: arm.health().state == "fault", "the rubbish to be noticed")
        with pytest.raises(RobotFault, match=r"/joint_states has had no joint 'shoulder' for .* 'utf-8' codec"):
            arm.read()


def test_image_cut_short_is_refused() -> None:
    whole = ros_types.Image(height=1, width=1, encoding="rgb8", step=3, data=b"123").serialize()
    assert bytes(ros_types.Image.deserialize(whole).data) == b"123"
    with pytest.raises(ValueError, match="shorter than it says"):
        ros_types.Image.deserialize(whole[:-2])
    with pytest.raises(ValueError, match="the encoding 0000, not CDR with little endian"):
        ros_types.Image.deserialize(b"\0\0" + whole[2:])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"joint_state": "/x"}, "unknown option 'joint_state': did you mean 'joint_states'"),
        ({"command": "not a topic"}, "option command = 'not a topic': String should match"),
        ({"timeout_s": 0}, "option timeout_s = 0: Input should be greater than 0"),
        ({"joints": {"elbo": {}}}, "option joints: the spec has no 'elbo': did you mean 'elbow'"),
        ({"joints": {"elbow": {"scale": 0.0}}}, "option scale of 'elbow' must not be 0"),
        ({"joints": {"elbow": {"joint": "shoulder"}}}, "the joint 'shoulder' is given for two entries"),
        ({"cameras": {"ear": {"topic": "/x"}}}, "option cameras: the spec has no 'ear': valid: eye"),
        ({"gripper": {"type": "gripper_command"}}, "option gripper.command must say where the gripper takes its"),
        ({"domain": 300}, "option domain = 300: Input should be less than or equal to 232"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], why: str) -> None:
    with pytest.raises(DriverError, match=f"small: {why}"):
        robot(**options)


def test_limp_is_refused() -> None:
    with pytest.raises(DriverError, match="small: on_stop: limp in the spec can't be done through topics"):
        hal.make_robot(small_spec(on_stop="limp"), "dds")


def test_actions_need_rclpy(node: Node) -> None:
    with pytest.raises(DriverError, match="the gripper's action /hand needs the driver 'ros2'"):
        robot(gripper={"type": "gripper_command", "command": "/hand"}).connect()


def test_no_cyclonedds_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedds.domain", None)
    with pytest.raises(DriverError, match=r"the driver 'dds' needs cyclonedds .*: pip install 'robotlearn\[dds\]'"):
        robot()


@pytest.mark.renders
def test_images_of_the_emulated_arm() -> None:
    spec = hal.load_spec("panda")
    arm = EmulatedRosArm(spec, DdsTransport("arm"), cameras=("front",))
    arm.start()
    try:
        with hal.make_robot(spec, "dds", timeout_s=3.0, connect_timeout_s=30.0, **arm.options) as panda:
            image = panda.read().images["front"]
        with hal.make_robot(spec, cameras=("front",)) as simulated:
            assert np.abs(image.astype(int) - simulated.read().images["front"]).mean() < 2
    finally:
        arm.close()
