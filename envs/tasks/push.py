"""Push: slide a puck along the table onto a mark."""

import mujoco
import numpy as np

from envs.features import object_features
from envs.geometry import pointing_down, poses
from envs.jaws import closed_offset
from envs.objects import add_mark
from envs.tabletop import draw_pairs
from envs.task import SceneState, Task, ToolGoal
from hal.spec import RobotSpec


class Push(Task):
    """A puck, 9 cm wide and so not to be grasped, 3 cm high, 150 g, pushed 6 to 14 cm along the table.

    It must be within 3 cm of the middle of a mark for three steps.

    On small tables lengths are in proportion. `observation.environment_state`, (21,): see `envs.features`; the goal is
    the middle of the mark, at the height of the puck's middle.
    """

    name = "push"
    instructions = (
        "push the orange puck onto the blue mark",
        "slide the orange disc to the blue spot",
        "move the puck along the table until it covers the blue mark",
        "shove the orange puck over to the blue circle",
    )
    episode_steps = 64
    hold_steps = 3
    objects = ("puck", "mark")
    expert_delta = 0.1

    def __init__(self, spec: RobotSpec) -> None:
        super().__init__(spec)
        scale = self.tabletop.scale
        self.radius, self.half_height, self.tolerance = 0.045 * scale, 0.015 * scale, 0.03 * scale
        self.behind = self.radius + 0.03
        """How far from the puck's middle the jaws come down to push it, m."""
        self._jaws = np.array([0.0, closed_offset(spec), 0.0])

    def build(self, scene: mujoco.MjSpec) -> None:
        x, y = self.tabletop.centre
        add_mark(scene, "mark", [x, y, 0.0005], self.radius, [0.15, 0.35, 0.85, 1])
        puck = scene.worldbody.add_body(name="puck", pos=[x, y, self.half_height])
        puck.add_freejoint()
        puck.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[self.radius, self.half_height, 0],
            mass=0.15 * self.tabletop.scale**3,
            # Slippery, whatever it lies on: it must slide rather than tip, and stop when nothing pushes.
            friction=[0.4, 0.005, 0.0001],
            priority=2,
            rgba=[0.95, 0.5, 0.1, 1],
        )

    def place(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        # The tool must get behind the puck without leaving the tabletop.
        scale = self.tabletop.scale
        puck, mark = draw_pairs(
            rng, n, self.tabletop.inset(0.06 * scale), self.tabletop, max(0.06 * scale, 0.04), 0.14 * scale
        )
        puck[:, 2], mark[:, 2] = self.half_height, 0.0005
        return {"puck": poses(puck, np.zeros(n)), "mark": poses(mark, np.zeros(n))}

    def observe(self, state: SceneState) -> np.ndarray:
        return object_features(state, state.objects["puck"], self._goal(state))

    def achieved(self, state: SceneState) -> np.ndarray:
        return np.linalg.norm(self._goal(state) - state.objects["puck"][:, :3], axis=-1) < self.tolerance

    def progress(self, state: SceneState) -> np.ndarray:
        puck = state.objects["puck"][:, :3]
        there = 1 - np.tanh(10 * np.linalg.norm(self._goal(state) - puck, axis=-1))
        near = 1 - np.tanh(5 * np.maximum(np.linalg.norm(puck - state.tcp, axis=-1) - self.behind, 0))
        return 0.8 * there + 0.2 * near

    def expert_goal(self, state: SceneState) -> ToolGoal:
        """To the far side of the puck at a height that clears it, down, then through the puck towards the mark."""
        scale, n = self.tabletop.scale, len(state.tcp)
        puck = state.objects["puck"][:, :3]
        way = (self._goal(state) - puck)[:, :2]
        remaining = np.linalg.norm(way, axis=-1, keepdims=True)
        ahead = way / np.maximum(remaining, 1e-6)
        # What pushes is where the closed jaws are: where only one moves, not at the tool centre point.
        jaws = (state.rotation @ self._jaws)[:, :2]
        tool = state.tcp[:, :2] + jaws - puck[:, :2]
        along = (tool * ahead).sum(-1, keepdims=True)
        aside = tool - along * ahead
        sideways = np.linalg.norm(aside, axis=-1)
        low = state.tcp[:, 2] < 2 * self.half_height + 0.005 * scale
        pushing = low & (along[:, 0] < -0.6 * self.radius) & (sideways < 0.4 * self.radius)
        above = (np.linalg.norm(tool + self.behind * ahead, axis=-1) < 0.015 * scale) & ~pushing
        gap = np.maximum(-along - self.radius - 0.012, 0)
        pushed = state.tcp[:, :2] + jaws - aside + ahead * np.minimum(0.6 * remaining + gap, 0.05 * scale)
        xy = np.where(pushing[:, None], pushed, puck[:, :2] - self.behind * ahead)
        xy = xy - jaws
        z = np.where(pushing | above, self.half_height, 2 * self.half_height + 0.035 * scale)
        return ToolGoal(
            np.concatenate([xy, z[:, None]], -1), pointing_down(np.zeros(n)), np.full(n, self.spec.lower[-1])
        )

    def _goal(self, state: SceneState) -> np.ndarray:
        return np.concatenate([state.objects["mark"][:, :2], np.full((len(state.tcp), 1), self.half_height)], -1)
