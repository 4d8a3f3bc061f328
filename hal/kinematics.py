"""`Chain`: where the tool centre point of many arms is, in NumPy, from the MJCF that a spec names."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from hal.binding import Binding, load_model
from hal.errors import SpecError
from hal.spec import RobotSpec

Array = npt.NDArray[np.float64]


class Chain:
    """The serial chain from the base frame (the world frame of the spec's MJCF) to the TCP site.

    Built once, then pure functions of q (n, J): J joints in the order of `spec.joints`, without the gripper. They keep
    no state and may be called from several threads. With F the constant transforms between the joints, whose axes are
    turned to z, and Z(q) a turn about z (or a shift along it), the pose is F0 Z(q0) F1 Z(q1) ... Fn.

    Raises:
        SpecError: the spec names no model, a name is missing, or a joint between base and TCP isn't one of the spec's.
    """

    def __init__(self, spec: RobotSpec, model: Any = None) -> None:
        model = load_model(spec) if model is None else model
        binding = Binding.of(spec, model)
        order: list[int] = []  # per joint of the chain, from the base on: its column in q
        hinge: list[bool] = []
        reference: list[float] = []
        rotations: list[Array] = []
        shifts: list[Array] = []
        turn, shift = np.eye(3), np.zeros(3)  # the constant transform being gathered
        for body in _path_to(model, int(model.site_bodyid[binding.tcp_site])):
            turn, shift = turn @ _matrix(model.body_quat[body]), shift + turn @ model.body_pos[body]
            first = int(model.body_jntadr[body])
            for joint in range(first, first + int(model.body_jntnum[body])):
                address = int(model.jnt_qposadr[joint])
                if address not in binding.qpos:
                    name = model.joint(joint).name
                    raise SpecError(f"{spec.name}: joint {name!r} moves the TCP but isn't among mujoco.joints")
                anchor, to_axis = model.jnt_pos[joint], _turn_z_to(model.jnt_axis[joint])
                rotations.append(turn @ to_axis)
                shifts.append(shift + turn @ anchor)
                turn, shift = to_axis.T, -to_axis.T @ anchor
                order.append(int(np.flatnonzero(binding.qpos == address)[0]))
                hinge.append(int(model.jnt_type[joint]) == int(mujoco.mjtJoint.mjJNT_HINGE))
                reference.append(float(model.qpos0[address]))
        rotations.append(turn @ _matrix(model.site_quat[binding.tcp_site]))
        shifts.append(shift + turn @ model.site_pos[binding.tcp_site])
        self.joints = len(spec.joints)
        self._order, self._hinge, self._reference = order, hinge, np.array(reference)[:, None]
        self._rotations, self._shifts = rotations, [np.ascontiguousarray(s[:, None]) for s in shifts]

    def position(self, q: Array) -> Array:
        """TCP positions (n, 3) [m] of the configurations q (n, J). The cheapest of the three."""
        values, cosine, sine = self._trigonometry(q)
        point: Array = np.broadcast_to(self._shifts[-1], (3, values.shape[1]))
        turned = np.empty(point.shape)
        for j in reversed(range(len(self._order))):  # from the tip inwards: points are cheaper to turn than frames
            if self._hinge[j]:
                turned[0] = cosine[j] * point[0] - sine[j] * point[1]
                turned[1] = sine[j] * point[0] + cosine[j] * point[1]
                turned[2] = point[2]
            else:
                turned[:2], turned[2] = point[:2], point[2] + values[j]
            point = self._rotations[j] @ turned + self._shifts[j]
        return point.T

    def forward(self, q: Array) -> tuple[Array, Array]:
        """TCP positions (n, 3) [m] and rotations (n, 3, 3), whose columns are the TCP's axes in the base frame."""
        position, rotation, _, _ = self._walk(q)
        return position, rotation

    def jacobian(self, q: Array) -> Array:
        """(n, 6, J): the TCP's linear, then angular velocity in the base frame, per joint velocity."""
        position, _, anchors, axes = self._walk(q)
        axis, lever = np.stack(axes), position - np.stack(anchors)  # (J, n, 3)
        (ax, ay, az), (x, y, z) = np.moveaxis(axis, 2, 0), np.moveaxis(lever, 2, 0)
        hinge = np.array(self._hinge)[:, None, None]
        result = np.zeros((len(position), 6, self.joints))
        turned = np.stack((ay * z - az * y, az * x - ax * z, ax * y - ay * x), axis=2)
        result[:, :3, self._order] = np.where(hinge, turned, axis).transpose(1, 2, 0)
        result[:, 3:, self._order] = np.where(hinge, axis, 0.0).transpose(1, 2, 0)
        return result

    def _walk(self, q: Array) -> tuple[Array, Array, list[Array], list[Array]]:
        values, cosine, sine = self._trigonometry(q)
        n = values.shape[1]
        position: Array = np.zeros((n, 3))
        rotation: Array = np.broadcast_to(np.eye(3), (n, 3, 3))
        anchors: list[Array] = []
        axes: list[Array] = []
        for j in range(len(self._order)):
            rows = rotation.reshape(-1, 3)  # one product for all arms is faster than one per arm
            position = position + (rows @ self._shifts[j]).reshape(n, 3)
            rotation = (rows @ self._rotations[j]).reshape(n, 3, 3)
            anchors.append(position)
            axes.append(rotation[:, :, 2])
            if self._hinge[j]:
                c, s = cosine[j][:, None], sine[j][:, None]
                x, y, z = rotation[:, :, 0], rotation[:, :, 1], rotation[:, :, 2]
                rotation = np.stack((c * x + s * y, c * y - s * x, z), axis=2)
            else:
                position = position + rotation[:, :, 2] * values[j][:, None]
        rows = rotation.reshape(-1, 3)
        position = position + (rows @ self._shifts[-1]).reshape(n, 3)
        return position, (rows @ self._rotations[-1]).reshape(n, 3, 3), anchors, axes

    def _trigonometry(self, q: Array) -> tuple[Array, Array, Array]:
        if q.ndim != 2 or q.shape[1] != self.joints:
            raise ValueError(f"q must be (n, {self.joints}), not {q.shape}")
        values = q.T[self._order] - self._reference
        return values, np.cos(values), np.sin(values)


def _path_to(model: Any, body: int) -> list[int]:
    path: list[int] = []
    while body != 0:
        path.insert(0, body)
        body = int(model.body_parentid[body])
    return path


def _matrix(quaternion: Array) -> Array:
    result = np.empty(9)
    mujoco.mju_quat2Mat(result, quaternion)
    return result.reshape(3, 3)


def _turn_z_to(axis: Array) -> Array:
    """A rotation that turns the z axis to `axis`."""
    quaternion = np.empty(4)
    mujoco.mju_quatZ2Vec(quaternion, np.asarray(axis, dtype=np.float64))
    return _matrix(quaternion)
