"""`Binding`: where the entries of a spec are in a compiled MuJoCo model; for one simulation and for batches of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from hal.errors import SpecError, nearest
from hal.fit import misfits
from hal.mjcf import TCP_SITE, load_mjcf, mujoco_block, refused
from hal.spec import RobotSpec

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


def load_model(spec: RobotSpec) -> Any:
    """Compiles the MJCF that the spec names. Raises SpecError when there is none or MuJoCo refuses it."""
    mjcf = load_mjcf(spec)
    try:
        return mjcf.compile()
    except ValueError as error:
        raise refused(spec, error) from None


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
    width_scale: Array  # (gripper joints,) [m per rad or m]
    ctrl_scale: Array  # one for all gripper actuators, or one each
    ctrl_offset: Array

    @classmethod
    def of(cls, spec: RobotSpec, model: Any) -> Binding:
        """Looks all names up and sees whether the model can do what the spec says.

        Raises SpecError that lists every name that is missing and everything that doesn't fit.
        """
        block = mujoco_block(spec)
        faults: list[str] = []

        def find(kind: Any, count: int, key: str, names: tuple[str, ...]) -> list[int]:
            known = [mujoco.mj_id2name(model, kind, index) for index in range(count)]
            for name in names:
                if name not in known:
                    faults.append(f"mujoco.{key}: no {name!r} in the model ({nearest(name, [n for n in known if n])})")
            return [known.index(name) if name in known else -1 for name in names]

        joint, actuator, site = mujoco.mjtObj.mjOBJ_JOINT, mujoco.mjtObj.mjOBJ_ACTUATOR, mujoco.mjtObj.mjOBJ_SITE
        joints = find(joint, model.njnt, "joints", block.joints)
        fingers = find(joint, model.njnt, "gripper_joints", block.gripper_joints)
        actuators = find(actuator, model.nu, "actuators", block.actuators)
        grips = find(actuator, model.nu, "gripper_actuators", block.gripper_actuators)
        if block.tcp_site is not None:
            sites = find(site, model.nsite, "tcp_site", (block.tcp_site,))
        elif find(mujoco.mjtObj.mjOBJ_BODY, model.nbody, "tcp_body", (block.tcp_body or "",)) != [-1]:
            sites = find(site, model.nsite, "tcp_body, whose site load_mjcf adds", (TCP_SITE,))
        faults += misfits(spec, model, joints, actuators, fingers, grips)
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
            width_scale=np.broadcast_to(np.array(block.gripper_width_scale), len(fingers)),
            ctrl_scale=np.array(block.gripper_ctrl_scale),
            ctrl_offset=np.array(block.gripper_ctrl_offset),
        )

    def position(self, qpos: Array) -> Array:
        """(..., nq) of the model to (..., dim) of the spec: joints, then the gripper's width. A copy."""
        offset = mujoco_block(self.spec).gripper_width_offset
        return self._join(qpos[..., self.qpos], qpos[..., self.gripper_qpos], offset)

    def velocity(self, qvel: Array) -> Array:
        """(..., nv) of the model to (..., dim) of the spec. A copy."""
        return self._join(qvel[..., self.dof], qvel[..., self.gripper_dof], 0.0)

    def write_ctrl(self, target: Array, ctrl: Array) -> None:
        """Writes set-points (..., dim) into the model's ctrl (..., nu); entries that the spec doesn't name stay."""
        joints = len(self.qpos)
        ctrl[..., self.actuators] = target[..., :joints]
        if self.spec.gripper is not None:
            ctrl[..., self.gripper_actuators] = target[..., joints:] * self.ctrl_scale + self.ctrl_offset

    def write_qpos(self, position: Array, qpos: Array) -> None:
        """Writes a pose (..., dim) into the model's qpos (..., nq); the gripper's joints share the width equally."""
        joints = len(self.qpos)
        qpos[..., self.qpos] = position[..., :joints]
        if self.spec.gripper is not None:
            travel = position[..., joints:] - mujoco_block(self.spec).gripper_width_offset
            qpos[..., self.gripper_qpos] = travel / (len(self.gripper_qpos) * self.width_scale)

    def _join(self, joints: Array, fingers: Array, offset: float) -> Array:
        if self.spec.gripper is None:
            return joints
        width = (fingers * self.width_scale).sum(axis=-1, keepdims=True) + offset
        return np.concatenate((joints, width), axis=-1)


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
