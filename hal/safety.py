"""`SafetyLimiter`: the limits below every policy, on the commanded set-points of many arms at once.

It stands between whoever commands (policy, person, script) and `Robot.write`, and nothing above can switch it off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hal.errors import SafetyError
from hal.kinematics import Chain
from hal.spec import RobotSpec
from hal.workspace import Workspace

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Rows = Sequence[int] | npt.NDArray[np.integer]
Index = slice | npt.NDArray[np.intp]

_SNAP = 4e-15  # [rad, m] rounding of a set-point that means the target
_SHARES = np.array([1.0, 0.5, 0.25])
_ROWS = 512  # set-points whose TCP is looked at together, at most, before those of one arm are thinned out to 4
_STATE = ("_position", "_velocity", "_target", "_allowance")


@dataclass(frozen=True, slots=True)
class Limited:
    """What may be commanded now.

    set_point  (n, dim) float64, to be written to the robots as it is
    held       (n,) bool: the target was not looked at (e-stop, or not finite); the set-point brakes, then stays
    clipped    (n,) bool: the set-point isn't the target
    """

    set_point: Array
    held: Mask
    clipped: Mask


class SafetyLimiter:
    """Keeps the set-points of n arms of one spec within its limits, whatever the targets are.

    Velocity and acceleration are those of the set-points: v_k = (p_k - p_(k-1)) / dt and (v_k - v_(k-1)) / dt. For any
    sequence of targets, the set-points emitted after `reset` satisfy

    * position: lower <= p <= upper. The speed towards a limit is at most that from which the joint stops before it;
    * velocity and acceleration: |v| and |a| at most the spec's. The first period starts from rest;
    * workspace: the TCP of every set-point is in the spec's box if it was at `reset`. A motion is taken only if braking
      at once after it would keep the TCP inside too; else the part of it is taken that runs along the wall, or a
      fraction, or the arm brakes. An arm that was reset outside may not get further out than it was. Not covered are:
      the way between two set-points (the TCP's path bulges by second order in the step: by at most the arm's reach
      times (sum of |dq|)**2 / 8), the other parts of the arm, and, where an arm takes more than max(4, 512 / n) periods
      to stop, the set-points between those of each braking path that are looked at (so many);
    * a target that isn't finite: the arm brakes as fast as it may, then stays; `held`;
    * e-stop: the same until `clear`, whatever the other limits say.

    Position, velocity, acceleration and e-stop hold for periods that vary, as long as none is shorter than `dt` of the
    constructor; the workspace's guarantee is for periods of exactly that.

    A target is emitted as it is when it can be reached within the limits in this period and the arm can then, within
    the next, come to rest or go on at the target's speed. Other targets are approached as fast as the limits allow
    without overshooting: first relative to the target's own motion, which is taken from the last two targets.

    Not thread-safe, but `estop` may be called from any thread. Costs are in `benchmarks/`.

    Raises:
        SafetyError: n or dt can't be used, or the spec's home is outside its workspace.
        SpecError: the spec names no kinematic model.
    """

    def __init__(
        self,
        spec: RobotSpec,
        n: int = 1,
        *,
        dt: float | None = None,
        chain: Chain | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        """`workspace` says where the TCP gets to, for set-points that aren't written as they are (see `SetPoints`)."""
        self.spec, self.n, self.dt = spec, n, spec.dt if dt is None else dt
        if n < 1:
            raise SafetyError(f"SafetyLimiter for {n} arms: at least one is needed")
        if not 0 < self.dt < float("inf"):
            raise SafetyError(f"SafetyLimiter with dt={self.dt}: the period must be positive and finite [s]")
        self._joints = slice(len(spec.joints))
        if workspace is None:
            chain = Chain(spec) if chain is None else chain
            workspace = Workspace(spec, chain, self.dt, max(4, _ROWS // n))
        self._workspace = workspace
        if self._workspace.outside(spec.home[None, self._joints])[0] > 0:
            raise SafetyError(f"{spec.name}: the TCP of the home pose is outside the workspace")
        # Rows of these belong to arms. The limits are per arm because an arm may be reset outside the spec's.
        self._position = np.zeros((n, spec.dim))
        self._velocity = np.zeros((n, spec.dim))
        self._target = np.zeros((n, spec.dim))
        self._lower = np.tile(spec.lower, (n, 1))
        self._upper = np.tile(spec.upper, (n, 1))
        self._allowance = np.zeros(n)  # [m] how far outside the workspace the present braking path gets
        self._ready = np.zeros(n, dtype=bool)
        self._stopped = np.zeros(n, dtype=bool)

    @property
    def set_point(self) -> Array:
        """(n, dim) the last set-points. A copy."""
        return self._position.copy()

    @property
    def velocity(self) -> Array:
        """(n, dim) the velocities of the last set-points. A copy."""
        return self._velocity.copy()

    @property
    def stopped(self) -> Mask:
        """(n,) whether the e-stop is latched. A copy."""
        return self._stopped.copy()

    def reset(self, position: Array, ids: Rows | None = None) -> None:
        """Starts the arms `ids` (all by default) at rest at `position` (len(ids), dim): where they are, or were put to.

        An arm outside its limits is moved back in by the next targets and never further out. The e-stop stays latched.
        Raises SafetyError when `position` isn't finite or has another shape.
        """
        rows = self._rows(ids)
        position = self._checked(position, "position", rows)
        if not np.isfinite(position).all():
            raise SafetyError("reset to a position that isn't finite: read the robot again")
        self._position[rows], self._target[rows], self._velocity[rows] = position, position, 0.0
        self._lower[rows] = np.minimum(self.spec.lower, position)
        self._upper[rows] = np.maximum(self.spec.upper, position)
        self._allowance[rows] = self._workspace.outside(position[:, self._joints])
        self._ready[rows] = True

    def save(self) -> tuple[Array, ...]:
        """What `restore` takes to undo the calls of `limit` since."""
        return tuple(getattr(self, name).copy() for name in _STATE)

    def restore(self, saved: tuple[Array, ...]) -> None:
        """All arms are again as they were at `save`. Only for set-points that weren't written."""
        for name, values in zip(_STATE, saved, strict=True):
            getattr(self, name)[:] = values

    def estop(self, ids: Rows | None = None) -> None:
        """Latches the e-stop of the arms `ids` (all by default). May be called from any thread."""
        self._stopped[self._rows(ids)] = True

    def clear(self, ids: Rows | None = None) -> None:
        """Releases the e-stop; the arms go on from the set-points at which they stand (or still brake)."""
        self._stopped[self._rows(ids)] = False

    def limit(self, target: Array, dt: float | None = None, ids: Rows | None = None) -> Limited:
        """The set-points to command now, `dt` seconds (the constructor's by default) after the last ones.

        target: (len(ids), dim) absolute [rad, m]; ids: distinct rows, all n by default; the
        other rows keep their state.

        Raises:
            SafetyError: wrong shape, an arm that was never reset, or a period shorter than the constructor's.
        """
        rows = self._rows(ids)
        target = self._checked(target, "target", rows)
        dt = self.dt if dt is None else dt
        if not self.dt * (1 - 1e-6) <= dt < float("inf"):
            raise SafetyError(
                f"a period of {dt} s: this limiter brakes in time only if none is shorter than {self.dt} s"
            )
        if not self._ready[rows].all():
            raise SafetyError("limit() before reset(): the limiter must know where the arm is")
        spec = self.spec
        position, velocity = self._position[rows], self._velocity[rows]
        lower, upper = self._lower[rows], self._upper[rows]
        held = self._stopped[rows] | ~np.isfinite(target).all(axis=1)

        change = spec.acceleration * dt
        brake = velocity - np.clip(velocity, -change, change)
        down, up = self._speed(np.stack((position - lower, upper - position)), dt)
        slowest = np.maximum(np.maximum(-spec.velocity, velocity - change), -down)
        fastest = np.minimum(np.minimum(spec.velocity, velocity + change), up)
        # Braking is always within both; rounding must not say otherwise.
        slowest, fastest = np.minimum(slowest, brake), np.maximum(fastest, brake)

        # The goal of a held arm is where it is, outside its limits too: it brakes as fast as it may.
        goal = np.where(held[:, None], position, np.clip(target, spec.lower, spec.upper))
        wanted = np.clip(self._approach(goal, self._target[rows], position, dt), slowest, fastest)
        arm = self._joints
        bounds = (brake[:, arm], slowest[:, arm], fastest[:, arm])
        wanted[:, arm] = self._keep_inside(position[:, arm], wanted[:, arm], bounds, held, dt, rows)

        moved = np.clip(position + wanted * dt, lower, upper)
        moved = np.where(np.abs(moved - goal) <= _SNAP, goal, moved)
        self._position[rows], self._velocity[rows] = moved, wanted
        self._target[rows] = np.where(held[:, None], moved, goal)
        clipped = held | (np.abs(moved - target) > 1e-9).any(axis=1)
        return Limited(moved.copy() if ids is None else moved, held, clipped)

    def _speed(self, distance: Array, dt: float) -> Array:
        """The largest speed for this period after which braking stops the joint within `distance` (>= 0).

        In units of acceleration * self.dt and with n its whole part, a speed u then needs the braking distance
        n u - n (n + 1) / 2 (self.dt is the shortest period there is, and the longest way), so that, with k periods
        of self.dt in this one, (k + n) u - n (n + 1) / 2 = distance.
        """
        k = max(dt / self.dt, 1.0)
        unit = self.spec.acceleration * self.dt
        scaled = np.maximum(distance, 0.0) / (unit * self.dt)
        n = np.floor(np.sqrt(2.0 * scaled + (k - 0.5) ** 2) - (k - 0.5))
        result: Array = unit * (scaled + 0.5 * n * (n + 1.0)) / (k + n)
        return result

    def _approach(self, goal: Array, last_goal: Array, position: Array, dt: float) -> Array:
        """The velocity that goes to the goal, before the limits."""
        direct = (goal - position) / dt
        drift = (goal - last_goal) / dt
        drift = np.where(np.abs(drift) > self.spec.velocity, 0.0, drift)  # it jumped: nothing moves like that
        stop = self.spec.acceleration * dt
        catchable = np.minimum(np.abs(direct), np.abs(direct - drift)) <= stop
        gap = goal - drift * dt - position
        return np.where(catchable, direct, drift + np.copysign(self._speed(np.abs(gap), dt), gap))

    def _keep_inside(
        self, position: Array, wanted: Array, bounds: tuple[Array, Array, Array], held: Mask, dt: float, rows: Index
    ) -> Array:
        """The joint velocities `wanted`, and where they would lead out of the workspace the best of what remains."""
        brake, slowest, fastest = bounds
        allowance = self._allowance[rows]
        excess = self._workspace.excess(position, wanted, dt)
        fine = excess <= allowance + 1e-12
        allowance = np.where(fine & ~held, np.minimum(excess, allowance), allowance)
        bad = np.flatnonzero(~fine & ~held)
        if bad.size:
            wanted = wanted.copy()
            slide = self._workspace.along_wall(
                position[bad], wanted[bad], slowest[bad], fastest[bad], allowance[bad], dt
            )
            # The largest share of the way from braking to sliding along the wall that stays inside, else braking.
            trials = brake[bad] + _SHARES[:, None, None] * (slide - brake[bad])
            flat = (len(_SHARES) * len(bad), -1)
            tiled = np.broadcast_to(position[bad], trials.shape)
            excess = self._workspace.excess(tiled.reshape(flat), trials.reshape(flat), dt).reshape(trials.shape[:2])
            good = excess <= allowance[bad] + 1e-12
            first = good.argmax(axis=0)
            some = np.asarray(good.any(axis=0))
            columns = np.arange(len(bad))
            wanted[bad] = np.where(some[:, None], trials[first, columns], brake[bad])
            allowance[bad] = np.where(some, np.minimum(excess[first, columns], allowance[bad]), allowance[bad])
        self._allowance[rows] = allowance
        return wanted

    def _rows(self, ids: Rows | None) -> Index:
        return slice(None) if ids is None else np.asarray(ids, dtype=np.intp)

    def _checked(self, values: Array, what: str, rows: Index) -> Array:
        values = np.asarray(values, dtype=np.float64)
        expected = (self.n if isinstance(rows, slice) else len(rows), self.spec.dim)
        if values.shape != expected:
            raise SafetyError(
                f"{what} must have shape {expected} (arms, entries of {self.spec.name}), not {values.shape}"
            )
        return values
