"""Stack: put one cube onto another."""

import mujoco
import numpy as np

from envs.features import object_features
from envs.geometry import poses
from envs.grasp import carry_goal, carry_progress, check_gripper, is_at, let_go
from envs.objects import add_cube
from envs.tabletop import draw_pairs
from envs.task import SceneState, Task, ToolGoal
from hal.spec import RobotSpec


class Stack(Task):
    """A red and a blue cube, each of 4 cm and 50 g, 10 cm or more apart.

    The red one must rest on the blue one, which stays on the table, centres within 2 cm, the gripper open and above,
    for three steps. On small tables lengths are in proportion.

    `observation.environment_state`, (21,): see `envs.features`; the object is the red cube, the goal is
    where its centre is to be.
    """

    name = "stack"
    instructions = (
        "stack the red cube on the blue cube",
        "put the red block on top of the blue block",
        "place the red cube onto the blue one",
        "build a tower with the blue cube below and the red cube above",
    )
    episode_steps = 64
    hold_steps = 3
    objects = ("red", "blue")
    expert_delta = 0.12

    def __init__(self, spec: RobotSpec) -> None:
        super().__init__(spec)
        self.half_size = self.tolerance = 0.02 * self.tabletop.scale
        check_gripper(spec, self.name, 2 * self.half_size, f"the {200 * self.half_size:.1f} cm cube")

    def build(self, scene: mujoco.MjSpec) -> None:
        x, y = self.tabletop.centre
        add_cube(scene, "red", [x, y - 0.1, self.half_size], self.half_size, [0.85, 0.2, 0.15, 1])
        add_cube(scene, "blue", [x, y, self.half_size], self.half_size, [0.15, 0.35, 0.85, 1])

    def place(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        red, blue = draw_pairs(rng, n, self.tabletop, self.tabletop, 0.1 * self.tabletop.scale)
        red[:, 2] = blue[:, 2] = self.half_size
        yaw = rng.uniform(-np.pi / 4, np.pi / 4, (2, n))
        return {"red": poses(red, yaw[0]), "blue": poses(blue, yaw[1])}

    def observe(self, state: SceneState) -> np.ndarray:
        return object_features(state, state.objects["red"], self._goal(state))

    def achieved(self, state: SceneState) -> np.ndarray:
        red, blue = state.objects["red"][:, :3], state.objects["blue"][:, :3]
        lies = np.abs(blue[:, 2] - self.half_size) < self.half_size / 4
        return is_at(red, self._goal(state), self.tolerance) & lies & let_go(self, state, red, 2 * self.half_size)

    def progress(self, state: SceneState) -> np.ndarray:
        return carry_progress(state, state.objects["red"][:, :3], self._goal(state), self.half_size)

    def expert_goal(self, state: SceneState) -> ToolGoal:
        return carry_goal(self, state, state.objects["red"], self._goal(state), 2 * self.half_size)

    def _goal(self, state: SceneState) -> np.ndarray:
        return state.objects["blue"][:, :3] + [0, 0, 2 * self.half_size]
