"""`Physics`: the fields of a MuJoCo model that change when masses, friction, damping or servo gains do."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from hal.binding import Binding, object_slots
from hal.errors import DriverError, nearest
from hal.mjcf import mujoco_block
from hal.robot import Factors
from hal.spec import RobotSpec

Array = npt.NDArray[np.float64]


class Physics:
    """Turns `Factors` into values of a model's fields; for one simulation and for batches of them.

    The model's own values are those at the time of construction. It does not write into the model. After body masses
    have been written, `mj_setConst` (of a batch: `set_const`) must follow, since inverse weights and the masses of
    subtrees are derived from them; the other fields derive nothing.
    """

    FIELDS = ("body_mass", "body_inertia", "geom_friction", "dof_damping", "actuator_gainprm", "actuator_biasprm")

    def __init__(self, spec: RobotSpec, model: Any) -> None:
        self._name = spec.name
        binding = Binding.of(spec, model)
        self._own = {name: getattr(model, name).copy() for name in self.FIELDS}
        self._dof, self._actuators = binding.dof, binding.actuators
        self._objects = {
            name: [body for body in range(model.nbody) if _within(model, body, slot.body)]
            for name, slot in object_slots(model).items()
        }
        loose = {body for bodies in self._objects.values() for body in bodies}
        fingers = {model.joint(name).bodyid[0] for name in mujoco_block(spec).gripper_joints}
        pads = {body for body in range(model.nbody) if any(_within(model, body, finger) for finger in fingers)}
        geoms = list(enumerate(model.geom_bodyid))
        # What an object lies on counts as much as the object: of two geoms in contact the rougher one decides.
        self._ground = [geom for geom, body in geoms if body in loose or model.body_weldid[body] == 0]
        self._pads = [geom for geom, body in geoms if body in pads]

    def values(self, factors: Factors) -> dict[str, Array]:
        """The fields with `factors` (arrays with leading axes ...) applied, each (..., *shape in the model).

        Raises DriverError for an unknown object.
        """
        lead = factors.damping.shape[:-1]
        fields = {name: np.tile(own, (*lead, *[1] * own.ndim)) for name, own in self._own.items()}
        for name, factor in factors.mass.items():
            if name not in self._objects:
                raise DriverError(f"{self._name}: no object {name!r} has a mass to change: "
                                  f"{nearest(name, list(self._objects))}")  # fmt: skip
            fields["body_mass"][..., self._objects[name]] *= np.asarray(factor)[..., None]
            fields["body_inertia"][..., self._objects[name], :] *= np.asarray(factor)[..., None, None]
        sliding = fields["geom_friction"]
        sliding[..., self._ground, 0] *= factors.friction[..., :1]
        sliding[..., self._pads, 0] *= factors.friction[..., 1:]
        fields["dof_damping"][..., self._dof] *= factors.damping
        # Position servos: force = kp * ctrl - kp * position - kv * velocity.
        fields["actuator_gainprm"][..., self._actuators, 0] *= factors.gain
        fields["actuator_biasprm"][..., self._actuators, 1:3] *= factors.gain[..., None]
        return fields

    def apply(self, model: Any, factors: Factors) -> None:
        """Write the values for one simulation, and all that is derived from them, into `model`."""
        for name, value in self.values(factors).items():
            getattr(model, name)[:] = value
        mujoco.mj_setConst(model, mujoco.MjData(model))


def _within(model: Any, body: int, root: int) -> bool:
    while body > root:
        body = int(model.body_parentid[body])
    return body == root
