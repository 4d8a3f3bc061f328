"""What the environments show, pay and vary."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from robotlearn.config.complaint import shown
from robotlearn.config.section import ListAsTuple, Misfit, Section

Pixels = Annotated[int, Field(ge=8, le=4096)]
# Up to eleven times as much or as little: a model that is wrong by more is another model.
Span = Annotated[float, Field(ge=0, le=10)]


class ObservationsConfig(Section):
    """What the arms observe, which is what the policy is shown."""

    tracking_error: bool = Field(
        False,
        description="How far the measured joints are behind the set-points, which actions add to. Arms lag by a step "
        "or two: a policy that decides anew at each step, as sac's, learns sooner when it sees what is still to come.",
    )
    environment_state: bool = Field(
        True, description="The task's own numbers about its objects, which only a simulation knows."
    )
    cameras: Annotated[tuple[str, ...], ListAsTuple] = Field((), description="The robot's cameras, such as [wrist].")
    image_size: Annotated[tuple[Pixels, Pixels], ListAsTuple] | Literal["auto"] = Field(
        (64, 64),
        description="Height and width of their images, in pixels: pictures are cut to that shape, then scaled. auto, "
        "for a VLA: whole pictures, scaled down on the edge to the size to which its checkpoint would scale them.",
    )
    image_every: PositiveInt = Field(
        1, description="A camera brings a new image every so many control steps, counted from the episode's start."
    )
    instruction: bool = Field(
        False,
        description="The task in words, one of its wordings per episode. Needed with several tasks, and where only "
        "the words tell what is meant, as in touch and put.",
    )

    @model_validator(mode="after")
    def _images_come_from_cameras(self) -> Self:
        for key in ("image_size", "image_every"):
            default = type(self).model_fields[key].default
            # A dumped config holds the defaults too: only another value can have been wanted.
            if not self.cameras and getattr(self, key) != default:
                raise Misfit(
                    (key,),
                    f"{shown(getattr(self, key))} is not valid without cameras, expected cameras such as [wrist], or "
                    f"the default, {shown(default)}",
                )
        return self


class RandomizationConfig(Section):
    """How much simulated physics differ from episode to episode. A span s draws a factor from 1 / (1 + s) to 1 + s."""

    mass: Span = Field(0.0, description="Span of the objects' masses.")
    friction: Span = Field(0.0, description="Span of the sliding friction of objects and gripper.")
    damping: Span = Field(0.0, description="Span of the damping of the arm's joints.")
    gain: Span = Field(0.0, description="Span of stiffness and damping of the arm's servos.")
    sensor_noise: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Deviation of the noise on measured joints, rad or m."
    )
    image_noise: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Deviation of the noise on each value of each pixel; 1: from black to full brightness."
    )
    latency: Annotated[int, Field(ge=0, le=100)] = Field(
        0, description="Largest delay of actions, in control steps; each episode draws one from 0 to it."
    )
