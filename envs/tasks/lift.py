"""Lift: pick a cube up from the table and hold it."""

import mujoco
import numpy as np

from envs.errors import TaskError
from envs.geometry import poses, rotation_from_quaternion
from envs.task import SceneState, Task
from hal.spec import RobotSpec


class Lift(Task):
    """A 4 cm cube of 50 g, within 20 x 20 cm and turned by up to 45 degrees, lifted by 10 cm and held for two steps.

    `observation.environment_state`, (15,): tool position (3, m), cube minus tool position in the base frame (3, m) and
    in the tool's frame (3, m), the cube's x and z axes in the tool's frame (3 + 3).
    """

    name = "lift"
    instructions = ("pick up the red cube", "lift the red block off the table", "grab the red cube and raise it")
    episode_steps = 48
    hold_steps = 2
    objects = ("cube",)
    half_size = 0.02
    height = 0.10

    def __init__(self, spec: RobotSpec) -> None:
        super().__init__(spec)
        if spec.gripper is None or spec.gripper.upper < 2 * self.half_size + 0.005:
            raise TaskError(f"task lift: robot {spec.name} has no gripper that opens wider than the 4 cm cube")

    def build(self, scene: mujoco.MjSpec) -> None:
        cube = scene.worldbody.add_body(name="cube", pos=[0.5, 0, self.half_size])
        cube.add_freejoint()
        cube.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[self.half_size] * 3,
            mass=0.05,
            friction=[1.0, 0.005, 0.0001],
            condim=4,
            rgba=[0.85, 0.2, 0.15, 1],
        )

    def place(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        position = rng.uniform([0.4, -0.1, self.half_size], [0.6, 0.1, self.half_size], (n, 3))
        return {"cube": poses(position, rng.uniform(-np.pi / 4, np.pi / 4, n))}

    def observe(self, state: SceneState) -> np.ndarray:
        cube = state.objects["cube"]
        offset = cube[:, :3] - state.tcp
        axes = rotation_from_quaternion(cube[:, 3:])
        in_tool = np.einsum(
            "nji,njk->nik", state.rotation, np.concatenate([offset[:, :, None], axes[:, :, [0, 2]]], -1)
        )
        flat = in_tool.transpose(0, 2, 1).reshape(len(offset), -1)
        return np.concatenate([state.tcp, offset, flat], -1, dtype=np.float32)

    def achieved(self, state: SceneState) -> np.ndarray:
        cube = state.objects["cube"][:, :3]
        near = np.linalg.norm(cube - state.tcp, axis=-1) < 0.03
        return near & (cube[:, 2] > self.half_size + self.height)

    def progress(self, state: SceneState) -> np.ndarray:
        cube = state.objects["cube"][:, :3]
        near = 1 - np.tanh(5 * np.linalg.norm(cube - state.tcp, axis=-1))
        high = np.clip((cube[:, 2] - self.half_size) / self.height, 0, 1)
        return 0.5 * near + 0.5 * high
