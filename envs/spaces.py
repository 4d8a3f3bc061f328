"""The Gymnasium spaces of a robot and a task."""

import difflib

import numpy as np
from gymnasium import spaces

from envs.control import JointDeltaControl
from envs.errors import EnvError
from envs.options import EnvOptions
from envs.task import SceneState, Task
from hal.spec import RobotSpec

STATE = "observation.state"
TRACKING_ERROR = "observation.tracking_error"
ENVIRONMENT_STATE = "observation.environment_state"
IMAGES = "observation.images."
BY_JOINT = (STATE, TRACKING_ERROR)
"""Those that have an entry per joint and gripper, as actions have."""


def action_space(control: JointDeltaControl) -> spaces.Box:
    """(D,) float32, the bounds of one arm's action; see `JointDeltaControl` for its entries and units."""
    return spaces.Box(control.low, control.high, dtype=np.float32)


def observation_space(spec: RobotSpec, task: Task, options: EnvOptions | None = None) -> spaces.Dict:
    """`observation.state`, the measured joints (dim,) in rad and m, is left unbounded: one may overshoot its limit.

    `observation.tracking_error`, (dim,), is the set-points in force less the measured joints.

    Raises EnvError for a camera that the spec doesn't have.
    """
    options = EnvOptions() if options is None else options
    entries = {STATE: spaces.Box(-np.inf, np.inf, (spec.dim,), np.float32)}
    if options.tracking_error:
        entries[TRACKING_ERROR] = entries[STATE]
    if options.environment_state:
        placed = task.place(np.random.default_rng(0), 1)
        probe = SceneState(spec.home[None], np.zeros((1, 3)), np.eye(3)[None], placed)
        entries[ENVIRONMENT_STATE] = spaces.Box(-np.inf, np.inf, task.observe(probe).shape[1:], np.float32)
    known = {camera.name: camera for camera in spec.cameras}
    for name in options.cameras:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
            raise EnvError(f"robot {spec.name} has no camera {name!r}; {hint}")
        entries[IMAGES + name] = spaces.Box(0, 255, (*options.size_of(known[name]), 3), np.uint8)
    return spaces.Dict(entries)
