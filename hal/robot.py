"""What a robot is to everything above it: `Robot`, what it reads and takes, and what only some can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from hal.spec import RobotSpec

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a robot measured at one moment. The arrays belong to the receiver: a driver never writes into them again.

    position   (dim,) float64, in the order of `spec.names`: joints [rad], then the gripper's width [m]
    velocity   (dim,) float64 [rad/s, m/s]
    monotonic  `time.monotonic()` of this machine when the joints were read [s]; never decreases
    wall       `time.time()` of the same moment [s since the epoch]
    effort     (dim,) float64 [N m, N] what joints and gripper exert, NaN where it isn't measured; None: nowhere
    images     per camera a uint8 array (height, width, 3), RGB; only of the cameras that the driver was asked for
    """

    position: Array
    velocity: Array
    monotonic: float
    wall: float
    images: Mapping[str, Image] = field(default_factory=dict)
    effort: Array | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """Set-points for a robot. target: (dim,) float64, absolute: joints [rad], then the gripper's width [m].

    token: that of the commander's lease, where the robot asks for it (`hal.control_loop`); a driver doesn't.
    """

    target: Array
    token: int | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """How a robot is. `degraded`: it works, but something is amiss (detail says what); `fault`: it doesn't move.

    telemetry  what the driver knows of `temperature` [degrees C], `current` [A] and `voltage` [V], each (dim,), NaN
               where an entry has none
    """

    state: Literal["ok", "degraded", "fault", "disconnected"]
    detail: str = ""
    telemetry: Mapping[str, Array] = field(default_factory=dict)


C = TypeVar("C")


class Robot(ABC):
    """One arm with its gripper and cameras.

    A driver is used by one thread at a time; only `stop` and `health` may be called from another one. Drivers do not
    apply the safety layer: whoever commands a robot sends its targets through `hal.safety.SafetyLimiter` first. A robot
    is a context manager: `with robot:` connects and closes.
    """

    spec: RobotSpec

    @abstractmethod
    def connect(self) -> None:
        """Takes the robot and makes it ready to read and write, holding its present pose. Never asks on standard input.

        Calling it again while connected does nothing. Raises RobotFault if the robot is absent or not well.
        """

    @abstractmethod
    def read(self) -> Reading:
        """The newest measurement. Raises DriverError when not connected, RobotFault when the robot doesn't answer."""

    @abstractmethod
    def write(self, command: Command) -> None:
        """Sets the set-points and returns; it never advances time and never waits for the motion.

        Raises DriverError when not connected, or when the target isn't (dim,) finite numbers; the set-points then stay.
        """

    @abstractmethod
    def stop(self) -> None:
        """Brings the arm to a standstill, as the spec's `on_stop` has it: `limp` takes the torque away, both others
        hold the arm where it is measured, as fast as the driver can; a later `write` moves it again. The gripper keeps
        its set-point, and so what it holds.

        Allowed at any time, any number of times; when not connected it does nothing. (What must stay stopped is the
        latching e-stop of the safety layer.)
        """

    @abstractmethod
    def close(self) -> None:
        """Stops the arm and gives it back. Allowed at any time, any number of times."""

    @abstractmethod
    def health(self) -> Health:
        """How the robot is, without waiting for it; `disconnected` before `connect` and after `close`."""

    def addresses(self) -> tuple[str, ...]:
        """What moves it, each of which one process at a time may have: serial ports (as paths), topics of commands.

        Known before `connect`. None where nothing is shared, as with a simulator.
        """
        return ()

    def capability(self, kind: type[C]) -> C | None:
        """This robot as a `kind` (one of the protocols below), or None where it can't do that.

        Callers ask for what they need and never look at the class of a driver.
        """
        return self if isinstance(self, kind) else None

    def __enter__(self) -> Robot:
        self.connect()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@runtime_checkable
class Steppable(Protocol):
    """A robot whose time passes only when told to: a simulator."""

    def step(self, dt: float) -> None:
        """Lets `dt` seconds pass with the present set-points. Raises DriverError when not connected."""


@runtime_checkable
class Clocked(Protocol):
    """A robot that has a clock of its own: whoever commands it does so once per tick of that."""

    def wait(self) -> int:
        """Waits for the next tick of `spec.control_hz`, with its reading; how many were missed since the one before."""

    def skip(self) -> None:
        """The next `wait` counts from now: time was spent on something else."""

    def rest(self) -> None:
        """No command is due until the next `write`: the arm brakes and stays, and no watchdog minds. Ends a stop, too.

        Raises Stopped while an e-stop is latched.
        """


@runtime_checkable
class EStoppable(Protocol):
    """A robot with a latching e-stop of its own, beyond this process. Any thread may use it."""

    def latch_estop(self, by: str, why: str) -> None:
        """Presses it, without waiting until it is."""

    def clear_estop(self, *, on_purpose: bool) -> None:
        """Releases it. Raises DriverError where that may not be done from here."""


@runtime_checkable
class Scene(Protocol):
    """A robot that knows, and can set, the true state of the world: a simulator."""

    def tcp(self) -> tuple[Array, Array]:
        """Position (3,) [m] and rotation (3, 3) of the tool centre point in the base frame."""

    def object_pose(self, name: str) -> Array:
        """Pose (7,) of the body `name` in the base frame: x, y, z [m], then the unit quaternion w, x, y, z."""

    def set_state(self, position: Array, objects: Mapping[str, Array]) -> None:
        """Puts the arm to `position` (dim,), at rest, its set-points there, and each object to its pose (7,)."""


@dataclass(frozen=True, slots=True)
class Factors:
    """By how much the physics of simulations differ from their model's: factors, with any leading axes (...).

    mass       of each object, by name; inertias go with it: (...)
    friction   sliding: of the objects and what stands still, and of the gripper's pads: (..., 2)
    damping    of the arm's joints: (..., J)
    gain       stiffness and damping of the servos of the arm's joints: (..., J)
    """

    mass: Mapping[str, Array]
    friction: Array
    damping: Array
    gain: Array

    def __getitem__(self, row: int) -> Factors:
        """Those of one of many simulations."""
        mass = {name: factor[row] for name, factor in self.mass.items()}
        return Factors(mass, self.friction[row], self.damping[row], self.gain[row])


@runtime_checkable
class Tunable(Protocol):
    """A robot whose physics can be changed: a simulator."""

    def set_physics(self, factors: Factors) -> None:
        """Makes the model's own physics times `factors` (no leading axes) those of all that follows.

        Raises DriverError for an unknown object, and leaves everything as it was.
        """


@runtime_checkable
class Renderable(Protocol):
    """A robot whose scene can be drawn."""

    def render(self, camera: str, width: int, height: int) -> Image:
        """A uint8 RGB image (height, width, 3) from the camera of that name, for people. It takes milliseconds."""

    def capture(self, camera: str, width: int, height: int) -> Image:
        """What that camera delivers to a policy: as `render`, but drawn as cheaply as `hal.camera` does."""
