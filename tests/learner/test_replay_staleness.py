"""What an off-policy learner says of how old its data were."""

from __future__ import annotations

import math
from pathlib import Path

from robotlearn.algorithms.registry import make_algorithm
from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import cells_of, env_options
from robotlearn.config import load_config
from robotlearn.edge.rollout import BatchRollout
from robotlearn.inputs import Inputs
from robotlearn.learner.episode_feed import episode_gate
from robotlearn.learner.normalization import wandered
from robotlearn.learner.replay_feed import ReplayFeed
from robotlearn.policy import build_policy
from robotlearn.wire import record as records
from robotlearn.wire.intake import StoredSegment
from robotlearn.wire.segment import Segment

SMALL = [
    "episode_steps=16",
    "policy.hidden=[8]", "algorithm.critic_hidden=[8]", "replay.batch_size=4", "replay.starts_after=0",
    "replay.steps_per_update=1", "replay.update_to_data=0.25",
]  # fmt: skip


def test_updates_in_which_no_episode_ends_keep_the_staleness_of_the_last_that_did(tmp_path: Path) -> None:
    config = load_config("reach-paced", SMALL)
    cells = cells_of(config)
    inputs = Inputs(config, cells)
    policy = build_policy(config, inputs)
    policy.set_statistics(wandered(config, cells, inputs))
    segments: list[Segment] = []
    rollout = BatchRollout(
        policy, inputs, cells[0], edge="arm", arms=1, threads=1, segment_steps=8, seed=0, emit=segments.extend,
        options=env_options(config),
    )  # fmt: skip
    rollout.start(1)
    while rollout.running:
        rollout.advance(version=0)
    rollout.close()
    assert [segment.steps for segment in segments] == [8, 8] and segments[1].last
    with SegmentStore(tmp_path / "store") as store:
        algorithm = make_algorithm(config.algorithm.name, policy, config.algorithm, config.seed)
        gate = episode_gate(config)
        feed = ReplayFeed(algorithm, config, cells, inputs, store, store.end, gate, None, None)  # type: ignore[arg-type]
        feed.begin(None, {})
        stored = store.append([record_of(segment, number) for number, segment in enumerate(segments)])
        told = [StoredSegment(one.position, one.header, store) for one in stored]  # type: ignore[arg-type]
        seen = []
        for version, segment in enumerate([told[:1], [], told[1:], []]):
            feed.version = version
            feed.take(segment)
            assert feed.due
            feed.update(lambda: None)
            feed.published()
            seen.append(feed.row().get("staleness_max", math.nan))
        feed.close()
    assert seen[2:] == [2, 2] and all(math.isnan(value) for value in seen[:2]), "it was made by version 0"


def record_of(segment: Segment, number: int) -> bytes:
    return bytes(records.encode(segment, session=1, sequence=number))
