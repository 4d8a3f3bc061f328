"""Forward kinematics of the shipped arms against their makers' numbers; the Panda's are in test_kinematics.py."""

from __future__ import annotations

import numpy as np
import pytest

import hal
from hal.kinematics import Chain
from hal.robot import Array


def turn(axis: int, angle: float) -> Array:
    """(4, 4) rotation about x, y or z (0, 1, 2)."""
    c, s = np.cos(angle), np.sin(angle)
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    pose = np.eye(4)
    pose[i, i] = pose[j, j] = c
    pose[i, j], pose[j, i] = -s, s
    return pose


def shift(x: float, y: float, z: float) -> Array:
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


# Universal Robots, "DH Parameters for calculations of kinematics and dynamics", UR5e: a, d, alpha per joint.
UR5E = (
    (0.0, 0.1625, np.pi / 2),
    (-0.425, 0.0, 0.0),
    (-0.3922, 0.0, 0.0),
    (0.0, 0.1333, np.pi / 2),
    (0.0, 0.0997, -np.pi / 2),
    (0.0, 0.0996, 0.0),
)


def ur5e(q: Array) -> Array:
    """Standard Denavit-Hartenberg, in `base_link`; then the gripper: turned by -90 degrees, TCP at 0.15 m."""
    pose = turn(2, np.pi)
    for (a, d, alpha), theta in zip(UR5E, q, strict=True):
        pose = pose @ turn(2, theta) @ shift(a, 0, d) @ turn(0, alpha)
    return pose @ turn(2, -np.pi / 2) @ shift(0, 0, 0.15)


TABLES = {"ur5e": ur5e}


@pytest.mark.parametrize("name", TABLES)
def test_against_the_makers_numbers(name: str) -> None:
    spec = hal.load_spec(name)
    joints = len(spec.joints)
    q = np.random.default_rng(2).uniform(spec.lower[:joints], spec.upper[:joints], (100, joints))
    position, rotation = Chain(spec).forward(q)
    poses = np.array([TABLES[name](row) for row in q])
    assert position == pytest.approx(poses[:, :3, 3], abs=1e-6)
    assert rotation == pytest.approx(poses[:, :3, :3], abs=1e-5)


def test_ur5e_stretched_out() -> None:
    # All joints at zero: a2 + a3 along x, d4 + d6 along y, d1 - d5 along z.
    stretched = ur5e(np.zeros(6)) @ np.linalg.inv(turn(2, -np.pi / 2) @ shift(0, 0, 0.15))
    assert stretched[:3, 3] == pytest.approx([0.8172, 0.2329, 0.0628], abs=1e-4)
