"""The cells of a run: each is one robot model at one task. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from envs import ArmEnv, EnvError, EnvOptions, LanguageTask, Randomization, Task, make_task
from envs.spaces import observation_space
from hal.robot import Robot, Scene, Tunable
from hal.spec import RobotSpec, load_spec
from hal.virtual_scene import VirtualScene
from robotlearn.config.config import Config
from robotlearn.config.edge import EdgeConfig
from robotlearn.config.lerobot_policies import VLAConfig
from robotlearn.errors import ConfigError
from robotlearn.image_size import model_image_size


@dataclass(frozen=True)
class Cell:
    """One robot model at one task."""

    spec: RobotSpec
    task: Task

    @property
    def name(self) -> str:
        """TASK/EMBODIMENT, as metrics name it."""
        return f"{self.task.name}/{self.spec.embodiment}"


def cells_of(config: Config, edge: EdgeConfig | None = None) -> list[Cell]:
    """The cells of a run, or of one of its edges.

    Raises SpecError, TaskError: no such robot or task, or it can't do it; ConfigError: two specs of the same name, or a
    language task whose words aren't shown.
    """
    specs = {robot: load_spec(robot) for robot in config.robot}
    names = [spec.embodiment for spec in specs.values()]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"robot: two of the run's specs have the name {name}, by which a policy tells them apart")
    cells = [Cell(specs[robot], make_task(task, specs[robot])) for robot, task in config.cells(edge)]
    for cell in cells:
        if isinstance(cell.task, LanguageTask) and not config.observations.instruction:
            raise ConfigError(
                f"observations.instruction: false is not valid with task {cell.task.name}, expected true, since only "
                "the words tell what is meant"
            )
    return cells


def env_options(config: Config) -> EnvOptions:
    """What the config's environments show, pay and vary. Raises ConfigError as `model_image_size`."""
    size = config.observations.image_size
    return EnvOptions(
        episode_steps=config.episode_steps,
        tracking_error=config.observations.tracking_error,
        environment_state=config.observations.environment_state,
        cameras=config.observations.cameras,
        image_size=_taken(config) if size == "auto" else size,
        whole_images=size == "auto",
        image_every=config.observations.image_every,
        reward=config.reward,
        randomization=Randomization(**config.randomization.model_dump()),
    )


def arm_env(robot: Robot, cell: Cell, options: EnvOptions) -> ArmEnv:
    """The environment of a cell's task on its arm, which it connects. A real arm, whose physics are what they are and
    which can't tell where objects are, gets a `VirtualScene`: it is the environment's `robot` then.

    Raises EnvError as `ArmEnv`, and for an arm that is to observe numbers about real objects and can't.
    """
    if robot.capability(Tunable) is None:  # type: ignore[type-abstract]
        options = replace(options, randomization=Randomization())
    if robot.capability(Scene) is None:  # type: ignore[type-abstract]
        if not cell.task.virtual and options.environment_state:
            raise EnvError(
                f"robot {cell.spec.name} can't tell where the objects of task {cell.task.name} are: set "
                "observations.environment_state=false, name cameras (observations.cameras), and end each episode by key"
            )
        robot = VirtualScene(robot, cell.task.objects)
    return ArmEnv(robot, cell.task, options)


def _taken(config: Config) -> tuple[int, int]:
    """Height and width of what the config's VLA looks at."""
    assert isinstance(config.policy, VLAConfig)
    return model_image_size(config.policy.kind, config.policy.pretrained)


def observation_shapes(cell: Cell, options: EnvOptions) -> dict[str, tuple[int, ...]]:
    """{key: shape} of what an arm of this cell observes."""
    return {key: space.shape or () for key, space in observation_space(cell.spec, cell.task, options).spaces.items()}


def policy_dim(specs: Sequence[RobotSpec]) -> int:
    """D of a policy for these robots: as many places as the most joints of one, and one more for grippers."""
    return max(len(spec.joints) for spec in specs) + any(spec.gripper is not None for spec in specs)
