"""Domain randomisation: how much the simulated world differs from episode to episode."""

from dataclasses import dataclass, fields

from envs.errors import EnvError

PHYSICS = ("mass", "friction", "damping", "gain")
"""The settings that only a simulation can obey."""


@dataclass(frozen=True)
class Randomization:
    """Spans of the factors by which an episode's physics differ from the model's, 0 meaning not at all.

    A span s multiplies by a factor drawn log-uniformly from [1 / (1 + s), 1 + s], for each arm at each episode anew.

    Attributes:
        mass: of the task's objects, one factor each, inertia included.
        friction: sliding friction: one factor for the objects and what they lie on, one for the gripper's pads.
        damping: of the arm's joints, one factor each.
        gain: stiffness and damping of the servos of the arm's joints, one factor each.
        sensor_noise: standard deviation of the noise on observed joints, rad (m for the gripper), at each step. What
            the task judges by stays true.
        image_noise: standard deviation of the noise on each value of each pixel of new images, 1 being from black to
            full brightness.
        latency: largest delay of actions, in control steps; each episode draws a whole number from 0 to it. Until the
            first action arrives the arm rests.
    """

    mass: float = 0.0
    friction: float = 0.0
    damping: float = 0.0
    gain: float = 0.0
    sensor_noise: float = 0.0
    image_noise: float = 0.0
    latency: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 <= value < float("inf"):
                raise EnvError(f"randomization.{item.name} is {value}: expected a finite number of at least 0")
        if self.latency != int(self.latency):
            raise EnvError(f"randomization.latency is {self.latency}: expected a whole number of control steps")

    @property
    def physics(self) -> tuple[str, ...]:
        """Which of the settings that only a simulation can obey are asked for."""
        return tuple(name for name in PHYSICS if getattr(self, name))
