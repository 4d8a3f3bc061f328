"""Rotations of many arms at once."""

import numpy as np


def rotation_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """(n, 4) unit quaternions w, x, y, z to (n, 3, 3) rotation matrices."""
    w, x, y, z = quaternion.T
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
            np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
            np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
        ],
        -2,
    )


def rotation_vector(current: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation (axis times angle, base frame, (n, 3), rad) that takes (n, 3, 3) `current` to `target`."""
    delta = target @ np.swapaxes(current, -1, -2)
    skew = np.stack(
        [delta[:, 2, 1] - delta[:, 1, 2], delta[:, 0, 2] - delta[:, 2, 0], delta[:, 1, 0] - delta[:, 0, 1]], -1
    )
    sine = np.linalg.norm(skew, axis=-1) / 2
    angle = np.arctan2(sine, (np.trace(delta, axis1=-2, axis2=-1) - 1) / 2)
    return skew * (angle / np.maximum(2 * sine, 1e-9))[:, None]


def pointing_down(yaw: np.ndarray) -> np.ndarray:
    """(n, 3, 3) tool orientations that approach along -z, turned by (n,) yaw in rad about z."""
    c, s, zero, one = np.cos(yaw), np.sin(yaw), np.zeros_like(yaw), np.ones_like(yaw)
    return np.stack([np.stack([c, s, zero], -1), np.stack([s, -c, zero], -1), np.stack([zero, zero, -one], -1)], -2)


def about_z(yaw: np.ndarray) -> np.ndarray:
    """(n, 3, 3) turns by (n,) yaw in rad about z."""
    return pointing_down(yaw) * [1, -1, -1]


def poses(position: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """(n, 7) poses from (n, 3) positions in m and (n,) yaw in rad."""
    zero = np.zeros_like(yaw)
    return np.concatenate([position, np.stack([np.cos(yaw / 2), zero, zero, np.sin(yaw / 2)], -1)], -1)
