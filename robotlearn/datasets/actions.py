"""Other conventions of states and actions, and ours: joint deltas [rad] from the last set-point, a width [m].

`deltas_of` and `absolute_of` are each other's inverse; an arm begins with its set-point where it was measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.spec import RobotSpec
from robotlearn.datasets.errors import DatasetError

Array = NDArray[Any]
_BEYOND = 0.5  # [rad] outside its limits no arm of this model has ever been measured


def deltas_of(targets: Array, start: Array, spec: RobotSpec) -> Array:
    """(T, D) actions of absolute set-points (T, D) in rad and m, the first relative to `start` (D,)."""
    joints = len(spec.joints)
    before = np.concatenate([start[None], targets[:-1]])
    actions = np.array(targets, np.float64)
    actions[:, :joints] -= before[:, :joints]
    return actions


def absolute_of(actions: Array, start: Array, spec: RobotSpec) -> Array:
    """(T, D) absolute set-points in rad and m of actions (T, D), the first relative to `start` (D,)."""
    joints = len(spec.joints)
    targets = np.array(actions, np.float64)
    targets[:, :joints] = start[:joints] + np.cumsum(targets[:, :joints], axis=0)
    return targets


def from_unit(values: Array, spec: RobotSpec, unit: str, *, deltas: bool = False) -> Array:
    """(T, D) in rad and m. deltas: they are differences, so that offsets don't count; the gripper's never are.

    unit: see `Conversion`. Raises DatasetError when the spec doesn't say what LeRobot's values are.
    """
    joints, values = len(spec.joints), np.asarray(values, np.float64)
    scale, offset = np.ones(spec.dim), np.zeros(spec.dim)
    if unit == "deg":
        scale[:joints] = np.pi / 180
    elif unit == "lerobot":
        if spec.lerobot is None:
            raise DatasetError(f"--unit lerobot: {spec.name} has no block `lerobot`, which would say how to convert")
        scale[:], offset[:] = spec.lerobot.scale, spec.lerobot.offset
    if deltas:
        offset[:joints] = 0
    return values * scale + offset


def plausible(state: Array, spec: RobotSpec, what: str, unit: str) -> None:
    """Raises DatasetError when joints (T, D) [rad] are where none of this robot can be."""
    if not np.isfinite(state).all():
        raise DatasetError(f"{what}: a state is not finite")
    for index, joint in enumerate(spec.joints):
        low, high = float(state[:, index].min()), float(state[:, index].max())
        if low < joint.lower - _BEYOND or high > joint.upper + _BEYOND:
            raise DatasetError(
                f"{what}: {joint.name} goes from {low:.3g} to {high:.3g} with --unit {unit}, on {spec.name} from "
                f"{joint.lower:.3g} to {joint.upper:.3g} rad: another --unit (si, deg, lerobot), or another --robot"
            )
