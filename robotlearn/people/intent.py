"""`Intent`: what a person wants at one moment; `Device`: where that comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from hal.robot import Array

OnEStop = Callable[[str], None]
"""Called with the device's name, at once, on the device's own thread."""

LINEAR = 0.6
"""[m/s] of the tool at a device's full deflection, before the share of speed that a person chose."""
ANGULAR = 2.0
"""[rad/s] likewise."""


class Event(StrEnum):
    """What is pressed once."""

    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"
    NEXT = "next"
    CLEAR = "clear"
    QUIT = "quit"


@dataclass(frozen=True, slots=True)
class Intent:
    """What a person wants now.

    linear   velocity of the tool along the base frame's x, y, z [m/s]
    angular  about them: roll, pitch, yaw [rad/s]
    grip     share of the gripper's speed, -1 (close) to 1 (open)
    target   of a leader arm instead of the three above: (dim,) joints [rad], then the gripper's width [m]
    enable   the enable switch (dead man's switch) is held: the person's actions count
    events   what was pressed since the last `read`, in order
    """

    linear: tuple[float, float, float] = (0.0, 0.0, 0.0)
    angular: tuple[float, float, float] = (0.0, 0.0, 0.0)
    grip: float = 0.0
    target: Array | None = None
    enable: bool = False
    events: tuple[Event, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether a motion is wanted; a leader arm always wants one."""
        return self.target is not None or any(self.linear) or any(self.angular) or self.grip != 0.0


class Device(ABC):
    """A person's keyboard, gamepad or leader arm. It is read on a thread of its own, from the constructor to `close`;
    its e-stop is told at once, on that thread.
    """

    @property
    @abstractmethod
    def help(self) -> tuple[str, ...]:
        """How it is used, in lines of at most 100 characters."""

    @abstractmethod
    def read(self) -> Intent:
        """The newest intent; never blocks. Raises DeviceError when the device is gone: then nothing is wanted."""

    @property
    def go_on(self) -> str:
        """What `Event.NEXT` is, as an order."""
        return "press Enter"

    @property
    def marks(self) -> str:
        """What says that an episode succeeded or failed, in words; "" where nothing does."""
        return ""

    def tell(self, text: str) -> None:  # noqa: B027  most have nothing to show it on
        """Shows its person that line, where nothing else does."""

    def release(self) -> None:  # noqa: B027  most have nothing to take back
        """Takes back a latched enable switch: a person must enable anew."""

    @abstractmethod
    def close(self) -> None:
        """Gives the device back as it was. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
