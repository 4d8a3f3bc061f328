"""Scripted experts: they see the whole state and do the tasks, to make demonstrations."""

from collections.abc import Callable

import numpy as np

from envs.errors import TaskError
from envs.geometry import pointing_down, rotation_from_quaternion, rotation_vector
from envs.task import SceneState, Task
from hal.kinematics import Chain
from hal.spec import RobotSpec

DAMPING = 0.05
APPROACH_HEIGHT = 0.06
GAIN = 0.5
EXPERT_DELTA = 0.08


class Expert:
    """Actions for n arms from their state alone (no memory): a Cartesian goal each, tracked by damped least squares."""

    def __init__(self, spec: RobotSpec, task: Task) -> None:
        """Raises TaskError when there is no script for `task`."""
        if task.name not in _GOALS:
            raise TaskError(f"no scripted expert for task {task.name!r}; there are {', '.join(sorted(_GOALS))}")
        self._spec, self._goal, self._chain = spec, _GOALS[task.name], Chain(spec)
        self._joints = len(spec.joints)

    def act(self, state: SceneState) -> np.ndarray:
        """(n, D) float32 actions."""
        position, rotation, width = self._goal(self._spec, state)
        error = np.concatenate([position - state.tcp, rotation_vector(state.rotation, rotation)], -1)
        joints = state.position[:, : self._joints]
        action = np.zeros((len(joints), self._spec.dim), np.float32)
        delta = damped_step(self._chain.jacobian(joints), error)
        action[:, : self._joints] = (
            GAIN * delta / np.maximum(GAIN * np.abs(delta).max(-1, keepdims=True) / EXPERT_DELTA, 1.0)
        )
        action[:, self._joints :] = width[:, None]
        return action


def damped_step(jacobian: np.ndarray, error: np.ndarray) -> np.ndarray:
    """(n, J) joint deltas that reduce (n, 6) tool errors: J^T (J J^T + d^2 I)^-1 e (Nakamura and Hanafusa, 1986)."""
    square = jacobian @ np.swapaxes(jacobian, -1, -2) + DAMPING**2 * np.eye(6)
    return np.einsum("nij,ni->nj", jacobian, np.linalg.solve(square, error[..., None])[..., 0])


def solve_start(spec: RobotSpec, task: Task) -> np.ndarray:
    """(dim,) the pose in which the tool is at `task.start_tcp`, pointing down, found from the spec's home pose.

    Raises TaskError when the arm can't get there.
    """
    chain, joints = Chain(spec), len(spec.joints)
    pose = spec.home.copy()
    target = np.array(task.start_tcp)
    for _ in range(200):
        position, rotation = chain.forward(pose[None, :joints])
        turn = rotation_vector(rotation, pointing_down(np.zeros(1)))[0]
        error = np.concatenate([target - position[0], turn])
        if np.abs(error).max() < 1e-4:
            return pose
        step = damped_step(chain.jacobian(pose[None, :joints]), error[None])[0]
        pose[:joints] = np.clip(pose[:joints] + step, spec.lower[:joints], spec.upper[:joints])
    raise TaskError(f"robot {spec.name} can't bring its tool to {task.start_tcp}, where task {task.name} starts")


Goal = tuple[np.ndarray, np.ndarray, np.ndarray]


def _reach(spec: RobotSpec, state: SceneState) -> Goal:
    n = len(state.tcp)
    return state.objects["target"][:, :3], pointing_down(np.zeros(n)), np.full(n, spec.home[-1])


def _lift(spec: RobotSpec, state: SceneState) -> Goal:
    """Above the cube, down, close, up; the phase follows from where cube, tool and fingers are."""
    cube = state.objects["cube"]
    axes = rotation_from_quaternion(cube[:, 3:])
    # The cube looks the same every 90 degrees: turn the fingers the shortest way.
    yaw = np.arctan2(axes[:, 1, 0], axes[:, 0, 0])
    yaw = (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
    rotation = pointing_down(yaw)
    offset = cube[:, :3] - state.tcp
    turn = np.linalg.norm(rotation_vector(state.rotation, rotation), axis=-1)
    aligned = (np.linalg.norm(offset[:, :2], axis=-1) < 0.012) & (turn < 0.15)
    at_cube = aligned & (np.abs(offset[:, 2]) < 0.012)
    width = state.position[:, -1]
    gripped = at_cube & (width < 0.0402)
    goal = cube[:, :3].copy()
    goal[:, 2] += np.where(aligned, 0.0, APPROACH_HEIGHT)
    goal[gripped] = state.tcp[gripped] + [0, 0, 0.06]
    return goal, rotation, np.where(at_cube, 0.02, spec.upper[-1])


_GOALS: dict[str, Callable[[RobotSpec, SceneState], Goal]] = {"reach": _reach, "lift": _lift}
