"""`Workspace`: the box in which the tool centre point may be commanded, and what keeps it there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hal.kinematics import Chain
from hal.spec import RobotSpec

Array = npt.NDArray[np.float64]

_INSET = 1e-3  # [m] how far inside a wall a motion along it is aimed


class Workspace:
    """Looks ahead of n moving arms to where braking would leave their TCP. Keeps no state.

    Velocities are those of set-points, one per period `dt`; all arrays have one row per arm and one column per joint
    (the gripper moves no TCP: callers leave it out).
    """

    def __init__(self, spec: RobotSpec, chain: Chain, dt: float, samples: int = 4) -> None:
        """`samples`: how many set-points of a braking path are looked at; all of them where it isn't longer."""
        joints = slice(len(spec.joints))
        self._chain, self._dt = chain, dt
        self._lower, self._upper = np.array(spec.workspace.lower), np.array(spec.workspace.upper)
        self._acceleration = spec.acceleration[joints]
        # In how many periods a braking arm still moves; which of them are looked at.
        moving = np.ceil((spec.velocity[joints] / (self._acceleration * dt)).max() - 1e-9) - 1
        self._samples = np.unique(np.linspace(0, max(moving, 0), samples).round())

    def outside(self, q: Array) -> Array:
        """(n,) [m] the largest distance of the TCP beyond a wall of the box; 0 inside."""
        tcp = self._chain.position(q)
        result: Array = np.maximum(np.maximum(self._lower - tcp, tcp - self._upper).max(axis=1), 0.0)
        return result

    def excess(self, position: Array, velocity: Array, dt: float) -> Array:
        """(n,) [m] how far outside the set-points get the TCP when it moves at `velocity` for `dt`, then brakes."""
        path = self._ahead(position, velocity, dt)[1]
        result: Array = self.outside(path.reshape(-1, path.shape[2])).reshape(path.shape[:2]).max(axis=0)
        return result

    def along_wall(
        self, position: Array, wanted: Array, slowest: Array, fastest: Array, allowance: Array, dt: float
    ) -> Array:
        """Velocities near `wanted` (two Newton steps), within the bounds, whose braked TCP is just inside the box.

        allowance: (n,) [m] by how much the box is larger for an arm that is outside.
        Where the bounds or the two steps don't suffice it is still outside: `excess` says so.
        """
        velocity, margin = wanted, (_INSET - allowance)[:, None]
        arms = np.arange(len(wanted))
        jacobian: Array | None = None
        for _ in range(2):
            lever, path = self._ahead(position, velocity, dt)
            tcp = self._chain.position(path.reshape(-1, path.shape[2])).reshape(*path.shape[:2], 3)
            error = np.clip(tcp, self._lower + margin, self._upper - margin) - tcp
            worst = np.abs(error).max(axis=2).argmax(axis=0)
            if jacobian is None:  # the second step is so small that the first one's serves
                jacobian = self._chain.jacobian(path[worst, arms])[:, :3]
            weighted = jacobian * lever[worst, arms][:, None, :]
            transposed = weighted.transpose(0, 2, 1)
            gram = weighted @ transposed + 1e-6 * np.eye(3)
            change = (transposed @ np.linalg.solve(gram, error[worst, arms][:, :, None]))[:, :, 0]
            velocity = np.clip(velocity + change, slowest, fastest)
        return velocity

    def _ahead(self, position: Array, velocity: Array, dt: float) -> tuple[Array, Array]:
        """The set-points of an arm that moves at `velocity` for `dt`, then brakes, and how far each moves per change of
        that velocity (the lever, [s]): lever and path, both (samples, n, J).
        """
        periods, way = braking_path(velocity, self._acceleration, self._dt, self._periods(velocity))
        return dt + self._dt * periods, way + (position + velocity * dt)

    def _periods(self, velocity: Array) -> Array:
        """(samples,) the periods of braking that are looked at, 0 being the one before it begins."""
        return self._samples


def braking_path(velocity: Array, acceleration: Array, dt: float, after: Array) -> tuple[Array, Array]:
    """Of joints that brake from `velocity` (n, J): for how many periods they have moved `after` so many, and how far.

    `after` (samples,), in periods of `dt`; both results (samples, n, J).
    """
    unit = acceleration * dt
    speed = np.abs(velocity)
    periods = np.minimum(after[:, None, None], np.floor(speed / unit))
    return periods, np.copysign(dt * periods * (speed - 0.5 * unit * (periods + 1.0)), velocity)
