"""Datasets as others record them, written by LeRobot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]


def picture(number: int) -> np.ndarray:
    """(32, 48, 3), another one for each number, such as a video keeps well."""
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, :, 0] = 20 * (number % 12)
    image[8:24, 8:40, 1] = 255 - 15 * (number % 12)
    return image


def make_foreign(
    folder: Path,
    episodes: Sequence[np.ndarray],
    *,
    fps: int = 10,
    state: str = "observation.state",
    lead: np.ndarray | float = 0.0,
    camera: str | None = None,
    video: bool = True,
    **extra: Sequence[np.ndarray],
) -> Path:
    """Each episode: (T, D) states; the absolute set-point of a frame is the next frame's state plus `lead`.

    extra: further features, of each episode (T,) or (T, ...), `__` in their names stands for a dot.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    width = episodes[0].shape[1]
    vector = {"dtype": "float32", "shape": (width,), "names": JOINTS[:width]}
    features: dict[str, Any] = {state: vector, "action": vector}
    if camera is not None:
        kind = "video" if video else "image"
        features[camera] = {"dtype": kind, "shape": (32, 48, 3), "names": ["height", "width", "channels"]}
    for name, values in extra.items():
        shape = values[0].shape[1:] or (1,)
        features[name.replace("__", ".")] = {"dtype": values[0].dtype.name, "shape": shape, "names": None}
    dataset = LeRobotDataset.create(
        folder.name, fps=fps, features=features, root=folder, robot_type="so101_follower", use_videos=video,
        streaming_encoding=video and camera is not None,
    )  # fmt: skip
    for number, states in enumerate(episodes):
        for step in range(len(states)):
            following = states[min(step + 1, len(states) - 1)] + lead
            frame: dict[str, Any] = {state: states[step].astype(np.float32), "action": following.astype(np.float32)}
            for name, values in extra.items():
                one = values[number]
                frame[name.replace("__", ".")] = one[step : step + 1] if one.ndim == 1 else one[step]
            if camera is not None:
                frame[camera] = picture(100 * number + step)
            dataset.add_frame({**frame, "task": f"task {number}"})
        dataset.save_episode()
    dataset.finalize()
    return folder
