"""Pick and place: put a cube onto a pad."""

import mujoco
import numpy as np

from envs.features import object_features
from envs.geometry import poses
from envs.grasp import carry_goal, carry_progress, check_gripper, is_at, let_go
from envs.objects import add_cube
from envs.tabletop import draw_pairs
from envs.task import SceneState, Task, ToolGoal
from hal.spec import RobotSpec


class PickPlace(Task):
    """A 4 cm cube of 50 g, and a pad 7 cm wide and 1 cm high, 10 cm or more apart.

    The cube must rest within 2 cm of the middle of the pad, the gripper open and above it, for three steps. A cube
    that is pushed stops at the edge of the pad.

    On small tables lengths are in proportion. `observation.environment_state`, (21,): see `envs.features`; the goal is
    where the cube's centre is to be.
    """

    name = "pick_place"
    instructions = (
        "put the green cube on the white pad",
        "place the green block onto the white square",
        "pick up the green cube and set it down on the pad",
        "move the green cube to the white platform",
    )
    episode_steps = 64
    hold_steps = 3
    objects = ("cube", "pad")
    expert_delta = 0.12

    def __init__(self, spec: RobotSpec) -> None:
        super().__init__(spec)
        scale = self.tabletop.scale
        self.half_size, self.tolerance = 0.02 * scale, 0.02 * scale
        self.pad_half_sizes = (0.035 * scale, 0.035 * scale, 0.005 * scale)
        check_gripper(spec, self.name, 2 * self.half_size, f"the {200 * self.half_size:.1f} cm cube")

    def build(self, scene: mujoco.MjSpec) -> None:
        x, y = self.tabletop.centre
        add_cube(scene, "cube", [x, y - 0.1, self.half_size], self.half_size, [0.15, 0.65, 0.25, 1])
        pad = scene.worldbody.add_body(name="pad", mocap=True, pos=[x, y, self.pad_half_sizes[2]])
        pad.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=self.pad_half_sizes, rgba=[0.95, 0.95, 0.95, 1])

    def place(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        cube, pad = draw_pairs(rng, n, self.tabletop, self.tabletop, 0.1 * self.tabletop.scale)
        cube[:, 2], pad[:, 2] = self.half_size, self.pad_half_sizes[2]
        return {"cube": poses(cube, rng.uniform(-np.pi / 4, np.pi / 4, n)), "pad": poses(pad, np.zeros(n))}

    def observe(self, state: SceneState) -> np.ndarray:
        return object_features(state, state.objects["cube"], self._goal(state))

    def achieved(self, state: SceneState) -> np.ndarray:
        cube = state.objects["cube"][:, :3]
        return is_at(cube, self._goal(state), self.tolerance) & let_go(self, state, cube, 2 * self.half_size)

    def progress(self, state: SceneState) -> np.ndarray:
        return carry_progress(state, state.objects["cube"][:, :3], self._goal(state), self.half_size)

    def expert_goal(self, state: SceneState) -> ToolGoal:
        return carry_goal(self, state, state.objects["cube"], self._goal(state), 2 * self.half_size)

    def _goal(self, state: SceneState) -> np.ndarray:
        return state.objects["pad"][:, :3] + [0, 0, self.pad_half_sizes[2] + self.half_size]
