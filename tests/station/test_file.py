"""A station's file: what is wrong with it in one line, the processes it means, namespaces, the draft of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hal import load_spec
from hal.discovery import Found
from hal.document import parse
from hal.errors import HalError
from robotlearn.config import load_config
from robotlearn.config.station import StationRobot
from robotlearn.errors import ConfigError, RobotlearnError
from robotlearn.station.draft import draft, write_draft
from robotlearn.station.file import StationFile, _overrides, in_namespace
from tests.fakes import write_spec

GOOD = """\
learner: tcp://10.0.0.5:5555
config: smoke
robots:
  - {name: left, robot: panda}
  - name: right
    robot: so101
    driver: lerobot
    options: {port: /dev/ttyUSB0}
estop: {serial: {port: /dev/ttyUSB1, line: cts}}
"""


def station(tmp_path: Path, text: str) -> StationFile:
    file = tmp_path / "station.yaml"
    file.write_text(text)
    return StationFile(file)


MISTAKES = {
    "no YAML": ("robots: [", ":1: not YAML"),
    "no sections": ("- a", "expected keys and values"),
    "a wrong key": (GOOD.replace("learner", "lerner"), ":1: lerner: unknown key, nearest is 'learner'"),
    "a wrong key of a robot": (GOOD.replace("driver", "drver"), ":7: robots.1.drver: unknown key, nearest is 'driver'"),
    "no address": (GOOD.replace("tcp://10.0.0.5:5555", "10.0.0.5"), ":1: learner: '10.0.0.5' is not valid, expected"),
    "any port": (GOOD.replace(":5555", ":*"), "learner: 'tcp://10.0.0.5:*' is not valid"),
    "no robots": ("robots: []", ":1: robots: [] is not valid, expected at least 1 in the list"),
    "none given": ("learner: null", "robots: missing (The robots that stand here)"),
    "one name twice": (GOOD.replace("right", "left"), ":5: robots.1.name: 'left' is the name of robots.0 too"),
    "no spec": (GOOD.replace("panda", "pando"), ":4: robots.0.robot: unknown robot model 'pando': did"),
    "no driver": (GOOD.replace("driver: lerobot", "driver: lerobt"), ":7: robots.1.driver: unknown driver 'lerobt'"),
    "infinity": (GOOD.replace("/dev/ttyUSB0", "inf"), ":8: robots.1.options.port: inf is not valid, expected a finite"),
    "the e-stop at a robot's port": (GOOD.replace("USB1", "USB0"), ":9: estop.serial.port: '/dev/ttyUSB0' is the port"),
    "two e-stops": (GOOD.replace("estop: {", "estop: {evdev: {device: /dev/e, key: KEY_SPACE}, "), ":9: estop: expe"),
    "no e-stop": (GOOD[: GOOD.index("estop")] + "estop: {}", ":9: estop: expected either evdev or serial"),
    "a wrong line": (GOOD.replace("cts", "rts"), ":9: estop.serial.line: 'rts' is not valid, expected 'cts'"),
    "a wrong input": (GOOD.replace("serial:", "seral:"), ":9: estop.seral: unknown key, nearest is 'serial'"),
    "no key's name": (
        "robots: [{name: a, robot: panda}]\nestop: {evdev: {device: d, key: space}}",
        ":2: estop.evdev.key",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda name: name.replace(" ", "_"))
def test_a_mistake_is_one_line_with_file_key_and_what_was_expected(mistake: str, tmp_path: Path) -> None:
    text, said = MISTAKES[mistake]
    with pytest.raises(ConfigError) as error:
        station(tmp_path, text)
    line = str(error.value)
    assert said in line and line.startswith(str(tmp_path / "station.yaml")) and "\n" not in line


def test_two_robots_at_one_port(tmp_path: Path) -> None:
    text = GOOD.replace(
        "{name: left, robot: panda}", "{name: left, robot: so101, driver: lerobot, options: {port: /dev/ttyUSB0}}"
    )
    with pytest.raises(ConfigError, match=r":8: robots.1.options.port: '/dev/ttyUSB0' is the port of robots.0 too"):
        station(tmp_path, text)


def test_no_file_names_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file.*robots --scan --write FILE"):
        StationFile(tmp_path / "station.yaml")


def only_mujoco(tmp_path: Path, **keys: str) -> StationFile:
    lines = [f"{key}: {value}" for key, value in ({"learner": "10.0.0.5:5555", "config": "smoke"} | keys).items()]
    return station(tmp_path, "\n".join([*lines, "robots: [{name: left, robot: panda}, {name: right, robot: panda}]"]))


def test_one_edge_per_robot_whatever_edges_the_config_has(tmp_path: Path) -> None:
    left, right = only_mujoco(tmp_path).processes()
    assert (left.name, right.name) == ("left", "right")
    assert left.arguments[:6] == ("edge", "smoke", "--learner", "tcp://10.0.0.5:5555", "--name", "left")
    run = load_config("smoke", left.arguments[6:])
    (edge,) = run.edges
    assert (edge.name, edge.kind, edge.robot, edge.segment_steps) == ("left", "paced", ("panda",), 16)
    assert load_config("smoke", right.arguments[6:]).edges[0].name == "right"


def test_the_learner_s_key_reaches_each_edge(tmp_path: Path) -> None:
    key = f"public-{'0' * 64}"
    for process in only_mujoco(tmp_path, learner_key=key).processes():
        assert load_config("smoke", process.arguments[6:]).learner.key == key


def test_a_robot_that_the_run_has_not_is_refused_with_what_the_run_needs(tmp_path: Path) -> None:
    """Its learner would refuse the edge: a policy is made for the robots of its run."""
    file = station(tmp_path, GOOD)
    said = r"robot right can't learn what smoke says: the run has no robot so101: .* needs robot: \[panda, so101\]$"
    for check in (file.processes, file.check_learnable):
        with pytest.raises(ConfigError, match=said):
            check()
    both = {"seed": 0, "robot": ["panda", "so101"], "task": "reach", "edges": [{"name": "sim", "kind": "batch"}]}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(both))
    right = file.processes(config=str(tmp_path / "both.yaml"), only="right")[0]
    assert load_config(right.arguments[1], right.arguments[6:]).edges[0].robot == ("so101",)


def test_a_spec_of_the_station_stands_for_the_run_s_own_of_that_model(tmp_path: Path) -> None:
    write_spec(tmp_path / "mine.yaml", load_spec("panda"))
    file = station(tmp_path, "{learner: 'h:1', config: smoke, robots: [{name: left, robot: mine.yaml}]}")
    (process,) = file.processes()
    assert load_config("smoke", process.arguments[6:]).robot == (str(tmp_path / "mine.yaml"),)


def test_an_edge_of_the_run_keeps_what_the_run_says_of_it(tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    edges = [
        {"name": name, "kind": "paced", "execution": {"ahead": ahead}} for name, ahead in (("first", 0), ("left", 1))
    ]
    run.write_text(yaml.safe_dump({"seed": 0, "robot": "panda", "task": "reach", "edges": edges}))
    left, right = only_mujoco(tmp_path, config="run.yaml").processes()
    assert load_config(left.arguments[1], left.arguments[6:]).edges[0].execution.ahead == 1
    assert load_config(right.arguments[1], right.arguments[6:]).edges[0].execution.ahead == 0
    assert left.arguments[1] == str(run)  # beside the station's file, wherever the process runs


def test_a_run_without_paced_edges(tmp_path: Path) -> None:
    """The laptop's chunks are of two steps: the default, asking two steps ahead, would not do."""
    process = only_mujoco(tmp_path, config="laptop").processes(only="left")[0]
    assert load_config("laptop", process.arguments[6:]).edges[0].execution.ahead == 1


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    file = only_mujoco(tmp_path, learner="null", config="null")
    with pytest.raises(ConfigError, match="learner: is null; give the address there, or with --learner"):
        file.processes()
    with pytest.raises(ConfigError, match="config: is null; name the run's config there, or with --config"):
        file.processes(learner="host:1")
    (left,) = file.processes(learner="host:1", config="reach", only="left")
    assert left.arguments[1:4] == ("reach", "--learner", "tcp://host:1")
    with pytest.raises(RobotlearnError, match="--learner: 'host' is not valid, expected an address"):
        file.processes(learner="host", config="reach")
    with pytest.raises(ConfigError, match="no robot 'lft', nearest is 'left'"):
        file.processes(learner="host:1", config="reach", only="lft")


def test_what_a_robot_can_not_learn_is_found_before_anything_starts(tmp_path: Path) -> None:
    file = station(tmp_path, GOOD.replace("robot: panda", "robot: panda, task: lift"))
    with pytest.raises(
        ConfigError, match=r"left can't learn what smoke says: edges.0.task: 'lift' is not valid, expec"
    ):
        file.processes()


def test_driver_and_options_reach_the_edge_as_they_are() -> None:
    options = {
        "port": "/dev/ü: {x}",
        "cameras": {"front": {"fps": 30, "gain": 1e-5}},
        "names": {"a": "null"},
        "on": True,
    }
    robot = StationRobot(name="a", robot="panda", driver="lerobot", options=options)
    (override,) = _overrides(load_config("smoke"), robot, None)
    (edge,) = parse(override.removeprefix("edges="), "override").data
    assert edge["options"] == options and edge["driver"] == "lerobot"


def test_a_namespace_goes_before_names_and_topics() -> None:
    gripper = {"joint": "finger", "command": "/gripper/cmd", "type": "gripper_command"}
    options = {"joint_states": "/joint_states", "gripper": gripper, "cameras": {"front": {"topic": "front/image_raw"}}}
    arm = StationRobot(name="arm", robot="panda", driver="ros2", options=options)
    left = in_namespace(arm, "/cell_1/left/")
    assert left.name == "cell_1-left-arm"
    assert left.options == {
        "joint_states": "/cell_1/left/joint_states",
        "command": "/cell_1/left/joint_trajectory_controller/joint_trajectory",
        "gripper": {**gripper, "command": "/cell_1/left/gripper/cmd"},
        "cameras": {"front": {"topic": "/cell_1/left/front/image_raw"}},
    }
    assert in_namespace(arm, "") is arm and arm.options == options
    serial = StationRobot(name="arm", robot="so101", driver="lerobot", options={"port": "/dev/ttyUSB0"})
    assert in_namespace(serial, "left").options == serial.options and in_namespace(serial, "left").name == "left-arm"


BOARD = Found("serial", "usb:1", "/dev/serial/by-id/usb-1", "servo board\nrobots: evil", "so101", "lerobot",
              {"port": "/dev/serial/by-id/usb-1"})  # fmt: skip
CAMERA = Found("camera", "camera:1", "/dev/video0", "Front")
SIMULATED = [
    Found("simulator", f"simulator:{name}", "here", f"{name} in MuJoCo", name, "mujoco") for name in ("panda", "ur5e")
]
EMULATED = Found(
    "emulator", "emulator:so101:1", "/tmp/port", "so101", "so101", "lerobot", {"port": "/tmp/port", "id": "x"}
)
UNKNOWN = Found("serial", "usb:2", "/dev/ttyUSB9", "an unknown\tone")


def test_a_draft_is_a_valid_station_with_a_comment_on_every_key(tmp_path: Path) -> None:
    text = draft([BOARD, UNKNOWN, CAMERA, EMULATED, *SIMULATED], "station.yaml")
    read = station(tmp_path, text).config
    assert [(one.name, one.robot, one.driver) for one in read.robots] == [
        ("so101", "so101", "lerobot"),
        ("so101-2", "so101", "lerobot"),
    ]
    assert read.robots[0].options == {"port": "/dev/serial/by-id/usb-1", "id": "so101"}
    assert read.robots[1].options == EMULATED.options and read.learner is None and read.estop is None
    for key in ("learner", "config", "name", "robot", "driver", "options", "task", "estop", "id", "cameras"):
        assert any(key in line.partition("#")[2] or f"{key}:" in line.partition("#")[0] for line in text.splitlines())
    assert "# /dev/ttyUSB9: an unknown one" in text


def test_what_a_draft_has_in_comments_is_valid_too(tmp_path: Path) -> None:
    text = draft([BOARD, CAMERA, *SIMULATED], "station.yaml")
    lines = [
        line.replace("# ", "", 1) if "cameras:" in line or "index_or_path" in line else line
        for line in text.splitlines()
    ]
    lines = [line.replace("  # ", "  ", 1) if "# - name" in line or "#   " in line else line for line in lines]
    lines = [line.replace("# estop", "estop", 1) if "serial: {port" in line else line for line in lines]
    read = station(tmp_path, "\n".join(lines)).config
    assert [one.name for one in read.robots] == ["so101", "panda", "ur5e"]
    sizes = load_spec("so101").cameras[0]
    camera = {"type": "opencv", "index_or_path": "/dev/video0", "width": sizes.width, "height": sizes.height, "fps": 10}
    assert read.robots[0].options["cameras"] == {"front": camera}
    assert read.estop is not None and read.estop.serial is not None


def test_a_draft_without_any_arm_has_a_simulated_one(tmp_path: Path) -> None:
    assert [one.name for one in station(tmp_path, draft(SIMULATED, "x")).config.robots] == ["panda"]


def test_a_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    file = tmp_path / "station.yaml"
    write_draft(SIMULATED, file, force=False)
    file.write_text("mine")
    with pytest.raises(ConfigError, match=r"station.yaml is there already: .*--force"):
        write_draft(SIMULATED, file, force=False)
    with pytest.raises(HalError, match="unknown robot model"):
        write_draft([replace(BOARD, spec="no-such"), CAMERA], file, force=True)
    assert file.read_text() == "mine"
    (tmp_path / "link.yaml").symlink_to(file)
    write_draft(SIMULATED, tmp_path / "link.yaml", force=True)
    assert "robots:" in file.read_text() and {one.name for one in tmp_path.iterdir()} == {file.name, "link.yaml"}
