"""`RobotSpec`: what a robot model is. One YAML file per model in `hardware_specs/`, validated when it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from hal.data import data_path
from hal.document import parse
from hal.errors import DocumentError, SpecError, nearest

Array = npt.NDArray[np.float64]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]+$")]
Vector = tuple[Finite, Finite, Finite]
# One number for all, or one each.
Numbers = Annotated[tuple[Finite, ...], BeforeValidator(lambda value: _as_tuple(value))]


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, (int, float)) else tuple(value) if isinstance(value, list) else value


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Axis(_Part):
    """One degree of freedom: rad for a joint, m for a gripper."""

    name: Name
    lower: Finite
    upper: Finite
    velocity: Positive
    acceleration: Positive
    jerk: Positive | None = None
    home: Finite

    @model_validator(mode="after")
    def _ordered(self) -> _Axis:
        if self.lower >= self.upper:
            raise ValueError(f"lower ({self.lower}) must be below upper ({self.upper})")
        if not self.lower <= self.home <= self.upper:
            raise ValueError(f"home ({self.home}) must lie within lower ({self.lower}) and upper ({self.upper})")
        return self


class JointSpec(_Axis):
    """A joint: limits and home pose [rad], velocity [rad/s], acceleration [rad/s2], jerk [rad/s3], torque [N m]."""

    effort: Positive


class GripperSpec(_Axis):
    """A gripper: limits and home of its width [m], velocity [m/s], acceleration [m/s2], jerk [m/s3]; force [N]."""

    force: Positive


class CameraSpec(_Part):
    """A camera: its name and what it delivers [pixels, frames/s]."""

    name: Name
    width: Annotated[int, Field(gt=0, le=8192)]
    height: Annotated[int, Field(gt=0, le=8192)]
    fps: Positive


class Box(_Part):
    """An axis-aligned box in the base frame [m]."""

    lower: Vector
    upper: Vector

    @model_validator(mode="after")
    def _ordered(self) -> Box:
        for axis, low, high in zip("xyz", self.lower, self.upper, strict=True):
            if low >= high:
                raise ValueError(f"lower ({low}) must be below upper ({high}) along {axis}")
        return self


class Rectangle(_Part):
    """An axis-aligned rectangle in the base frame's x and y [m]."""

    lower: tuple[Finite, Finite]
    upper: tuple[Finite, Finite]

    @model_validator(mode="after")
    def _ordered(self) -> Rectangle:
        for axis, low, high in zip("xy", self.lower, self.upper, strict=True):
            if low >= high:
                raise ValueError(f"lower ({low}) must be below upper ({high}) along {axis}")
        return self


class MujocoModel(_Part):
    """How the spec's entries are called in an MJCF, ours or a third party's.

    width = gripper_width_offset + sum over the gripper joints of gripper_width_scale * joint
    ctrl of each gripper actuator = gripper_ctrl_scale * width + gripper_ctrl_offset

    The scales and gripper_ctrl_offset are one number for all joints (actuators), or a list with one each. The TCP is a
    site, or a point of a body: its origin shifted by tcp_offset [m] and turned by tcp_quat (w, x, y, z).
    """

    mjcf: Path = Field(strict=False, description="relative to the spec's file")
    joints: tuple[str, ...]
    actuators: tuple[str, ...]
    gripper_joints: tuple[str, ...] = ()
    gripper_actuators: tuple[str, ...] = ()
    gripper_width_scale: Numbers = (1.0,)
    gripper_width_offset: Finite = 0.0
    gripper_ctrl_scale: Numbers = (1.0,)
    gripper_ctrl_offset: Numbers = (0.0,)
    tcp_site: str | None = None
    tcp_body: str | None = None
    tcp_offset: Vector = (0.0, 0.0, 0.0)
    tcp_quat: tuple[Finite, Finite, Finite, Finite] = (1.0, 0.0, 0.0, 0.0)

    @model_validator(mode="after")
    def _consistent(self) -> MujocoModel:
        if (self.tcp_site is None) == (self.tcp_body is None):
            raise ValueError("either tcp_site or tcp_body must be given, and not both")
        if self.tcp_body is None and (any(self.tcp_offset) or self.tcp_quat != (1.0, 0.0, 0.0, 0.0)):
            raise ValueError("tcp_offset and tcp_quat go with tcp_body; a site has a pose of its own")
        if not any(self.tcp_quat):
            raise ValueError("tcp_quat must not be all zeros")
        for key in ("gripper_width_scale", "gripper_ctrl_scale", "gripper_ctrl_offset"):
            parts = self.gripper_joints if key == "gripper_width_scale" else self.gripper_actuators
            values = getattr(self, key)
            if len(values) not in (1, len(parts)):
                raise ValueError(f"{key} must be one number, or a list of {len(parts)}, not {len(values)}")
            if key.endswith("scale") and 0.0 in values:
                raise ValueError(f"{key} must not be 0")
        return self


class LerobotModel(_Part):
    """How the spec's entries are called in LeRobot: value [rad, m] = scale * LeRobot's value + offset.

    type is LeRobot's registered robot type; keys are those of its actions, one per entry. scale and offset are one
    number for all, or a list with one each. options are LeRobot's own, for every robot of this model.
    """

    type: Name
    keys: Annotated[tuple[str, ...], Field(min_length=1)]
    scale: Numbers = (1.0,)
    offset: Numbers = (0.0,)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> LerobotModel:
        for key in ("scale", "offset"):
            if len(values := getattr(self, key)) not in (1, len(self.keys)):
                raise ValueError(f"{key} must be one number, or a list of {len(self.keys)}, not {len(values)}")
        if 0.0 in self.scale:
            raise ValueError("scale must not be 0")
        return self


class GuardSpec(_Part):
    """What the shape of the arm, as its MJCF has it, may not do; looked at before each set-point of a driver's loop."""

    self_collision: bool = Field(True, description="parts of the arm that the model lets collide keep margin apart")
    table: Finite | None = Field(None, description="[m] the height below which no moving part may get; null: no table")
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(0.005, description="[m] kept to both")


class RobotSpec(_Part):
    """A robot model. Vectors have one entry per joint, in order, and then one for the gripper if there is one."""

    name: Name
    maker: str
    joints: Annotated[tuple[JointSpec, ...], Field(min_length=1)]
    gripper: GripperSpec | None = None
    cameras: tuple[CameraSpec, ...] = ()
    control_hz: Positive
    driver_hz: Positive | None = Field(
        None, description="how often a driver whose arm has its own time gets set-points; by default control_hz"
    )
    watchdog_s: Positive
    on_starved: Literal["hold"] = "hold"
    on_stop: Literal["hold", "brake", "limp"] = Field(
        "brake",
        description="what a stop does: hold = the servos hold the pose that was measured last, at once; brake = the "
        "set-points slow down within the limits, then stay; limp = the servos give no torque. But with limp, an arm "
        "that rests already is left as it is, and a gripper keeps its set-point",
    )
    guard: GuardSpec | None = Field(None, description="keeps the arm off itself and the table; needs the block mujoco")
    workspace: Box
    tabletop: Rectangle | None = Field(
        None, description="where things may lie on a table at z = 0: the tool reaches them from above, pointing down"
    )
    driver: str = "mujoco"
    mujoco: MujocoModel | None = None
    lerobot: LerobotModel | None = None

    @field_validator("joints", "cameras")
    @classmethod
    def _unique(cls, parts: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [part.name for part in parts]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} is used twice")
        return parts

    @model_validator(mode="after")
    def _consistent(self) -> RobotSpec:
        if len(set(self.names)) != self.dim:
            raise ValueError(f"the gripper's name {self.names[-1]!r} is also a joint's")
        if self.driver_hz is not None and abs(self.driver_hz / self.control_hz % 1 - 0.5) < 0.5 - 1e-6:
            raise ValueError(f"driver_hz ({self.driver_hz}) must be a multiple of control_hz ({self.control_hz})")
        if self.driver_hz is not None and self.driver_hz < self.control_hz:
            raise ValueError(f"driver_hz ({self.driver_hz}) must be at least control_hz ({self.control_hz})")
        if self.watchdog_s < self.dt:
            raise ValueError(f"watchdog_s ({self.watchdog_s}) must be at least one control period ({self.dt})")
        if self.driver == "mujoco" and self.mujoco is None:
            raise ValueError("driver 'mujoco' needs the block 'mujoco'")
        if self.driver == "lerobot" and self.lerobot is None:
            raise ValueError("driver 'lerobot' needs the block 'lerobot'")
        if self.guard is not None and self.mujoco is None:
            raise ValueError("guard needs the block 'mujoco': the arm's shape is in its MJCF")
        if self.lerobot is not None and len(self.lerobot.keys) != self.dim:
            raise ValueError(f"lerobot.keys must have one key per entry: {self.dim}, not {len(self.lerobot.keys)}")
        if (model := self.mujoco) is not None:
            for key in ("joints", "actuators"):
                if (count := len(getattr(model, key))) != len(self.joints):
                    raise ValueError(f"mujoco.{key} must have one name per joint: {len(self.joints)}, not {count}")
            for key in ("gripper_joints", "gripper_actuators"):
                if bool(getattr(model, key)) != (self.gripper is not None):
                    raise ValueError(f"mujoco.{key} must be given exactly when there is a gripper")
        return self

    @cached_property
    def _text(self) -> str:
        return self.model_dump_json()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RobotSpec) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        for name in set(copied.__dict__) - set(RobotSpec.model_fields):  # what was worked out from the old values
            del copied.__dict__[name]
        return copied

    @cached_property
    def embodiment(self) -> str:
        """What a policy is trained for: the robot model's name."""
        return self.name

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the entries of every vector: the joints', then the gripper's."""
        return tuple(axis.name for axis in self._axes)

    @cached_property
    def dim(self) -> int:
        """How many set-points the robot takes: joints plus gripper."""
        return len(self._axes)

    @cached_property
    def dt(self) -> float:
        """The control period [s]."""
        return 1.0 / self.control_hz

    @cached_property
    def dt_driver(self) -> float:
        """The period of a driver's set-points [s]."""
        return self.dt if self.driver_hz is None else 1.0 / self.driver_hz

    @cached_property
    def ticks(self) -> int:
        """Driver periods in a control period."""
        return max(1, round(self.dt / self.dt_driver))

    @cached_property
    def jerk(self) -> Array:
        """(dim,) largest jerks [rad/s3, m/s3], inf where there is no limit."""
        values = np.array([np.inf if axis.jerk is None else axis.jerk for axis in self._axes])
        values.flags.writeable = False
        return values

    @cached_property
    def lower(self) -> Array:
        """(dim,) lower position limits [rad, m]; read-only, as are the following."""
        return self._vector("lower")

    @cached_property
    def upper(self) -> Array:
        """(dim,) upper position limits [rad, m]."""
        return self._vector("upper")

    @cached_property
    def velocity(self) -> Array:
        """(dim,) largest speeds [rad/s, m/s]."""
        return self._vector("velocity")

    @cached_property
    def acceleration(self) -> Array:
        """(dim,) largest accelerations [rad/s2, m/s2]."""
        return self._vector("acceleration")

    @cached_property
    def effort(self) -> Array:
        """(dim,) largest torques of the joints [N m] and the gripper's force [N]."""
        values = np.array([*(joint.effort for joint in self.joints), *([self.gripper.force] if self.gripper else [])])
        values.flags.writeable = False
        return values

    @cached_property
    def home(self) -> Array:
        """(dim,) the pose at which an episode begins and an idle arm rests [rad, m]."""
        return self._vector("home")

    @property
    def _axes(self) -> tuple[_Axis, ...]:
        return self.joints if self.gripper is None else (*self.joints, self.gripper)

    def _vector(self, key: str) -> Array:
        values = np.array([getattr(axis, key) for axis in self._axes], dtype=np.float64)
        values.flags.writeable = False
        return values


def load_spec(name_or_path: str | Path) -> RobotSpec:
    """The spec of that name in `hardware_specs/`, or in the YAML file at that path (anything with a suffix or a slash).

    Paths inside the file are relative to it; `mujoco.mjcf` is absolute in the result and exists.

    Raises:
        SpecError: no such spec (the nearest name is suggested), or the file is malformed: each fault with file, key,
            value and what was expected.
    """
    text = str(name_or_path)
    if "/" in text or "\\" in text or text.endswith((".yaml", ".yml")):
        path = Path(name_or_path).resolve()
        if not path.is_file():
            raise SpecError(f"{path}: there is no such spec file")
    else:
        folder = data_path("hardware_specs")
        path = folder / f"{text}.yaml"
        if not path.is_file():
            known = [file.stem for file in folder.glob("*.yaml")]
            raise SpecError(f"unknown robot model {text!r}: {nearest(text, known)} (in {folder})")
    try:
        content = parse(path.read_text(encoding="utf-8"), str(path)).data
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: can't be read: {' '.join(str(error).split())}") from None
    except DocumentError as error:
        raise SpecError(str(error)) from None
    if not isinstance(content, dict):
        raise SpecError(f"{path}: expected a mapping of keys at the top, not {type(content).__name__}")
    try:
        # JSON mode: strict about types, yet sequences become tuples and paths paths.
        spec = RobotSpec.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        faults = "; ".join(_fault(item) for item in error.errors(include_url=False))
        raise SpecError(f"{path}: {faults}") from None
    except (ValueError, RecursionError):
        raise SpecError(f"{path}: an alias in it contains itself") from None
    if spec.mujoco is not None:
        mjcf = (path.parent / spec.mujoco.mjcf).resolve()
        if not mjcf.is_file():
            raise SpecError(
                f"{path}: mujoco.mjcf = '{spec.mujoco.mjcf}': there is no file {mjcf}: the path counts from this YAML; "
                "copy the model's folder beside it, or write an absolute path there"
            )
        spec = spec.model_copy(update={"mujoco": spec.mujoco.model_copy(update={"mjcf": mjcf})})
    return spec


_PARTS: dict[str, type[_Part]] = {
    "joints": JointSpec,
    "gripper": GripperSpec,
    "cameras": CameraSpec,
    "workspace": Box,
    "tabletop": Rectangle,
    "guard": GuardSpec,
    "mujoco": MujocoModel,
    "lerobot": LerobotModel,
}


def _fault(error: Any) -> str:
    """One pydantic error in words: key, value, what was expected."""
    location = error["loc"]
    key = ".".join(str(part) for part in location)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        model = RobotSpec if len(location) == 1 else _PARTS[str(location[0])]
        return f"unknown key '{key}': {nearest(str(location[-1]), model.model_fields)}"
    if error["type"] == "missing":
        return f"missing key '{key}'"
    if error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}"
