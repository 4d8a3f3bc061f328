"""`SetPoints`: from the set-points of a policy to those that a driver gets, at the driver's own rate."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from hal.errors import SafetyError
from hal.guard import Guard
from hal.kinematics import Chain
from hal.safety import Limited, SafetyLimiter
from hal.spec import RobotSpec
from hal.workspace import Workspace, braking_path

Array = npt.NDArray[np.float64]


class SetPoints:
    """One arm's set-points between two of the policy's, each `dt` = 1 / driver_hz after the one before.

    A goal is approached on a straight line in joint space within one control period, so that the arm moves on evenly
    where a policy's steps would make it start and stop. What comes of that passes a `SafetyLimiter` of the driver's
    period, and then the mean of the last n of its set-points, n = ceil(2 A / (J dt)) for the jerk limit J and the
    acceleration limit A of the joint that needs most. Whatever the goals are, and whenever they come, the set-points
    emitted after `reset` satisfy, in differences over `dt`,

    * position, velocity and acceleration, as those of the limiter do: the mean of the last n positions (velocities,
      accelerations) lies between the smallest and the largest of them;
    * jerk: that of the mean is (a_k - a_(k-n)) / (n dt), at most 2 A / (n dt) <= J. It starts from rest;
    * workspace: the TCP of each is in the spec's box. A mean of set-points inside may be outside, by the curvature of
      the TCP's path; so the limiter looks at the means that would be emitted if it braked at once, every one of them
      until the arm stands, and never takes a motion after which one would be outside. An arm that was reset outside the
      box or a position limit is let in, and never further out;
    * the guard, if there is one: the same with what it watches. When it objects, the arm brakes until the next `go`.

    A motion that `SafetyLimiter` allows at the control rate is followed as it is while its changes of velocity fit into
    a driver's period. The larger ones are a step there and a ramp here, and what was missed is made up for as fast as
    the limits allow: the joints of a policy that uses all of its acceleration are up to about 1.2 control periods at
    full speed behind (tests/hal/test_set_points.py prints it). The mean comes (n - 1) / 2 periods of `dt` late, always.
    With neither `driver_hz` nor jerk limits the set-points are the goals.

    Not thread-safe. The gripper is one of the entries, and nothing special.

    Raises SafetyError as `SafetyLimiter`.
    """

    def __init__(self, spec: RobotSpec, chain: Chain | None = None, guard: Guard | None = None) -> None:
        """`guard` may be one that others use, though not at the same time."""
        self.spec, self.dt, self.guard = spec, spec.dt_driver, guard
        self.blocked: str | None = None  # what the guard said since the last `go`
        self._window = window(spec)
        self._before = np.zeros((self._window - 1, spec.dim))  # what the limiter emitted before the last, oldest first
        joints = slice(len(spec.joints))
        workspace = _Averaged(spec, Chain(spec) if chain is None else chain, self.dt, self._before[:, joints])
        self._limiter = SafetyLimiter(spec, 1, dt=self.dt, workspace=workspace)
        self._set_point = self._from = self._goal = spec.home
        self._ticks = self._tick = spec.ticks
        self._braking = False

    @property
    def ticks(self) -> int:
        """Driver periods in a control period."""
        return self._ticks

    @property
    def set_point(self) -> Array:
        """(dim,) the last one emitted, or where the arm was reset to. A copy."""
        return self._set_point.copy()

    @property
    def moving(self) -> bool:
        """Whether the next set-points would differ from the last one if the arm braked now."""
        newest = self._limiter.set_point
        still = (newest == self._set_point).all() and (newest == self._before).all()
        return bool(self._limiter.velocity.any() or not still)

    def reset(self, position: Array) -> None:
        """The arm stands still at `position` (dim,), and stays there until `go`.

        Raises SafetyError when that isn't finite or has another shape.
        """
        position = self._checked(position)
        self._limiter.reset(position[None])
        self._before[:] = position
        self._set_point = self._from = self._goal = position
        self._tick, self._braking, self.blocked = self._ticks, False, None

    def go(self, goal: Array) -> None:
        """From now on to `goal` (dim,), which is to be reached within a control period; a limit stands for what is
        beyond it. When it isn't finite, as `brake`.

        Raises SafetyError, and changes nothing, when it has another shape.
        """
        goal = self._checked(goal)
        if not np.isfinite(goal).all():
            self.brake()
            return
        here = self._limiter.set_point[0]
        # On from where the line is, so that its motion is the policy's, unless the arm is far behind it: then the line
        # asked for more than the limits allow.
        reach = self.spec.velocity * self.spec.dt
        self._from = here if self._braking else np.clip(self._line(), here - reach, here + reach)
        self._goal, self._tick = np.clip(goal, self.spec.lower, self.spec.upper), 0
        self._braking, self.blocked = False, None

    def brake(self) -> None:
        """From now on the arm brakes as fast as it may, then stays, until the next `go`."""
        self._braking = True

    def next(self) -> Limited:
        """The set-point to write now, (1, dim), `dt` after the last one. `held`: the arm brakes, or has.

        Raises SafetyError before the first `reset`.
        """
        self._tick = min(self._tick + 1, self._ticks)
        saved = None if self.guard is None else self._limiter.save()
        limited = self._limiter.limit(self._target())
        if self.guard is not None and saved is not None and not self._braking and self._limiter.velocity.any():
            # Braking needs no look: the motion before was taken because braking after it is free.
            self.blocked = self.guard.blocked(self._path())
            if self.blocked is not None:
                self._braking = True
                self._limiter.restore(saved)
                limited = self._limiter.limit(self._target())
        newest = limited.set_point[0]
        # As a difference to the newest: a mean of equal numbers isn't always that number.
        self._set_point = newest + (self._before - newest).sum(axis=0) / self._window
        if self._window > 1:
            self._before[:-1], self._before[-1] = self._before[1:], newest
        return Limited(self._set_point[None].copy(), limited.held, limited.clipped)

    def _target(self) -> Array:
        return np.full((1, self.spec.dim), np.nan) if self._braking else self._line()[None]

    def _line(self) -> Array:
        share = self._tick / self._ticks
        result: Array = self._goal if share == 1 else self._from + share * (self._goal - self._from)
        return result

    def _path(self) -> Array:
        """(m, dim) the set-point emitted last, then all that follow when the limiter brakes from where it is now."""
        velocity = self._limiter.velocity
        after = _every_period(velocity, self.spec.acceleration * self.dt)
        way = braking_path(velocity, self.spec.acceleration, self.dt, after)[1][:, 0]
        return np.vstack((self._set_point, _means(self._before, self._limiter.set_point + way)))

    def _checked(self, values: Array) -> Array:
        values = np.array(values, dtype=np.float64)
        if values.shape != (self.spec.dim,):
            raise SafetyError(f"{self.spec.name}: a set-point must have shape ({self.spec.dim},), not {values.shape}")
        return values


class _Averaged(Workspace):
    """The workspace of one arm that gets the means of set-points: what is looked at is these means, all of them.

    before: (n - 1, J) the set-points that go into the next mean, oldest first; read at each call.
    """

    def __init__(self, spec: RobotSpec, chain: Chain, dt: float, before: Array) -> None:
        super().__init__(spec, chain, dt)
        self._before = before

    def _ahead(self, position: Array, velocity: Array, dt: float) -> tuple[Array, Array]:
        lever, path = super()._ahead(position, velocity, dt)
        if not len(self._before):
            return lever, path
        before = np.broadcast_to(self._before[:, None], (len(self._before), *path.shape[1:]))
        return _means(np.zeros(before.shape), lever), _means(before, path)

    def _periods(self, velocity: Array) -> Array:
        return _every_period(velocity, self._acceleration * self._dt)


def window(spec: RobotSpec) -> int:
    """How many set-points of the driver's rate are averaged for the spec's jerk limits; 1 where there are none."""
    needed = float((2 * spec.acceleration / (spec.jerk * spec.dt_driver)).max())
    return max(1, math.ceil(needed - 1e-9))


def _every_period(velocity: Array, unit: Array) -> Array:
    return np.arange(np.floor(np.abs(velocity) / unit).max() + 1)


def _means(before: Array, path: Array) -> Array:
    """The means of each n of `before` (n - 1, ...) and `path` (m, ...), whose last stays: (m + n - 1, ...)."""
    n = len(before) + 1
    if n == 1:
        return path
    last = path[-1]
    # Relative to where it ends, for the sake of rounding.
    row = np.concatenate((np.zeros((1, *last.shape)), before - last, path - last)).cumsum(axis=0)
    ends = np.concatenate((row[n:], np.broadcast_to(row[-1], (n - 1, *last.shape))))
    result: Array = last + (ends - row[: len(ends)]) / n
    return result
