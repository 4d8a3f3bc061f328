"""Peg: insertion with 1 mm of clearance."""

import mujoco
import numpy as np

from envs.features import in_tool_frame, object_features
from envs.geometry import about_z, poses, rotation_from_quaternion, rotation_vector
from envs.grasp import check_gripper, grasp
from envs.objects import add_block
from envs.tabletop import draw_pairs
from envs.task import SceneState, Task, ToolGoal
from hal.spec import RobotSpec

ABOVE = 0.01
"""How far above the peg's middle it is gripped, m: the jaws stay clear of the fixture."""
HOVER = 0.004
PRESS = 0.0012
OVER = 0.01
ALIGNED = 0.04
"""Within OVER m and ALIGNED rad of fitting the peg is let down by PRESS m a step, from HOVER m above the hole.

It slides over the rim lightly pressed and falls in where it fits; from further off, or once it tilts, it is raised.
Waiting for half a millimetre instead never ends where an arm trembles by more than that.
"""


class Peg(Task):
    """A square peg, 40 mm wide and 70 mm long, into a square hole, 41 mm wide and without a chamfer.

    The peg stands on the table, 8 cm or more from a fixture 30 mm high, both turned by up to 23 degrees. It must be 20
    mm deep in the hole for two steps; it need not be let go. Sizes are the same on all tables: 1 mm means 1 mm.

    `observation.environment_state`, (24,): see `envs.features`; the object is the peg, the goal is where its centre is
    when it stands in the hole on the table. 21..23: the fixture's x axis in the tool's frame.
    """

    name = "peg"
    instructions = (
        "insert the purple peg into the hole",
        "put the purple peg in the grey fixture",
        "plug the square peg into the square hole",
        "pick up the peg and push it into the grey block's hole",
    )
    episode_steps = 120
    hold_steps = 2
    objects = ("peg", "fixture")
    expert_delta = 0.12
    width, length, clearance = 0.04, 0.07, 0.001
    outer, height, depth = 0.07, 0.03, 0.02

    def __init__(self, spec: RobotSpec) -> None:
        super().__init__(spec)
        check_gripper(spec, self.name, self.width, f"the {1000 * self.width:.0f} mm peg")

    def build(self, scene: mujoco.MjSpec) -> None:
        x, y = self.tabletop.centre
        half = self.width / 2
        add_block(scene, "peg", [x, y - 0.1, self.length / 2], [half, half, self.length / 2], 0.06, [0.5, 0.2, 0.7, 1])
        fixture = scene.worldbody.add_body(name="fixture", mocap=True, pos=[x, y, 0])
        hole, edge, up = (self.width + self.clearance) / 2, self.outer / 2, self.height / 2
        wall, middle = (edge - hole) / 2, (edge + hole) / 2
        for position, size in (
            ([middle, 0, up], [wall, edge, up]),
            ([-middle, 0, up], [wall, edge, up]),
            ([0, middle, up], [hole, wall, up]),
            ([0, -middle, up], [hole, wall, up]),
        ):
            fixture.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=position,
                size=size,
                # Polished and hard: the peg must neither stick to its rim nor press its way through a wall.
                friction=[0.2, 0.005, 0.0001],
                priority=2,
                solref=[0.01, 1],
                solimp=[0.99, 0.999, 0.0005, 0.5, 2],
                rgba=[0.42, 0.45, 0.5, 1],
            )

    def place(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        peg, fixture = draw_pairs(rng, n, self.tabletop, self.tabletop, 0.08)
        peg[:, 2] = self.length / 2
        yaw = rng.uniform(-0.4, 0.4, (2, n))
        return {"peg": poses(peg, yaw[0]), "fixture": poses(fixture, yaw[1])}

    def observe(self, state: SceneState) -> np.ndarray:
        features = object_features(state, state.objects["peg"], self._goal(state))
        turned = in_tool_frame(state, self._fixture_axes(state)[:, :, 0])
        return np.concatenate([features, turned], -1, dtype=np.float32)

    def achieved(self, state: SceneState) -> np.ndarray:
        tip, axes = self._tip(state)
        aside = np.linalg.norm(tip[:, :2] - state.objects["fixture"][:, :2], axis=-1)
        return (aside < 0.003) & (tip[:, 2] < self.height - self.depth) & (axes[:, 2, 2] > 0.98)

    def progress(self, state: SceneState) -> np.ndarray:
        peg = state.objects["peg"][:, :3]
        tip, _ = self._tip(state)
        near = 1 - np.tanh(5 * np.linalg.norm(peg + np.array([0, 0, ABOVE]) - state.tcp, axis=-1))
        sideways = np.linalg.norm(tip[:, :2] - state.objects["fixture"][:, :2], axis=-1)
        deep = np.where(sideways < 0.003, np.clip((self.height - tip[:, 2]) / self.depth, 0, 1), 0)
        raised = np.maximum(np.clip(tip[:, 2] / self.height, 0, 1), deep > 0)
        return 0.2 * near + 0.2 * raised + 0.3 * (1 - np.tanh(10 * sideways)) + 0.3 * deep

    def expert_goal(self, state: SceneState) -> ToolGoal:
        """Grasp, up, across, align above the hole, in."""
        pose = state.objects["peg"]
        taken = grasp(self, state, pose, self.width, above=ABOVE, slack=0.02)
        goal, held = taken.goal, taken.held
        tip, axes = self._tip(state)
        hole = self._fixture_axes(state)
        # The peg's axes when it fits: the hole's, by quarter turns, the nearest to those it has.
        yaw = np.arctan2((axes[:, :, 0] * hole[:, :, 1]).sum(-1), (axes[:, :, 0] * hole[:, :, 0]).sum(-1))
        aligning = hole @ about_z(np.round(yaw / (np.pi / 2)) * np.pi / 2) @ np.swapaxes(axes, -1, -2)
        turn = rotation_vector(axes, aligning @ axes)
        way = state.objects["fixture"][:, :3] - tip
        sideways = np.linalg.norm(way[:, :2], axis=-1)
        inside = (sideways < 0.003) & (tip[:, 2] < self.height - 0.001)
        over = (sideways < OVER) & (np.linalg.norm(turn, axis=-1) < ALIGNED)
        hover = self.height + HOVER
        across = inside | over | (tip[:, 2] > hover - HOVER / 2)
        tip_goal = tip + np.where(across[:, None], way, 0.0)
        tip_goal[:, 2] = np.where(over, np.minimum(tip[:, 2], hover) - PRESS, hover)
        tip_goal[inside, 2] = np.maximum(tip[inside, 2] - 0.02, 0.002)
        position = tip_goal + np.einsum("nij,nj->ni", aligning, state.tcp - tip)
        goal.position[held] = position[held]
        goal.rotation[held] = (aligning @ state.rotation)[held]
        return ToolGoal(goal.position, goal.rotation, goal.width, turn_weight=0.5)

    def _goal(self, state: SceneState) -> np.ndarray:
        return state.objects["fixture"][:, :3] + [0, 0, self.length / 2]

    def _fixture_axes(self, state: SceneState) -> np.ndarray:
        return rotation_from_quaternion(state.objects["fixture"][:, 3:])

    def _tip(self, state: SceneState) -> tuple[np.ndarray, np.ndarray]:
        """The middle of the peg's lower end (n, 3), and its axes (n, 3, 3)."""
        peg = state.objects["peg"]
        axes = rotation_from_quaternion(peg[:, 3:])
        return peg[:, :3] - axes[:, :, 2] * self.length / 2, axes
