"""How scripted experts take hold of a block from above and put it down: the parts that their tasks share."""

from dataclasses import dataclass

import numpy as np

from envs.errors import TaskError
from envs.geometry import pointing_down, rotation_from_quaternion, rotation_vector
from envs.jaws import closed_offset, one_jaw
from envs.task import SceneState, Task, ToolGoal
from hal.spec import RobotSpec

ROOM = 0.005
"""How much wider than an object a gripper must open at least, m."""
APPROACH_HEIGHT = 0.06
NEAR = 0.012
TURN = 0.15
BESIDE = 0.006
"""How far from the jaw that stands still, if one does, a block is when the other begins to close, m."""
RESTING = 0.004
"""How far, m, from its height on what carries it a block may be and still rest there."""


def check_gripper(spec: RobotSpec, task: str, width: float, what: str) -> None:
    """Raises TaskError when the robot has no gripper that opens wider than `width` m, which is that of `what`."""
    if spec.gripper is None or spec.gripper.upper < width + ROOM:
        raise TaskError(f"task {task}: robot {spec.name} has no gripper that opens wider than {what}")


def square_yaw(pose: np.ndarray) -> np.ndarray:
    """(n,) how far a block at `pose` (n, 7) is turned about z, rad; within 45 degrees, since a square looks alike."""
    axes = rotation_from_quaternion(pose[:, 3:])
    yaw = np.arctan2(axes[:, 1, 0], axes[:, 0, 0])
    return (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4


@dataclass(frozen=True)
class Grasp:
    """Above the block, down, close: what to do until it is held, and which of n arms hold it."""

    goal: ToolGoal
    held: np.ndarray


def grasp(
    task: Task, state: SceneState, pose: np.ndarray, width: float, *, above: float = 0.0, slack: float = 0.0
) -> Grasp:
    """Take hold of the block of that `width` at `pose` (n, 7), `above` m above its centre.

    The phase follows from where block, tool and fingers are: that the fingers touch is measured; where their set-point
    is, a policy can't see. A block that they touch is held while it is within `slack` m too: in quick moves it creeps.
    """
    single = one_jaw(task.spec)
    near = NEAR if single else NEAR * task.tabletop.scale
    rotation = pointing_down(square_yaw(pose))
    # Where one jaw stands still the block starts beside that one, or closing would push it far and topple it.
    aim = rotation[:, :, 1] * (closed_offset(task.spec) + width / 2 + BESIDE if single else 0.0)
    target = pose[:, :3] + [0, 0, above] - aim
    offset = target - state.tcp
    turn = np.linalg.norm(rotation_vector(state.rotation, rotation), axis=-1)
    touching = state.position[:, -1] < width + 0.0002
    aligned = (np.linalg.norm(offset[:, :2], axis=-1) < near) & (turn < TURN)
    aligned |= touching & (np.linalg.norm(offset, axis=-1) < slack) & (turn < 2 * TURN)
    at_block = aligned & (np.abs(offset[:, 2]) < near)
    held = at_block & touching
    if single:
        target[at_block, :2] = state.tcp[at_block, :2]
    target[:, 2] += np.where(aligned, 0.0, APPROACH_HEIGHT * task.tabletop.scale)
    return Grasp(ToolGoal(target, rotation, np.where(at_block, width / 2, opening(task, width))), held)


def opening(task: Task, width: float) -> float:
    """How wide to open for a block of that `width`, m: with room beside it, yet no wider than needed."""
    return float(min(task.spec.upper[-1], width + 0.04 * task.tabletop.scale))


def carry_goal(task: Task, state: SceneState, pose: np.ndarray, place: np.ndarray, width: float) -> ToolGoal:
    """Take the block of that `width` at `pose` (n, 7) and leave it with its centre at `place` (n, 3), let go.

    Grasp, up, across, down, open, away. Up and away are one: clear of `place` by a block.
    """
    scale, block = task.tabletop.scale, pose[:, :3]
    taken = grasp(task, state, pose, width, slack=0.022)
    goal, held = taken.goal, taken.held
    way = place - block
    sideways = np.linalg.norm(way[:, :2], axis=-1)
    over = sideways < 0.01 * scale
    clearance = 0.75 * width
    high = way[:, 2] < -0.5 * clearance
    # The block goes where it must; the tool makes the same way.
    step = np.where((high | over)[:, None], way, [0.0, 0.0, 1.0] * way)
    step[:, 2] = np.where(over, way[:, 2] - 0.003, way[:, 2] + clearance)
    goal.position[held] = (state.tcp + step)[held]
    placed = is_at(block, place, 0.02 * scale)
    open_width = opening(task, width)
    free = state.position[:, -1] > width + 0.4 * (open_width - width)
    goal.position[placed] = (state.tcp + np.where(free, 0.06, 0.0)[:, None] * [0, 0, 1])[placed]
    goal.rotation[placed] = state.rotation[placed]
    goal.width[placed] = open_width
    return goal


def is_at(block: np.ndarray, place: np.ndarray, tolerance: float) -> np.ndarray:
    """(n,) whether a block (n, 3) lies at its `place` (n, 3): within `tolerance` m sideways, and no higher."""
    way = place - block
    return (np.linalg.norm(way[:, :2], axis=-1) < tolerance) & (np.abs(way[:, 2]) < RESTING)


def let_go(task: Task, state: SceneState, block: np.ndarray, width: float) -> np.ndarray:
    """(n,) whether the jaws are open and the tool is above the block (n, 3), by more than its size."""
    return (state.position[:, -1] > width + ROOM) & (state.tcp[:, 2] - block[:, 2] > 0.75 * width + 0.01)


def carry_progress(state: SceneState, block: np.ndarray, place: np.ndarray, resting_height: float) -> np.ndarray:
    """(n,) in [0, 1]: a fifth for coming to the block, one for raising it, the rest for bringing it to its place."""
    there = 1 - np.tanh(10 * np.linalg.norm(place - block, axis=-1))
    near = 1 - np.tanh(5 * np.linalg.norm(block - state.tcp, axis=-1))
    raised = np.clip((block[:, 2] - resting_height) / 0.02, 0, 1)
    done = there > 0.7
    return 0.2 * np.maximum(near, done) + 0.2 * np.maximum(raised, done) + 0.6 * there
