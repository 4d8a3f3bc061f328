"""Images in the messages of ROS 2 as arrays."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from hal.errors import nearest
from hal.robot import Image

_CHANNELS = {"rgb8": (3, 1), "bgr8": (3, -1), "rgba8": (4, 1), "bgra8": (4, -1), "mono8": (1, 1)}


def pixels(message: Any) -> Image:
    """A sensor_msgs/Image as (height, width, 3) RGB, a copy. Raises ValueError."""
    if message.encoding not in _CHANNELS:
        raise ValueError(f"encoding {message.encoding!r}: {nearest(message.encoding, _CHANNELS)}")
    channels, order = _CHANNELS[message.encoding]
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.frombuffer(message.data, np.uint8)
    if step < width * channels or data.size < height * step:
        raise ValueError(f"{data.size} bytes are no {width} x {height} image with {step} bytes a row")
    rows = data[: height * step].reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    if channels == 1:
        return np.repeat(rows, 3, axis=2)
    return rows[:, :, :3][:, :, ::order].copy()


def decoded(message: Any) -> Image:
    """A sensor_msgs/CompressedImage as (height, width, 3) RGB. Raises whatever Pillow does with what is no image."""
    import PIL.Image

    with PIL.Image.open(io.BytesIO(bytes(message.data)), formats=("JPEG", "PNG")) as picture:
        return np.array(picture.convert("RGB"))
