"""`Mapping`: from a person's intent to an action of the environments: joint deltas and a gripper width."""

from __future__ import annotations

import numpy as np

from hal.kinematics import Chain
from hal.robot import Array
from hal.spec import RobotSpec
from robotlearn.people.intent import Intent

SPEED = 0.25
"""Share of the spec's speeds that a person's actions have by default."""
CREEP = 0.1
"""Likewise while a follower goes to where its leader is."""
_NEAR_M, _NEAR_RAD = 0.04, 0.2  # singular values [m/rad, rad/rad] below which a direction is let go of
_CAUGHT = 0.05  # [rad] within which the follower is where its leader is


class Mapping:
    """Used by one thread. `action` is never faster than `speed` times the spec's velocities, from where the set-points
    are: a person can't make an arm jump. (The safety layer has the last word on position, acceleration, workspace.)

    A velocity of the tool becomes one of the joints by damped least squares (Nakamura and Hanafusa, 1986), the position
    first and the orientation by what freedom that leaves (task priority: Nakamura et al., 1987): an arm of five joints
    goes where it is sent and turns as well as it can. A joint that would be too fast slows all of them down.

    A leader's joints are followed one by one; after `engage` the follower first creeps to them, on a straight line in
    joint space at `CREEP`, until it is there.

    speed: 0 to 1. Raises ValueError.
    """

    def __init__(self, spec: RobotSpec, speed: float = SPEED) -> None:
        if not 0 < speed <= 1:
            raise ValueError(f"speed is {speed}: it is a share of the robot's own, more than 0 and at most 1")
        self.spec, self.speed = spec, speed
        self.chain = Chain(spec)
        self._joints = len(spec.joints)
        self._lower, self._upper = spec.lower[: self._joints], spec.upper[: self._joints]
        self._step = speed * spec.velocity * spec.dt
        self._creep = min(CREEP, speed) * spec.velocity * spec.dt
        self.creeping = True
        """Whether the follower hasn't reached its leader yet."""

    def engage(self) -> None:
        """A person takes over: a follower creeps again."""
        self.creeping = True

    def rest(self, set_point: Array) -> Array:
        """(D,) the action that leaves the set-points (dim,) where they are."""
        action: Array = set_point.copy()
        action[: self._joints] = 0.0
        return action

    def action(self, intent: Intent, set_point: Array) -> Array:
        """(D,) for the next control period; set_point: (dim,) that in force [rad, m]."""
        if intent.target is not None:
            delta = self._follow(intent.target, set_point)
        else:
            delta = np.zeros(self.spec.dim)
            if any(intent.linear) or any(intent.angular):
                delta[: self._joints] = self._tool(intent, set_point)
            if self.spec.gripper is not None:
                delta[-1] = intent.grip * self._step[-1]
        action = self.rest(set_point) + delta
        if self.spec.gripper is not None:
            action[-1] = np.clip(action[-1], self.spec.lower[-1], self.spec.upper[-1])
        return action

    def _tool(self, intent: Intent, set_point: Array) -> Array:
        way = self.speed * self.spec.dt
        linear, angular = np.array(intent.linear) * way, np.array(intent.angular) * way
        here = set_point[: self._joints]
        jacobian = self.chain.jacobian(here[None])[0]
        free = np.ones(self._joints)
        while free.any():
            delta = free * _prioritised(jacobian * free, linear, angular)
            delta /= max(1.0, float((np.abs(delta) / self._step[: self._joints]).max()))
            over = (here + delta > self._upper) & (delta > 0) | (here + delta < self._lower) & (delta < 0)
            if not over.any():
                return delta
            free[over] = 0.0  # a joint at its end: the others do it, as far as they can
        return free

    def _follow(self, target: Array, set_point: Array) -> Array:
        gap = target - set_point
        if not np.isfinite(gap).all():
            return np.zeros(self.spec.dim)
        # A leader's range may be wider than its follower's: that part of the gap never closes.
        reachable = np.clip(target, self.spec.lower, self.spec.upper) - set_point
        if self.creeping and np.abs(reachable[: self._joints]).max() < _CAUGHT:
            self.creeping = False
        if self.creeping:
            return gap / max(1.0, float((np.abs(gap) / self._creep).max()))
        return np.clip(gap, -self._step, self._step)


def _prioritised(jacobian: Array, linear: Array, angular: Array) -> Array:
    """(J,) joint deltas: the tool's shift as the first task, its turn by what freedom that leaves."""
    along, around = jacobian[:3], jacobian[3:]
    inverse = _inverse(along, _NEAR_M)
    delta = inverse @ linear
    free = around @ (np.eye(len(delta)) - inverse @ along)
    result: Array = delta + _inverse(free, _NEAR_RAD) @ (angular - around @ delta)
    return result


def _inverse(jacobian: Array, near: float) -> Array:
    """(J, 3) the inverse of (3, J) by singular values s: 1 / s, and s / near^2 where s is below `near`: damped by
    near^2 - s^2, so that it is exact away from a singularity and falls to 0 in one.
    """
    u, s, v = np.linalg.svd(jacobian, full_matrices=False)
    result: Array = (v.T * (s / np.maximum(s**2, near**2))) @ u.T
    return result
