"""Domain randomisation: how much the simulated world differs from episode to episode."""

from dataclasses import dataclass, fields

from envs.errors import EnvError


@dataclass(frozen=True)
class Randomization:
    """Spans of the factors by which an episode's physics differ from the model's, 0 meaning not at all.

    A span s multiplies by a factor drawn log-uniformly from [1 / (1 + s), 1 + s], for each arm at each episode anew.

    Attributes:
        mass: of the task's objects. friction: sliding friction of the objects and the gripper's pads.
        damping: of the arm's joints. gain: stiffness and damping of the arm's servos.
        sensor_noise: standard deviation of the noise on measured joints, rad (m for the gripper), at each step.
        latency: largest delay of actions, in control steps; each episode draws a whole number from 0 to it.
    """

    mass: float = 0.0
    friction: float = 0.0
    damping: float = 0.0
    gain: float = 0.0
    sensor_noise: float = 0.0
    latency: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 <= value < float("inf"):
                raise EnvError(f"randomization.{item.name} is {value}: expected a finite number of at least 0")
