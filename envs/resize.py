"""Pictures of a real camera at the size that a policy sees."""

import numpy as np


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`image` (H, W, 3) uint8, cut to the middle part of the shape of `size` (height, width), then scaled to it.

    Each pixel of the result is a weighted mean of those that it covers (a triangle filter), so nothing flickers. Cut
    at the sides, a picture has the field of view that MuJoCo gives a simulated camera of the same `fovy`.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    from PIL import Image

    h, w = image.shape[:2]
    wide, high = min(w, h * width / height), min(h, w * height / width)
    left, top = (w - wide) / 2, (h - high) / 2
    picture = Image.fromarray(np.ascontiguousarray(image)).resize(
        (width, height), Image.Resampling.BILINEAR, box=(left, top, left + wide, top + high)
    )
    return np.asarray(picture)


def within(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The size (height, width) at which a picture of `size` fits into `box`, as LeRobot's VLAs reckon it; a smaller one
    stays as it is.
    """
    ratio = max(size[0] / box[0], size[1] / box[1], 1.0)
    return int(size[0] / ratio), int(size[1] / ratio)


def shrunk(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The whole of `image` (H, W, 3) uint8 scaled to `size` (height, width), within 0.5 of what torch's `interpolate`
    makes of it (bilinear, corners not aligned, no antialiasing).

    That is how LeRobot's VLAs scale what they are shown; a smoother filter would show them other pictures.
    """
    if image.shape[:2] == size:
        return image
    upper, lower, down = _between(image.shape[0], size[0])
    left, right, across = _between(image.shape[1], size[1])
    rows = _mixed(image.take(upper, 0), image.take(lower, 0), down[:, None, None])
    columns = _mixed(rows.take(left, 1), rows.take(right, 1), across[:, None])
    columns += 0.5
    return columns.astype(np.uint8)


def _between(there: int, here: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `here` places the two of `there` pixels that it lies between, and how far it is from the first."""
    place = np.clip((np.arange(here) + 0.5) * (there / here) - 0.5, 0, there - 1)
    first = place.astype(np.int64)
    return first, np.minimum(first + 1, there - 1), (place - first).astype(np.float32)


def _mixed(one: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    mixed = other.astype(np.float32)
    mixed -= one
    mixed *= share
    mixed += one
    return mixed
