"""How an arm's gripper closes, as its model says."""

from functools import lru_cache

import mujoco
import numpy as np

from hal.binding import Binding, load_model
from hal.spec import RobotSpec

GAP = 0.004
REACH = 0.1


def one_jaw(spec: RobotSpec) -> bool:
    """Whether only one jaw of the gripper moves, so that what is gripped ends up at the other."""
    return spec.mujoco is not None and len(spec.mujoco.gripper_joints) == 1


@lru_cache
def closed_offset(spec: RobotSpec) -> float:
    """Where the jaws meet, m along the tool's y axis, the one they open along; 0 without a gripper.

    Between jaws that move alike this is 0; where one stands still it is that one's pad.
    """
    if spec.gripper is None or spec.mujoco is None:
        return 0.0
    model = load_model(spec)
    binding, data = Binding.of(spec, model), mujoco.MjData(model)
    # Not quite closed: jaws that touch have no nearest points.
    binding.write_qpos(np.array([*spec.home[:-1], GAP]), data.qpos)
    mujoco.mj_forward(model, data)
    bodies = [int(model.joint(name).bodyid[0]) for name in spec.mujoco.gripper_joints]
    bodies.append(int(model.body_parentid[bodies[0]]))
    left, right = (np.flatnonzero((model.geom_bodyid == body) & (model.geom_contype != 0)) for body in bodies[:2])
    nearest, ends = REACH, np.zeros(6)
    for one in left:
        for other in right:
            segment = np.zeros(6)
            distance = mujoco.mj_geomDistance(model, data, one, other, REACH, segment)
            if distance < nearest:
                nearest, ends = distance, segment
    middle = ends.reshape(2, 3).mean(0) - data.site_xpos[binding.tcp_site]
    return round(float(data.site_xmat[binding.tcp_site].reshape(3, 3)[:, 1] @ middle), 3)
