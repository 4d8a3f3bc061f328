"""A station's file, and the plain list of processes that it means: `station up` and the launch files start these."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hal.document import KeyPath, dotted, parse
from hal.drivers.ros_options import RosOptions
from hal.errors import DocumentError, HalError
from hal.registry import check_driver
from hal.spec import load_spec
from robotlearn.config.address import normal_address
from robotlearn.config.complaint import complaint, nearest, shown
from robotlearn.config.config import Config
from robotlearn.config.edge import PacedEdgeConfig
from robotlearn.config.estop import EstopConfig
from robotlearn.config.load import load_config
from robotlearn.config.station import StationConfig, StationRobot
from robotlearn.errors import AddressError, ConfigError


@dataclass(frozen=True)
class StationProcess:
    """`python -m robotlearn ARGUMENTS` keeps a robot at work. robot: its name in the file; name: with its namespace."""

    name: str
    robot: str
    arguments: tuple[str, ...]


class StationFile:
    """A validated station file; what it names relative to itself is absolute in `config`.

    Raises ConfigError, one line with file, line, key, value and what was expected.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            document = parse(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            hint = "; `robotlearn robots --scan --write FILE` makes one" if isinstance(error, FileNotFoundError) else ""
            raise ConfigError(f"{path}: can't be read: {error.strerror}{hint}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: can't be read: it is not UTF-8 text") from None
        except DocumentError as error:
            raise ConfigError(str(error)) from None
        if not isinstance(document.data, dict):
            raise ConfigError(f"{path}: expected keys and values such as 'robots:', not {shown(document.data)}")
        self._lines = document.lines
        _anchor(document.data, path.parent)
        try:
            self.config = StationConfig.model_validate(document.data)
        except ValidationError as error:
            key, line = complaint(error, StationConfig)
            raise ConfigError(f"{self._at(key)}: {line}") from None
        for index, robot in enumerate(self.config.robots):
            spec = self._asked(("robots", index, "robot"), load_spec, robot.robot)
            self._asked(("robots", index, "driver"), check_driver, robot.driver or spec.driver)

    def robots(self, only: str | None = None, namespace: str = "") -> list[StationRobot]:
        """The robots, or the one that the file calls `only`, as they are in a namespace (see `in_namespace`).

        Raises ConfigError when there is none of that name.
        """
        names = [robot.name for robot in self.config.robots]
        if only is not None and only not in names:
            raise ConfigError(f"{self.path}: no robot {only!r}{nearest(only, names)}")
        return [in_namespace(robot, namespace) for robot in self.config.robots if only in (None, robot.name)]

    def processes(
        self, *, learner: str | None = None, config: str | None = None, only: str | None = None, namespace: str = ""
    ) -> list[StationProcess]:
        """One edge per robot. `learner` and `config` go before what the file says.

        An edge is set up as the run's own edge of its name, else as the first paced one of the run, else by default:
        the run's config needs no edge of the station's. It must have each robot's model among its own (`robot`), by the
        spec's name: a policy is made for the robots that its run has.

        Raises ConfigError, AddressError: nothing says who the learner is or what is learnt, or a robot can't learn it.
        """
        address = learner or self.config.learner
        if address is None:
            raise ConfigError(
                f"{self.path}: learner: is null; give the address there, or with --learner tcp://HOST:PORT"
            )
        try:
            address = normal_address(address, any_port=False)
        except ValueError as error:
            raise AddressError(f"--learner: {shown(address)} is not valid, expected {error}") from None
        source, edges = self._edges(config, only, namespace)
        named = zip(self.robots(only), edges, strict=True)
        return [
            StationProcess(name, plain.name, ("edge", source, "--learner", address, "--name", name, *overrides))
            for plain, (name, overrides) in named
        ]

    def check_learnable(self, config: str | None = None) -> None:
        """Whether each robot can learn what the run's config says; `config` goes before what the file says.

        Raises ConfigError: one can't, or nothing says what is learnt.
        """
        self._edges(config, None, "")

    def _edges(self, config: str | None, only: str | None, namespace: str) -> tuple[str, list[tuple[str, list[str]]]]:
        """The run's config, and of each robot its name and what makes that config its edge's."""
        source = config or self.config.config
        if source is None:
            raise ConfigError(f"{self.path}: config: is null; name the run's config there, or with --config CONFIG")
        source = str(Path(source).resolve()) if Path(source).is_file() else source
        run = load_config(source)
        found = []
        for robot in self.robots(only, namespace):
            try:
                overrides = _overrides(run, robot, self.config.estop)
                if self.config.learner_key is not None:
                    overrides.append(f"learner.key={self.config.learner_key}")
                load_config(source, overrides)  # now, and not by each process
            except ConfigError as error:
                why = str(error).rpartition("]': ")[2]  # behind the override, which the user did not write
                raise ConfigError(f"{self.path}: robot {robot.name} can't learn what {source} says: {why}") from None
            found.append((robot.name, overrides))
        return source, found

    def _asked[T](self, key: KeyPath, check: Callable[[str], T], value: str) -> T:
        try:
            return check(value)
        except HalError as error:
            raise ConfigError(f"{self._at(key)}: {dotted(key)}: {error}") from None

    def _at(self, key: KeyPath) -> str:
        while key and key not in self._lines:
            key = key[:-1]
        return f"{self.path}:{self._lines[key]}" if key else str(self.path)


def in_namespace(robot: StationRobot, namespace: str) -> StationRobot:
    """The robot of the same kind in a namespace of ROS 2: before its name and before every topic of its options.

    So one station file serves several arms of a kind: the robot `arm` with /joint_states is, in the namespace `left`,
    the robot `left-arm` with /left/joint_states. Topics that the options leave out are the driver's defaults. A robot
    that isn't reached by topics gets the name only.
    """
    parts = [part for part in namespace.split("/") if part]
    if not parts:
        return robot
    options = dict(robot.options)
    if (robot.driver or load_spec(robot.robot).driver) in ("ros2", "dds"):

        def below(topic: Any) -> Any:
            return "/".join(["", *parts, topic.lstrip("/")]) if isinstance(topic, str) else topic

        for key in ("joint_states", "command"):
            options[key] = below(options.get(key, RosOptions.model_fields[key].default))
        if isinstance(gripper := options.get("gripper"), Mapping) and "command" in gripper:
            options["gripper"] = {**gripper, "command": below(gripper["command"])}
        if isinstance(cameras := options.get("cameras"), Mapping):
            options["cameras"] = {
                name: {**camera, "topic": below(camera.get("topic"))} if isinstance(camera, Mapping) else camera
                for name, camera in cameras.items()
            }
    return robot.model_copy(update={"name": "-".join([*parts, robot.name]), "options": options})


def _overrides(run: Config, robot: StationRobot, estop: EstopConfig | None) -> list[str]:
    """What makes a run's config that of this robot's edge."""
    own = run.edge(robot.name)
    paced = [edge for edge in (own, *run.edges) if isinstance(edge, PacedEdgeConfig)]
    if paced:
        entry = paced[0].model_dump(mode="json", exclude_unset=True)
    else:
        horizon = run.policy.horizon
        entry = {"execution": {"ahead": min(2, horizon - 1)}, "segment_steps": max(32, horizon)}
    entry |= {"kind": "paced", "name": robot.name, "robot": robot.robot}
    for key in ("task", "driver"):
        if (value := getattr(robot, key)) is not None:
            entry[key] = value
    if robot.options:
        entry["options"] = robot.options
    if estop is not None:
        entry["estop"] = estop.model_dump(exclude_none=True)
    return [*_run_robots(run, robot), f"edges={_flow([entry])}"]


def _run_robots(run: Config, robot: StationRobot) -> list[str]:
    """This robot among the run's own, in the place of the one of the same model: its spec may be the station's own.

    Raises ConfigError when the run has none of that model: its learner would refuse the edge.
    """
    if robot.robot in run.robot:
        return []
    name = load_spec(robot.robot).name
    robots = [robot.robot if load_spec(one).name == name else one for one in run.robot]
    if robot.robot not in robots:
        wanted = ", ".join([*run.robot, robot.robot])
        raise ConfigError(f"the run has no robot {name}: its config, the learner's too, needs robot: [{wanted}]")
    return [f"robot={_flow(robots)}"]


def _flow(value: Any) -> str:
    """JSON, which is YAML on one line."""
    return json.dumps(value, ensure_ascii=False)


def _anchor(data: dict[str, Any], folder: Path) -> None:
    """What is a relative path, and no name, is looked for beside the file."""
    robots = data.get("robots")
    for place, key in ((data, "config"), *((robot, "robot") for robot in (robots if isinstance(robots, list) else ()))):
        value = place.get(key) if isinstance(place, dict) else None
        if isinstance(value, str) and (value.endswith((".yaml", ".yml")) or "/" in value):
            place[key] = str((folder / value).resolve())
