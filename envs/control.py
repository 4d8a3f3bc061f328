"""Actions of a policy become set-points of arms: joint deltas and a gripper width, through the safety layer."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hal.safety import SafetyLimiter
from hal.spec import RobotSpec

MAX_DELTA = 0.2
"""Largest joint delta of one control step, rad. The robot's own velocity and acceleration limits cut in below it."""


@dataclass(frozen=True)
class Applied:
    """What became of the actions of k arms.

    Attributes:
        before: (k, dim) the set-points until now.
        set_point: (k, dim) absolute set-points to write, rad and m.
        executed: (k, D) float32, the actions that these set-points amount to.
        held: (k,) bool, the safety layer refused the action and held the arm.
        clipped: (k,) bool, the action's bounds or the safety layer changed the action in any entry.
    """

    before: np.ndarray
    set_point: np.ndarray
    executed: np.ndarray
    held: np.ndarray
    clipped: np.ndarray

    def on_the_way(self, ticks: int) -> Iterator[np.ndarray]:
        """The set-points (k, dim) of a driver that gets so many in a control period: on a straight line to the last."""
        for tick in range(1, ticks):
            yield self.before + tick / ticks * (self.set_point - self.before)
        yield self.set_point


class JointDeltaControl:
    """The control mode of every environment here, for n arms at once.

    Action, (D,) with D = the spec's `dim`: joint deltas in rad relative to the last set-point, within +-`MAX_DELTA`,
    and the gripper's absolute width in m. Relative to the set-point, not to the measured joints, an arm that sags or is
    pushed does not drift, and an open-loop chunk means the same motion whenever it runs.
    """

    def __init__(self, spec: RobotSpec, n: int) -> None:
        self.spec = spec
        self._limiter = SafetyLimiter(spec, n)
        self._joints = len(spec.joints)
        self._set_point = np.tile(spec.home, (n, 1))
        self.low = np.concatenate([np.full(self._joints, -MAX_DELTA), spec.lower[self._joints :]]).astype(np.float32)
        self.high = np.concatenate([np.full(self._joints, MAX_DELTA), spec.upper[self._joints :]]).astype(np.float32)

    def reset(self, ids: np.ndarray, position: np.ndarray) -> None:
        """The arms `ids` (indices) stand still at `position` (k, dim)."""
        self._set_point[ids] = position
        self._limiter.reset(position, ids)

    def apply(self, ids: np.ndarray, actions: np.ndarray) -> Applied:
        """One control step of the arms `ids` (indices) with actions (k, D); not-finite ones hold the arm."""
        before = self._set_point[ids]
        joints = self._joints
        # Not np.clip: a NaN must reach the safety layer, which holds the arm and reports it.
        bounded = np.minimum(np.maximum(actions, self.low), self.high)
        target = bounded.astype(np.float64)
        target[:, :joints] += before[:, :joints]
        limited = self._limiter.limit(target, self.spec.dt, ids)
        executed = limited.set_point.astype(np.float32)
        executed[:, :joints] = limited.set_point[:, :joints] - before[:, :joints]
        self._set_point[ids] = limited.set_point
        clipped = limited.clipped | (bounded != actions).any(-1)
        return Applied(before, limited.set_point, executed, limited.held, clipped)

    def foresee(self, arm: int, actions: np.ndarray) -> np.ndarray:
        """(dim,) where the set-points of an arm would be after `actions` (k, D), one a control step; changes none."""
        ids, limiter, before = np.array([arm]), self._limiter.save(), self._set_point.copy()
        for action in actions:
            self.apply(ids, action[None])
        self._limiter.restore(limiter)
        after, self._set_point = self._set_point[arm], before
        return after

    def set_point(self, ids: np.ndarray) -> np.ndarray:
        """(k, dim) the set-points in force."""
        return self._set_point[ids]

    def rest_action(self, ids: np.ndarray) -> np.ndarray:
        """(k, D) actions that leave the set-points where they are."""
        action = self._set_point[ids].astype(np.float32)
        action[:, : self._joints] = 0
        return action
