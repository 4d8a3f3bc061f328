"""A run as a learner stores it, by a batch of simulated arms and a policy that knows nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from envs import EnvOptions
from policies.normalizer import Statistics
from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import cells_of
from robotlearn.config import load_config
from robotlearn.config.load import dump
from robotlearn.datasets.stored import Episode, StoredEpisodes
from robotlearn.edge.rollout import BatchRollout
from robotlearn.inputs import Inputs
from robotlearn.policy import build_policy
from robotlearn.wire import record
from robotlearn.wire.segment import ARRAYS, Group, Segment

STEPS = 11
"""Of an episode: its last chunk of four actions ends early."""


def make_run(path: Path, *, cameras: tuple[str, ...] = (), arms: int = 4, seed: int = 3) -> Path:
    """A run folder: of each arm one episode in several segments, and one that has not ended.

    The first two are of one group. The first is a success; in the second a person acts for two steps; in the third
    safety holds a step.
    """
    overrides = ["policy.hidden=[8]", "observations.tracking_error=true"]
    if cameras:
        overrides += [f"observations.cameras=[{','.join(cameras)}]", "observations.image_size=[32,40]"]
    config = load_config("smoke", overrides)
    inputs, (cell,) = Inputs(config), cells_of(config)
    policy = build_policy(config, inputs)
    rng = np.random.default_rng(seed)
    shapes = {**policy.features, "action": (policy.action_dim,)}
    policy.set_statistics(
        {
            key: Statistics(0.01 * rng.normal(size=shape), rng.uniform(0.01, 0.05, shape))
            for key, shape in shapes.items()
            if len(shape) == 1
        }
    )
    segments: list[Segment] = []
    options = EnvOptions(episode_steps=STEPS, tracking_error=True, cameras=cameras, image_size=(32, 40))
    rollout = BatchRollout(
        policy, inputs, cell, edge="batch", arms=arms, threads=1, segment_steps=4, seed=seed, emit=segments.extend,
        options=options,
    )  # fmt: skip
    rollout.start(arms)
    version = 0
    while rollout.running:
        rollout.advance(version)
        version += 1
    rollout.start(1)
    for _ in range(2):
        rollout.advance(version)
    rollout.close()
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(dump(config))
    names = list(dict.fromkeys(segment.episode for segment in segments))
    with SegmentStore(path / "segments") as store:
        for sequence, segment in enumerate(segments):
            store.append([record.encode(_eventful(segment, names), session=5, sequence=sequence)])
    return path


def _eventful(segment: Segment, names: list[int]) -> Segment:
    which, last = names.index(segment.episode), segment.last
    changed: dict[str, Any] = {name: getattr(segment, name).copy() for name in ARRAYS}
    if which == 0 and last:
        changed["reward"][-1] = 1.5
        changed["success"][-1], changed["terminated"][-1], changed["truncated"][-1] = True, True, False
    if which in (0, 1):
        changed["group"] = Group(2**62, which, 2)
    if which == 1 and segment.first_step == 0:
        changed["intervention"][1:3] = True
        changed["action_executed"][1:3] += np.float32(0.01)
    if which == 2 and segment.first_step == 0:
        changed["held"][2] = True
    return replace(segment, **changed)


def whole(where: Path, only: str = "all") -> list[Episode]:
    with StoredEpisodes(where) as stored:
        return [stored.read(entry) for entry in stored.entries(only=only)]  # type: ignore[arg-type]


def assert_equal(one: Episode, other: Episode, *, but: str = "") -> None:
    """All that a segment is; `but`: without the observations that begin so."""
    assert len(one.parts) == len(other.parts)
    for a, b in zip(one.parts, other.parts, strict=True):
        for name in ("edge", "session", "sequence", "robot", "embodiment", "task", "episode", "first_step"):
            assert getattr(a, name) == getattr(b, name), name
        assert a.group == b.group
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
            assert getattr(a, name).dtype == getattr(b, name).dtype
        assert a.observations.keys() == b.observations.keys()
        for key, values in a.observations.items():
            assert values.dtype == b.observations[key].dtype
            if not but or not key.startswith(but):
                np.testing.assert_array_equal(values, b.observations[key], err_msg=key)
