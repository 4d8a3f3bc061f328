"""The scripted expert: it sees the whole state and does the tasks, to make demonstrations."""

import numpy as np

from envs.errors import TaskError
from envs.geometry import pointing_down, rotation_vector
from envs.task import SceneState, Task
from hal.kinematics import Chain
from hal.spec import RobotSpec

DAMPING = 0.05
GAIN = 0.5


class Expert:
    """Actions for n arms from their state alone (no memory): the task's Cartesian goal, by damped least squares."""

    def __init__(self, spec: RobotSpec, task: Task) -> None:
        """Raises TaskError when `task` has no script."""
        if type(task).expert_goal is Task.expert_goal:
            raise TaskError(f"task {task.name!r} has no scripted expert: its class defines no `expert_goal`")
        self._spec, self._task, self._chain = spec, task, Chain(spec)
        self._joints = len(spec.joints)

    def act(self, state: SceneState) -> np.ndarray:
        """(n, D) float32 actions."""
        goal = self._task.expert_goal(state)
        turn = rotation_vector(state.rotation, goal.rotation)
        weights = np.array([1.0] * 3 + [goal.turn_weight] * 3)
        error = weights * np.concatenate([goal.position - state.tcp, turn], -1)
        joints = state.position[:, : self._joints]
        action = np.zeros((len(joints), self._spec.dim), np.float32)
        delta = damped_step(weights[:, None] * self._chain.jacobian(joints), error)
        fastest = GAIN * np.abs(delta).max(-1, keepdims=True)
        action[:, : self._joints] = GAIN * delta / np.maximum(fastest / self._task.expert_delta, 1.0)
        action[:, self._joints :] = goal.width[:, None]
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
