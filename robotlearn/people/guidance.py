"""Where the tool and a task's objects are, in words: for who demonstrates without seeing a virtual one."""

from __future__ import annotations

import itertools

import numpy as np

from envs.task import SceneState
from hal.robot import Array

_AXES = (("forth", "back"), ("left", "right"), ("up", "down"))
"""Along the base frame's x, y, z, and against them: what the motion keys are called."""


def guidance(state: SceneState, names: tuple[str, ...]) -> str:
    """From the tool to the first of these objects, from that to the next: how far and which way.

    For reach such as `target 12.3 cm: 10.0 forth, 4.2 left, 5.8 down`; of no objects where the tool is, in m.
    """
    if not names:
        return "tool " + " ".join(f"{value:+.3f}" for value in state.tcp[0]) + " m"
    parts = [_way(names[0], state.objects[names[0]][0, :3] - state.tcp[0])]
    for one, other in itertools.pairwise(names):
        parts.append(_way(f"{one} to {other}", state.objects[other][0, :3] - state.objects[one][0, :3]))
    return "; ".join(parts)


def _way(what: str, metres: Array) -> str:
    way = 100 * metres
    ahead = (f"{abs(part):.1f} {words[int(part < 0)]}" for part, words in zip(way, _AXES, strict=True))
    return f"{what} {np.linalg.norm(way):.1f} cm: {', '.join(ahead)}"
