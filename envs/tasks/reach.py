"""Reach: bring the tool to a marked point in the air."""

import mujoco
import numpy as np

from envs.geometry import poses
from envs.task import SceneState, Task


class Reach(Task):
    """The tool must come within 2 cm of a target and stay there for two steps.

    `observation.environment_state`, (6,): tool position (3, m), target minus tool position (3, m).
    """

    name = "reach"
    instructions = ("move the gripper to the green ball", "reach for the green ball", "bring the hand to the ball")
    episode_steps = 16
    hold_steps = 2
    objects = ("target",)
    tolerance = 0.02

    def build(self, scene: mujoco.MjSpec) -> None:
        target = scene.worldbody.add_body(name="target", mocap=True, pos=[0.5, 0, 0.3])
        target.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.02, 0, 0], rgba=[0.2, 0.8, 0.3, 1], contype=0, conaffinity=0
        )

    def place(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        return {"target": poses(rng.uniform([0.35, -0.2, 0.1], [0.6, 0.2, 0.4], (n, 3)), np.zeros(n))}

    def observe(self, state: SceneState) -> np.ndarray:
        return np.concatenate([state.tcp, state.objects["target"][:, :3] - state.tcp], -1, dtype=np.float32)

    def achieved(self, state: SceneState) -> np.ndarray:
        return np.linalg.norm(state.objects["target"][:, :3] - state.tcp, axis=-1) < self.tolerance

    def progress(self, state: SceneState) -> np.ndarray:
        return 1 - np.tanh(5 * np.linalg.norm(state.objects["target"][:, :3] - state.tcp, axis=-1))
