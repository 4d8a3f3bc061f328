"""Lift: pick a cube up from the table and hold it."""

import mujoco
import numpy as np

from envs.features import object_features
from envs.geometry import poses
from envs.grasp import check_gripper, grasp
from envs.objects import add_cube
from envs.task import SceneState, Task, ToolGoal
from hal.spec import RobotSpec


class Lift(Task):
    """A 4 cm cube of 50 g, anywhere on the tabletop, turned by up to 45 degrees, lifted by 10 cm for two steps.

    On small tables lengths are in proportion. `observation.environment_state`, (15,): see `envs.features`; no goal.
    """

    name = "lift"
    instructions = (
        "pick up the red cube",
        "lift the red block off the table",
        "grab the red cube and raise it",
        "take the red cube and hold it up",
    )
    episode_steps = 48
    hold_steps = 2
    objects = ("cube",)

    def __init__(self, spec: RobotSpec) -> None:
        super().__init__(spec)
        self.half_size = 0.02 * self.tabletop.scale
        self.height = 0.10 * self.tabletop.scale
        check_gripper(spec, self.name, 2 * self.half_size, f"the {200 * self.half_size:.1f} cm cube")

    def build(self, scene: mujoco.MjSpec) -> None:
        add_cube(scene, "cube", [*self.tabletop.centre, self.half_size], self.half_size, [0.85, 0.2, 0.15, 1])

    def place(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        position = self.tabletop.draw(rng, n, self.half_size)
        return {"cube": poses(position, rng.uniform(-np.pi / 4, np.pi / 4, n))}

    def observe(self, state: SceneState) -> np.ndarray:
        return object_features(state, state.objects["cube"])

    def achieved(self, state: SceneState) -> np.ndarray:
        cube = state.objects["cube"][:, :3]
        near = np.linalg.norm(cube - state.tcp, axis=-1) < 0.03
        return near & (cube[:, 2] > self.half_size + self.height)

    def progress(self, state: SceneState) -> np.ndarray:
        cube = state.objects["cube"][:, :3]
        near = 1 - np.tanh(5 * np.linalg.norm(cube - state.tcp, axis=-1))
        high = np.clip((cube[:, 2] - self.half_size) / self.height, 0, 1)
        return 0.5 * near + 0.5 * high

    def expert_goal(self, state: SceneState) -> ToolGoal:
        """Above the cube, down, close, up."""
        taken = grasp(self, state, state.objects["cube"], 2 * self.half_size)
        goal = taken.goal
        goal.position[taken.held] = state.tcp[taken.held] + [0, 0, 0.06 * self.tabletop.scale]
        return goal
