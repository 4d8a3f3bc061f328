"""What a station says of an arm behind ROS 2 topics; the same for the drivers `ros2` and `dds`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hal.errors import DriverError, nearest
from hal.spec import RobotSpec

Topic = Annotated[str, Field(pattern=r"^/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Kind = Literal["joint_trajectory", "float64_multi_array"]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Qos(_Options):
    """Quality of service. A best-effort reader hears any publisher; a reliable one hears reliable publishers only."""

    reliability: Literal["reliable", "best_effort"] = "best_effort"
    depth: Annotated[int, Field(ge=1, le=1000)] = 1


class Entry(_Options):
    """An entry of the spec in messages: the spec's value = scale * value + offset. joint: what it is called there."""

    joint: str | None = None
    scale: Number = 1.0
    offset: Number = 0.0


class Gripper(Entry):
    """The gripper, whose value in the spec is its width [m]; Panda's is 2 * panda_finger_joint1.

    command: a topic or an action of its own; by default it is commanded together with the joints. type gripper_command
    is the action of control_msgs, which only rclpy has; parallel_gripper_command its successor; both take max_effort.
    """

    command: Topic | None = None
    type: Kind | Literal["gripper_command", "parallel_gripper_command"] = "joint_trajectory"
    max_effort: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Camera(_Options):
    """Where a camera's images come from: rgb8, bgr8, rgba8, bgra8 or mono8; JPEG or PNG when `compressed`."""

    topic: Topic
    compressed: bool = False
    timeout_s: Seconds = 1.0
    qos: Qos = Qos()


class RosOptions(_Options):
    """Topics, joints, units, quality of service and time-outs.

    joints: by the spec's name, where they aren't called as in the spec or have other signs or zeros. unit: of angles in
    messages, to which scales then apply. command_type float64_multi_array is forward_command_controller's: numbers
    in the order of the spec, so its parameter `joints` must have the same order. time_from_start_s: within which a
    trajectory's only point is to be reached; by default one period of the set-points. timeout_s: silence of the joint
    states that is a fault. domain: by default ROS_DOMAIN_ID.
    """

    joint_states: Topic = "/joint_states"
    joint_states_qos: Qos = Qos(depth=5)
    timeout_s: Seconds = 0.5
    command: Topic = "/joint_trajectory_controller/joint_trajectory"
    command_type: Kind = "joint_trajectory"
    command_qos: Qos = Qos(reliability="reliable")
    time_from_start_s: Seconds | None = None
    joints: dict[str, Entry] = Field(default_factory=dict)
    unit: Literal["rad", "deg"] = "rad"
    gripper: Gripper | None = None
    cameras: dict[str, Camera] = Field(default_factory=dict)
    connect_timeout_s: Seconds = 10.0
    domain: Annotated[int, Field(ge=0, le=232)] | None = None

    def entries(self, spec: RobotSpec) -> list[Entry]:
        """One for each entry of the spec, with the name that it has in messages."""
        found = [self.joints.get(joint.name, Entry()) for joint in spec.joints]
        if spec.gripper is not None:
            found.append(self.gripper or Gripper())
        return [
            entry if entry.joint else entry.model_copy(update={"joint": name})
            for entry, name in zip(found, spec.names, strict=True)
        ]


def ros_options(spec: RobotSpec, options: Mapping[str, Any]) -> RosOptions:
    """The options for a robot of that spec. Raises DriverError, one line that names each fault."""
    try:
        parsed = RosOptions.model_validate(dict(options))
    except ValidationError as error:
        found = [_fault(item) for item in error.errors(include_url=False)]
        raise DriverError(f"{spec.name}: {'; '.join(found)}") from None
    faults = []
    for key, given, known in (
        ("joints", parsed.joints, [joint.name for joint in spec.joints]),
        ("cameras", parsed.cameras, [camera.name for camera in spec.cameras]),
    ):
        for name in given:
            if name not in known:
                faults.append(f"option {key}: the spec has no {name!r}: {nearest(name, known)}")
    if parsed.gripper is not None and spec.gripper is None:
        faults.append("option gripper is given, but the spec has no gripper")
    entries = parsed.entries(spec)
    faults += [f"option scale of {entry.joint!r} must not be 0" for entry in entries if entry.scale == 0]
    names = [str(entry.joint) for entry in entries]
    faults += [f"the joint {name!r} is given for two entries" for name in sorted({*names}) if names.count(name) > 1]
    gripper = parsed.gripper
    if gripper is not None and gripper.command is None and gripper.type != "joint_trajectory":
        faults.append(f"option gripper.command must say where the gripper takes its {gripper.type}")
    if spec.on_stop == "limp":
        faults.append(
            "on_stop: limp in the spec can't be done through topics, which know no torque: give the spec on_stop: hold "
            "or brake, or drive the arm by a driver of its own"
        )
    if faults:
        raise DriverError(f"{spec.name}: {'; '.join(faults)}")
    return parsed


def _fault(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden" and len(item["loc"]) == 1:
        return f"unknown option {key!r}: {nearest(key, RosOptions.model_fields)}"
    if item["type"] == "extra_forbidden":
        return f"unknown option {key!r}"
    return f"option {key} = {item['input']!r}: {item['msg']}"
