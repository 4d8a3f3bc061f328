"""The way from the tool to a task's objects, in the words of the keys."""

from __future__ import annotations

import numpy as np
import pytest

from envs.task import SceneState
from robotlearn.people.guidance import guidance


def state(**objects: tuple[float, float, float]) -> SceneState:
    poses = {name: np.array([[*at, 1.0, 0, 0, 0]]) for name, at in objects.items()}
    return SceneState(np.zeros((1, 6)), np.array([[0.2, 0.0, 0.1]]), np.eye(3)[None], poses)


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ({"target": (0.3, 0.05, 0.02)}, "target 13.7 cm: 10.0 forth, 5.0 left, 8.0 down"),
        ({"target": (0.1, -0.05, 0.18)}, "target 13.7 cm: 10.0 back, 5.0 right, 8.0 up"),
        (
            {"puck": (0.2, 0.0, 0.0), "mark": (0.2, 0.14, 0.0)},
            "puck 10.0 cm: 0.0 forth, 0.0 left, 10.0 down; puck to mark 14.0 cm: 0.0 forth, 14.0 left, 0.0 up",
        ),
        ({}, "tool +0.200 +0.000 +0.100 m"),
    ],
)
def test_the_way(objects: dict[str, tuple[float, float, float]], said: str) -> None:
    assert guidance(state(**objects), tuple(objects)) == said
