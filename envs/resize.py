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
