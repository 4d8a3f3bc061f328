"""What an environment shows, pays and varies, besides robot and task."""

from dataclasses import dataclass, field
from typing import Literal

from envs.errors import EnvError
from envs.randomization import Randomization
from envs.resize import within
from hal.spec import CameraSpec


@dataclass(frozen=True)
class EnvOptions:
    """Settings that `ArmEnv` and `BatchArmEnv` share.

    Attributes:
        episode_steps: longest episode in control steps; None: the task's own.
        tracking_error: observe how far the measured joints are behind the set-points, which is what actions add to.
        environment_state: observe the task's own numbers about its objects, which only a simulation knows.
        cameras: names of the spec's cameras that are observed as `observation.images.NAME`.
        image_size: height and width of those images, pixels.
        whole_images: images are the whole pictures that the spec's cameras deliver, scaled down where they are larger
            than `image_size`, as a pretrained model does it; else they are cut to the shape of `image_size`.
        image_every: a camera delivers a new image every so many control steps, counted from the episode's start; in
            between its last one is observed again, as a camera slower than the arm has it.
        reward: "sparse": 1 at success, else 0; "shaped": besides, what the step added to the task's progress.
        randomization: what differs from episode to episode beyond the task's own starts.

    Raises:
        EnvError: nothing to see but the joints where the task needs more, or sizes that make no sense.
    """

    episode_steps: int | None = None
    tracking_error: bool = False
    environment_state: bool = True
    cameras: tuple[str, ...] = ()
    image_size: tuple[int, int] = (64, 64)
    whole_images: bool = False
    image_every: int = 1
    reward: Literal["sparse", "shaped"] = "sparse"
    randomization: Randomization = field(default_factory=Randomization)

    def __post_init__(self) -> None:
        if self.episode_steps is not None and self.episode_steps < 1:
            raise EnvError(f"episode_steps is {self.episode_steps}: an episode has at least one step")
        if len(set(self.cameras)) < len(self.cameras):
            raise EnvError(f"cameras are {', '.join(self.cameras)}: each may be named once")
        if min(self.image_size) < 8:
            raise EnvError(f"image_size is {self.image_size}: an image has at least 8 x 8 pixels")
        if self.image_every < 1:
            raise EnvError(f"image_every is {self.image_every}: a camera delivers an image every 1 or more steps")
        if not self.environment_state and not self.cameras:
            raise EnvError("neither environment_state nor a camera is observed: the objects could not be found")

    def size_of(self, camera: CameraSpec) -> tuple[int, int]:
        """Height and width of that camera's images as they are observed, pixels."""
        if not self.whole_images:
            return self.image_size
        return within((camera.height, camera.width), self.image_size)
