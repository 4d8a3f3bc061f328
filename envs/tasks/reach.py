"""Reach: bring the tool to a marked point in the air."""

import mujoco
import numpy as np

from envs.geometry import pointing_down, poses
from envs.task import SceneState, Task, ToolGoal


class Reach(Task):
    """The tool must come within 2 cm of a target, a ball on a thin post, and stay there for two steps.

    Nothing collides with either; where the post meets the table tells a single camera how far away the ball is. Targets
    lie above the tabletop and 2.5 cm (x) and 10 cm (y) around it, 10 to 40 cm high; on small tables less,
    in proportion. `observation.environment_state`, (6,): tool position (3, m), target minus tool position (3, m).
    """

    name = "reach"
    instructions = (
        "move the gripper to the green ball",
        "reach for the green ball",
        "bring the hand to the ball",
        "go to the green sphere in the air",
    )
    episode_steps = 16
    hold_steps = 2
    objects = ("target",)
    virtual = True
    tolerance = 0.02
    post = 0.4

    def build(self, scene: mujoco.MjSpec) -> None:
        target = scene.worldbody.add_body(name="target", mocap=True, pos=[*self.tabletop.centre, 0.3])
        target.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            size=[self.tolerance, 0, 0],
            rgba=[0.2, 0.8, 0.3, 1],
            contype=0,
            conaffinity=0,
        )
        target.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            fromto=[0, 0, 0, 0, 0, -self.post * self.tabletop.scale],
            size=[0.008 * self.tabletop.scale, 0, 0],
            rgba=[0.95, 0.95, 0.95, 1],
            contype=0,
            conaffinity=0,
        )

    def place(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        around, scale = np.array([0.025, 0.1]) * self.tabletop.scale, self.tabletop.scale
        lower, upper = self.tabletop.lower - around, self.tabletop.upper + around
        return {"target": poses(rng.uniform([*lower, 0.1 * scale], [*upper, 0.4 * scale], (n, 3)), np.zeros(n))}

    def observe(self, state: SceneState) -> np.ndarray:
        return np.concatenate([state.tcp, state.objects["target"][:, :3] - state.tcp], -1, dtype=np.float32)

    def achieved(self, state: SceneState) -> np.ndarray:
        return np.linalg.norm(state.objects["target"][:, :3] - state.tcp, axis=-1) < self.tolerance

    def progress(self, state: SceneState) -> np.ndarray:
        return 1 - np.tanh(5 * np.linalg.norm(state.objects["target"][:, :3] - state.tcp, axis=-1))

    def expert_goal(self, state: SceneState) -> ToolGoal:
        n = len(state.tcp)
        width = np.full(n, self.spec.home[-1])
        # Where the tool can't point down (an arm of five joints, high up) the point matters more.
        return ToolGoal(state.objects["target"][:, :3], pointing_down(np.zeros(n)), width, turn_weight=0.1)
