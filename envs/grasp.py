"""How scripted experts take hold of a block from above and put it down: the parts that their tasks share."""

from dataclasses import dataclass

import numpy as np

from envs.errors import TaskError
from envs.geometry import pointing_down, rotation_from_quaternion, rotation_vector
from envs.jaws import one_jaw
from envs.task import SceneState, Task, ToolGoal
from hal.spec import RobotSpec

ROOM = 0.005
"""How much wider than an object a gripper must open at least, m."""
APPROACH_HEIGHT = 0.06
NEAR = 0.012
TURN = 0.15


def check_gripper(spec: RobotSpec, task: str, width: float, what: str) -> None:
    """Raises TaskError when the robot has no gripper that opens wider than `width` m, which is that of `what`."""
    if spec.gripper is None or spec.gripper.upper < width + ROOM:
        raise TaskError(f"task {task}: robot {spec.name} has no gripper that opens wider than {what}")


def square_yaw(pose: np.ndarray) -> np.ndarray:
    """(n,) how far a block at `pose` (n, 7) is turned about z, rad, within 45 degrees: a square looks alike every 90."""
    axes = rotation_from_quaternion(pose[:, 3:])
    yaw = np.arctan2(axes[:, 1, 0], axes[:, 0, 0])
    return (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4


@dataclass(frozen=True)
class Grasp:
    """Above the block, down, close: what to do until it is held, and which of n arms hold it."""

    goal: ToolGoal
    held: np.ndarray


def grasp(task: Task, state: SceneState, pose: np.ndarray, width: float, above: float = 0.0) -> Grasp:
    """Take hold of the block of that `width` at `pose` (n, 7), `above` m above its centre.

    The phase follows from where block, tool and fingers are: that the fingers touch is measured; where their set-point
    is, a policy can't see.
    """
    scale = task.tabletop.scale
    open_width, measured = opening(task, width), state.position[:, -1]
    rotation = pointing_down(square_yaw(pose))
    target = pose[:, :3] + [0, 0, above]
    offset = target - state.tcp
    turn = np.linalg.norm(rotation_vector(state.rotation, rotation), axis=-1)
    aligned = (np.linalg.norm(offset[:, :2], axis=-1) < NEAR * scale) & (turn < TURN)
    if one_jaw(task.spec):
        # The jaw pushes the block away from the tool, up to the other jaw: following it would never end.
        along, across = np.einsum("nji,nj->ni", state.rotation, offset)[:, :2].T
        closing = (measured < open_width - 0.003) & (turn < 2 * TURN) & (np.abs(offset[:, 2]) < NEAR)
        closing &= (np.abs(along) < NEAR) & (np.abs(across) < task.spec.upper[-1] / 2)
        target[closing, :2] = state.tcp[closing, :2]
        aligned |= closing
    at_block = aligned & (np.abs(offset[:, 2]) < (NEAR if one_jaw(task.spec) else NEAR * scale))
    held = at_block & (measured < width + 0.0002)
    target[:, 2] += np.where(aligned, 0.0, APPROACH_HEIGHT * scale)
    return Grasp(ToolGoal(target, rotation, np.where(at_block, width / 2, open_width)), held)


def opening(task: Task, width: float) -> float:
    """How wide to open for a block of that `width`, m: with room beside it, yet no wider than needed."""
    return float(min(task.spec.upper[-1], width + 0.04 * task.tabletop.scale))
