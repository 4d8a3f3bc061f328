"""What `observation.environment_state` tells of an object: one layout for all tasks, so that one policy can learn many.

| entries | what | unit |
|---|---|---|
| 0..2 | tool centre point, base frame | m |
| 3..5 | object minus tool, base frame | m |
| 6..8 | object minus tool, tool frame | m |
| 9..11, 12..14 | the object's x and z axes, tool frame | 1 |
| 15..17 | goal minus object, base frame; tasks with a goal only | m |
| 18..20 | goal minus object, tool frame; tasks with a goal only | m |
| from 21 | what a task adds, see its class | |

Reach knows no object: its target takes the place of 3..5, and nothing follows.
"""

import numpy as np

from envs.geometry import rotation_from_quaternion
from envs.task import SceneState


def in_tool_frame(state: SceneState, vectors: np.ndarray) -> np.ndarray:
    """(n, 3) or (n, 3, k) vectors of the base frame (columns) in the tool's frame, flattened to (n, 3 k)."""
    columns = vectors[:, :, None] if vectors.ndim == 2 else vectors
    turned = np.einsum("nji,njk->nik", state.rotation, columns)
    return turned.transpose(0, 2, 1).reshape(len(columns), -1)


def object_features(state: SceneState, pose: np.ndarray, goal: np.ndarray | None = None) -> np.ndarray:
    """The entries above: (n, 15) of an object at `pose` (n, 7), (n, 21) with its `goal` (n, 3); float32."""
    offset = pose[:, :3] - state.tcp
    axes = rotation_from_quaternion(pose[:, 3:])
    columns = np.concatenate([offset[:, :, None], axes[:, :, [0, 2]]], -1)
    parts = [state.tcp, offset, in_tool_frame(state, columns)]
    if goal is not None:
        way = goal - pose[:, :3]
        parts += [way, in_tool_frame(state, way)]
    return np.concatenate(parts, -1, dtype=np.float32)
