"""What the environments show, pay and vary."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from robotlearn.config.section import ListAsTuple, Section

Pixels = Annotated[int, Field(ge=8, le=4096)]
# Up to eleven times as much or as little: a model that is wrong by more is another model.
Span = Annotated[float, Field(ge=0, le=10)]


class ObservationsConfig(Section):
    """What the arms observe, which is what the policy is shown."""

    environment_state: bool = Field(
        True, description="The task's own numbers about its objects, which only a simulation knows."
    )
    cameras: Annotated[tuple[str, ...], ListAsTuple] = Field((), description="The robot's cameras, such as [wrist].")
    image_size: Annotated[tuple[Pixels, Pixels], ListAsTuple] = Field(
        (64, 64), description="Height and width of their images, in pixels."
    )
    image_every: PositiveInt = Field(
        1, description="A camera brings a new image every so many control steps, counted from the episode's start."
    )
    instruction: bool = Field(
        False, description="The task in words, one of its wordings per episode. With several tasks it is needed."
    )


class RandomizationConfig(Section):
    """How much simulated physics differ from episode to episode. A span s draws a factor from 1 / (1 + s) to 1 + s."""

    mass: Span = Field(0.0, description="Span of the objects' masses.")
    friction: Span = Field(0.0, description="Span of the sliding friction of objects and gripper.")
    damping: Span = Field(0.0, description="Span of the damping of the arm's joints.")
    gain: Span = Field(0.0, description="Span of stiffness and damping of the arm's servos.")
    sensor_noise: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Deviation of the noise on measured joints, rad or m."
    )
    latency: Annotated[int, Field(ge=0, le=100)] = Field(
        0, description="Largest delay of actions, in control steps; each episode draws one from 0 to it."
    )
