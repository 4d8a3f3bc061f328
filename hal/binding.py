"""`Binding`: where the entries of a spec are in a compiled MuJoCo model; for one simulation and for batches of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from hal.errors import SpecError, nearest
from hal.spec import MujocoModel, RobotSpec

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_SLACK = 1e-3  # [rad, m] rounding of limits


def load_model(spec: RobotSpec) -> Any:
    """Compiles the MJCF that the spec names. Raises SpecError when there is none or MuJoCo refuses it."""
    path: Path = mujoco_block(spec).mjcf
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise SpecError(
            f"{spec.name}: mujoco.mjcf = '{path}': MuJoCo refuses it: {' '.join(str(error).split())}"
        ) from None


def mujoco_block(spec: RobotSpec) -> MujocoModel:
    """The spec's `mujoco` block. Raises SpecError when it has none."""
    if spec.mujoco is None:
        raise SpecError(f"{spec.name}: the spec has no block 'mujoco', which names the kinematic model")
    return spec.mujoco


@dataclass(frozen=True)
class Binding:
    """Indices of the spec's joints, gripper, actuators and TCP in a model, and the conversion of its units.

    All methods take arrays whose last axis is the model's (nq, nv, nu) or the spec's (dim); leading axes are free.
    """

    spec: RobotSpec
    qpos: Index  # (J,) of the joints
    dof: Index
    actuators: Index
    gripper_qpos: Index  # empty without a gripper
    gripper_dof: Index
    gripper_actuators: Index
    tcp_site: int

    @classmethod
    def of(cls, spec: RobotSpec, model: Any) -> Binding:
        """Looks all names up. Raises SpecError that lists every name that is missing or of the wrong kind."""
        block = mujoco_block(spec)
        faults: list[str] = []
        joint, actuator, site = mujoco.mjtObj.mjOBJ_JOINT, mujoco.mjtObj.mjOBJ_ACTUATOR, mujoco.mjtObj.mjOBJ_SITE
        counts = {joint: model.njnt, actuator: model.nu, site: model.nsite}

        def find(kind: Any, key: str, names: tuple[str, ...]) -> list[int]:
            known = [mujoco.mj_id2name(model, kind, index) for index in range(counts[kind])]
            found = []
            for name in names:
                if name in known:
                    found.append(known.index(name))
                else:
                    faults.append(f"mujoco.{key}: no {name!r} in the model ({nearest(name, [n for n in known if n])})")
            return found

        joints = find(joint, "joints", block.joints)
        fingers = find(joint, "gripper_joints", block.gripper_joints)
        actuators = find(actuator, "actuators", block.actuators)
        grips = find(actuator, "gripper_actuators", block.gripper_actuators)
        sites = find(site, "tcp_site", (block.tcp_site,))
        single = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
        faults += [
            f"joint {model.joint(index).name!r} must be a hinge or a slide"
            for index in joints + fingers
            if int(model.jnt_type[index]) not in single
        ]
        if not faults:
            faults = _beyond(spec, model, joints, actuators)
        if faults:
            raise SpecError(f"{spec.name} and the model {block.mjcf}: {'; '.join(faults)}")

        def index(values: Any) -> Index:
            return np.asarray(values, dtype=np.intp)

        return cls(
            spec=spec,
            qpos=index(model.jnt_qposadr[joints]),
            dof=index(model.jnt_dofadr[joints]),
            actuators=index(actuators),
            gripper_qpos=index(model.jnt_qposadr[fingers]),
            gripper_dof=index(model.jnt_dofadr[fingers]),
            gripper_actuators=index(grips),
            tcp_site=sites[0],
        )

    def position(self, qpos: Array) -> Array:
        """(..., nq) of the model to (..., dim) of the spec: joints, then the gripper's width. A copy."""
        return self._join(qpos[..., self.qpos], qpos[..., self.gripper_qpos])

    def velocity(self, qvel: Array) -> Array:
        """(..., nv) of the model to (..., dim) of the spec. A copy."""
        return self._join(qvel[..., self.dof], qvel[..., self.gripper_dof])

    def write_ctrl(self, target: Array, ctrl: Array) -> None:
        """Writes set-points (..., dim) into the model's ctrl (..., nu); entries that the spec doesn't name stay."""
        block, joints = mujoco_block(self.spec), len(self.qpos)
        ctrl[..., self.actuators] = target[..., :joints]
        if self.spec.gripper is not None:
            ctrl[..., self.gripper_actuators] = (
                target[..., joints:] * block.gripper_ctrl_scale + block.gripper_ctrl_offset
            )

    def write_qpos(self, position: Array, qpos: Array) -> None:
        """Writes a pose (..., dim) into the model's qpos (..., nq); the gripper's joints share the width equally."""
        joints = len(self.qpos)
        qpos[..., self.qpos] = position[..., :joints]
        if self.spec.gripper is not None:
            share = mujoco_block(self.spec).gripper_width_scale * len(self.gripper_qpos)
            qpos[..., self.gripper_qpos] = position[..., joints:] / share

    def _join(self, joints: Array, fingers: Array) -> Array:
        if self.spec.gripper is None:
            return joints
        width = fingers.sum(axis=-1, keepdims=True) * mujoco_block(self.spec).gripper_width_scale
        return np.concatenate((joints, width), axis=-1)


def _beyond(spec: RobotSpec, model: Any, joints: list[int], actuators: list[int]) -> list[str]:
    """Limits of the spec that the model doesn't reach: it would stop short of its set-points without a word."""
    faults = []
    for axis, joint, actuator in zip(spec.joints, joints, actuators, strict=True):
        ranges = {
            "joint": model.jnt_range[joint] if model.jnt_limited[joint] else None,
            "actuator": model.actuator_ctrlrange[actuator] if model.actuator_ctrllimited[actuator] else None,
        }
        for kind, bounds in ranges.items():
            if bounds is not None and (axis.lower < bounds[0] - _SLACK or axis.upper > bounds[1] + _SLACK):
                faults.append(
                    f"joint {axis.name!r} goes from {axis.lower:g} to {axis.upper:g} in the spec, the model's {kind} "
                    f"only from {bounds[0]:g} to {bounds[1]:g}"
                )
                break
    return faults


@dataclass(frozen=True)
class ObjectSlot:
    """Where the pose of one of a scene's objects is: 7 entries of qpos from `qpos` on, or the mocap body `mocap`.

    The one that doesn't apply is -1.
    """

    body: int
    qpos: int
    mocap: int


def object_slots(model: Any) -> dict[str, ObjectSlot]:
    """The bodies of a model whose pose can be set, by name: those with a free joint, and mocap bodies."""
    slots = {}
    for body in range(model.nbody):
        joint, mocap = int(model.body_jntadr[body]), int(model.body_mocapid[body])
        if mocap >= 0:
            slots[model.body(body).name] = ObjectSlot(body, -1, mocap)
        elif joint >= 0 and model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE:
            slots[model.body(body).name] = ObjectSlot(body, int(model.jnt_qposadr[joint]), -1)
    return slots
