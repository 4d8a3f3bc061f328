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


# TheRobotStudio, so101_new_calib.urdf: origin of each joint in its parent, xyz [m] and rpy [rad]; every axis is z.
BASEFRAME = (0.020791, 0.0157608, 0.0324817)
SO101 = (
    ((0.0207909, -0.0230745, 0.0948817), (-np.pi, 0.0, np.pi / 2)),
    ((-0.0303992, -0.0182778, -0.0542), (-np.pi / 2, -np.pi / 2, 0.0)),
    ((-0.11257, -0.028, 0.0), (0.0, 0.0, np.pi / 2)),
    ((-0.1349, 0.0052, 0.0), (0.0, 0.0, -np.pi / 2)),
    ((0.0, -0.0611, 0.0181), (np.pi / 2, 0.0, np.pi)),
)


def so101(q: Array) -> Array:
    """The URDF's chain in its `baseframe`, which is turned and stands on a block of 0.1 m; then our TCP at the jaws."""
    pose = shift(0, 0, 0.1) @ turn(2, np.pi / 2) @ shift(*(-np.array(BASEFRAME)))
    for (xyz, (roll, pitch, yaw)), angle in zip(SO101, q, strict=True):
        pose = pose @ shift(*xyz) @ turn(2, yaw) @ turn(1, pitch) @ turn(0, roll) @ turn(2, angle)
    # 28 mm from where the URDF's gripperframe (x -0.0079) touches the fixed jaw; approach is -z, the jaws open along x.
    tool = np.array([[0.0, 1, 0, -0.0079 + 0.028], [1, 0, 0, 0], [0, 0, -1, -0.0981274], [0, 0, 0, 1]])
    return pose @ tool


TABLES = {"ur5e": ur5e, "so101": so101}


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
