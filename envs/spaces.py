"""The Gymnasium spaces of a robot and a task."""

import numpy as np
from gymnasium import spaces

from envs.control import JointDeltaControl
from envs.options import EnvOptions
from envs.task import SceneState, Task
from hal.spec import RobotSpec


def action_space(control: JointDeltaControl) -> spaces.Box:
    """(D,) float32, the bounds of one arm's action; see `JointDeltaControl` for its entries and units."""
    return spaces.Box(control.low, control.high, dtype=np.float32)


def observation_space(spec: RobotSpec, task: Task, options: EnvOptions | None = None) -> spaces.Dict:
    """`observation.state` is left unbounded: a measured joint may overshoot its limit by a little."""
    placed = task.place(np.random.default_rng(0), 1)
    probe = SceneState(spec.home[None], np.zeros((1, 3)), np.eye(3)[None], placed)
    return spaces.Dict(
        {
            "observation.state": spaces.Box(-np.inf, np.inf, (spec.dim,), np.float32),
            "observation.environment_state": spaces.Box(-np.inf, np.inf, task.observe(probe).shape[1:], np.float32),
        }
    )
