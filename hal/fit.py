"""`misfits`: why set-points of a spec would not do in a model what the spec says, though every name is there."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from hal.spec import GripperSpec, JointSpec, RobotSpec

Array = npt.NDArray[np.float64]

_SLACK = 1e-3  # [rad, m] rounding of limits
_TOLERANCE = 0.05  # of a gripper's travel: models round their gains
_SINGLE = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
_AT_JOINT = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))
_DIRECT = (int(mujoco.mjtDyn.mjDYN_NONE), int(mujoco.mjtDyn.mjDYN_FILTER), int(mujoco.mjtDyn.mjDYN_FILTEREXACT))


def misfits(
    spec: RobotSpec, model: Any, joints: list[int], actuators: list[int], fingers: list[int], grips: list[int]
) -> list[str]:
    """One line per fault, none when all is well. The lists are indices in the model; -1, no such name, is skipped."""
    faults = [
        f"joint {model.joint(index).name!r} must be a hinge or a slide"
        for index in joints + fingers
        if index >= 0 and int(model.jnt_type[index]) not in _SINGLE
    ]
    for axis, joint, actuator in zip(spec.joints, joints, actuators, strict=True):
        faults += _beyond(model, axis, joint, actuator)
        if actuator >= 0:
            faults += _servo(model, axis, joint, actuator)
    if spec.gripper is not None and not faults and min(fingers + grips) >= 0:
        faults = _gripper(spec, spec.gripper, model, fingers, grips)
    return faults


def _beyond(model: Any, axis: JointSpec, joint: int, actuator: int) -> list[str]:
    """Limits of the spec that the model doesn't reach: it would stop short of its set-points without a word."""
    ranges = {}
    if joint >= 0 and model.jnt_limited[joint]:
        ranges["joint"] = model.jnt_range[joint]
    if actuator >= 0 and model.actuator_ctrllimited[actuator]:
        ranges["actuator"] = model.actuator_ctrlrange[actuator]
    for kind, (low, high) in ranges.items():
        if axis.lower < low - _SLACK or axis.upper > high + _SLACK:
            only = f"the model's {kind} only from {low:g} to {high:g}"
            return [f"joint {axis.name!r} goes from {axis.lower:g} to {axis.upper:g} in the spec, {only}"]
    return []


def _servo(model: Any, axis: JointSpec, joint: int, actuator: int) -> list[str]:
    """An actuator that wouldn't take its joint to the set-point."""
    name = f"actuator {model.actuator(actuator).name!r}"
    rest = _rest(model, actuator)
    if rest is None:
        return [f"{name} is no position servo: it would take set-points for forces. {_REMEDY}"]
    driven = int(model.actuator_trnid[actuator, 0])
    if int(model.actuator_trntype[actuator]) not in _AT_JOINT:
        return [f"{name} doesn't act on a joint, the spec has it for {axis.name!r}"]
    if joint >= 0 and driven != joint:
        return [f"{name} drives {model.joint(driven).name!r}, the spec has it for {axis.name!r}"]
    slope, offset = (value / float(model.actuator_gear[actuator, 0]) for value in rest)
    if abs(slope - 1) > 0.01 or abs(offset) > _SLACK:
        return [f"{name} takes a set-point x to {slope:g} x + {offset:g} instead of x"]
    return []


_REMEDY = "Use <position>, or <general biastype='affine'> with gainprm = 'kp' and biasprm = '0 -kp -kv'"


def _rest(model: Any, actuator: int) -> tuple[float, float] | None:
    """(a, b) of the length a ctrl + b [rad, m] at which a position servo rests; None for anything else."""
    gain, bias = model.actuator_gainprm[actuator], model.actuator_biasprm[actuator]
    if (
        int(model.actuator_gaintype[actuator]) != int(mujoco.mjtGain.mjGAIN_FIXED)
        or int(model.actuator_biastype[actuator]) != int(mujoco.mjtBias.mjBIAS_AFFINE)
        or int(model.actuator_dyntype[actuator]) not in _DIRECT
        or bias[1] >= 0
        or gain[0] == 0
    ):
        return None
    return float(-gain[0] / bias[1]), float(-bias[0] / bias[1])


def _gripper(spec: RobotSpec, gripper: GripperSpec, model: Any, fingers: list[int], grips: list[int]) -> list[str]:
    block = spec.mujoco
    assert block is not None
    faults = []
    widths = np.array([gripper.lower, gripper.upper])
    scale = np.broadcast_to(np.array(block.gripper_width_scale), len(fingers))
    angles = (widths[:, None] - block.gripper_width_offset) / (len(fingers) * scale)  # (2, fingers)
    for joint, (closed, opened) in zip(fingers, angles.T, strict=True):
        low, high = model.jnt_range[joint]
        if model.jnt_limited[joint] and (min(closed, opened) < low - _SLACK or max(closed, opened) > high + _SLACK):
            faults.append(
                f"gripper joint {model.joint(joint).name!r} would be at {closed:g} and {opened:g} {_for(widths)}, "
                f"but goes only from {low:g} to {high:g}: see gripper_width_scale"
            )
    for i, actuator in enumerate(grips):
        name = f"gripper actuator {model.actuator(actuator).name!r}"
        rest = _rest(model, actuator)
        if rest is None:
            faults.append(f"{name} is no position servo: it would take widths for forces. {_REMEDY}")
            continue
        ctrl = widths * _of(block.gripper_ctrl_scale, i) + _of(block.gripper_ctrl_offset, i)
        low, high = model.actuator_ctrlrange[actuator]
        if model.actuator_ctrllimited[actuator] and (
            ctrl.min() < low - _SLACK * (high - low) or ctrl.max() > high + _SLACK * (high - low)
        ):
            faults.append(
                f"{name} gets {ctrl[0]:g} and {ctrl[1]:g} {_for(widths)}, but takes only {low:g} to {high:g}: "
                "see gripper_ctrl_scale and gripper_ctrl_offset"
            )
        lengths = _lengths(model, actuator, fingers, angles)
        if lengths is None:
            continue
        slope, offset = rest
        if np.abs(slope * ctrl + offset - lengths).max() > _TOLERANCE * abs(lengths[1] - lengths[0]):
            fitting = (lengths - offset) / slope
            factor = (fitting[1] - fitting[0]) / (widths[1] - widths[0])
            faults.append(
                f"{name} would not bring the gripper to its widths: that takes gripper_ctrl_scale {factor:.6g} and "
                f"gripper_ctrl_offset {fitting[0] - factor * widths[0]:.6g}"
            )
    return faults


def _lengths(model: Any, actuator: int, fingers: list[int], angles: Array) -> Array | None:
    """(2,) the actuator's length at the two widths; None when the named joints alone don't tell."""
    target, gear = int(model.actuator_trnid[actuator, 0]), float(model.actuator_gear[actuator, 0])
    if int(model.actuator_trntype[actuator]) in _AT_JOINT:
        coefficients = {target: 1.0}
    elif int(model.actuator_trntype[actuator]) == int(mujoco.mjtTrn.mjTRN_TENDON):
        wraps = range(int(model.tendon_adr[target]), int(model.tendon_adr[target]) + int(model.tendon_num[target]))
        if any(int(model.wrap_type[wrap]) != int(mujoco.mjtWrap.mjWRAP_JOINT) for wrap in wraps):
            return None
        coefficients = {int(model.wrap_objid[wrap]): float(model.wrap_prm[wrap]) for wrap in wraps}
    else:
        return None
    if not set(coefficients) <= set(fingers):
        return None
    factors = np.array([coefficients.get(joint, 0.0) for joint in fingers])
    result: Array = gear * (angles @ factors)
    return result


def _for(widths: Array) -> str:
    return f"for the spec's widths of {widths[0]:g} and {widths[1]:g} m"


def _of(values: tuple[float, ...], index: int) -> float:
    return values[index] if len(values) > 1 else values[0]
