"""Groups on their way into an update: whole ones only, over a resume, and nothing waits for what will not come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs import BatchArmEnv
from robotlearn.algorithms.base import OnPolicy
from robotlearn.algorithms.registry import make_algorithm
from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import cells_of, env_options
from robotlearn.config import Config, dump, load_config
from robotlearn.edge.rollout import BatchRollout
from robotlearn.inputs import Inputs
from robotlearn.learner import episode_feed
from robotlearn.learner.episode_feed import EpisodeFeed, episode_gate
from robotlearn.learner.normalization import wandered
from robotlearn.metrics import read_metrics
from robotlearn.policy import build_policy
from robotlearn.run_folder import RunFolder
from robotlearn.wire import record as records
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.intake import StoredSegment
from robotlearn.wire.segment import Segment
from tests.learner.running import Running, served

SMALL = [
    "policy.hidden=[8]", "algorithm.group=4", "algorithm.epochs=1", "episode_steps=8", "edges.0.arms=8",
    "edges.1.arms=8", "edges.1.segment_steps=4", "learner.episodes_per_update=8", "learner.max_staleness=0",
    "learner.updates=3", "learner.eval_every=null", "learner.eval_episodes=2", "learner.stop_success=null",
    "edges.1.offline_episodes=0",
]  # fmt: skip


def small(*more: str) -> Config:
    return load_config("reach-grpo", [*SMALL, *more])


@dataclass
class Made:
    """What two groups of an edge recorded, and an algorithm that can learn from it."""

    config: Config
    inputs: Inputs
    algorithm: OnPolicy
    segments: list[Segment]


@pytest.fixture(scope="module")
def made() -> Made:
    config = small()
    cells = cells_of(config)
    inputs = Inputs(config, cells)
    policy = build_policy(config, inputs)
    policy.set_statistics(wandered(config, cells, inputs))
    segments: list[Segment] = []
    rollout = BatchRollout(
        policy, inputs, cells[0], edge="left", arms=8, threads=1, segment_steps=4, seed=0, emit=segments.extend,
        options=env_options(config), group=4,
    )  # fmt: skip
    rollout.start(8)
    while rollout.running:
        rollout.advance(version=0)
    rollout.close()
    assert [segment.last for segment in segments] == [False] * 8 + [True] * 8
    algorithm = make_algorithm(config.algorithm.name, policy, config.algorithm, config.seed)
    assert isinstance(algorithm, OnPolicy)
    return Made(config, inputs, algorithm, segments)


@dataclass
class Fed:
    feed: EpisodeFeed
    gate: StalenessGate
    store: SegmentStore
    numbers: int = 0

    def give(self, *segments: Segment) -> None:
        """They are stored as the intake does it, and taken."""
        first, self.numbers = self.numbers, self.numbers + len(segments)
        outcomes = self.store.append(
            [records.encode(one, session=1, sequence=first + i) for i, one in enumerate(segments)]
        )
        self.gate.accepted(sum(one.last for one in segments))
        self.gate.ended("left", 1, sum(one.last for one in segments))
        self.feed.take([StoredSegment(one.position, one.header, self.store) for one in outcomes])  # type: ignore[arg-type]


def fed(made: Made, store: SegmentStore, facts: Mapping[str, Any] | None = None) -> Fed:
    gate = episode_gate(made.config)
    feed = EpisodeFeed(
        made.algorithm, made.config.learner, made.inputs, store, store.end, gate, lambda segment, completed: None
    )
    feed.version = 0
    feed.begin(facts, {})
    return Fed(feed, gate, store, store.stored)


@pytest.fixture
def store(tmp_path: Path) -> SegmentStore:
    return SegmentStore(tmp_path / "store")


def test_a_half_assembled_group_is_there_again_after_a_resume(made: Made, store: SegmentStore) -> None:
    first = fed(made, store)
    first.gate.running("left", 1, 8)
    first.give(*made.segments[:14])
    assert not first.feed.due and first.gate.pending == 6
    assert first.feed.waits_for == "episodes: 4 of 8, 2 in groups that are not complete"
    facts = first.feed.facts()
    first.give(made.segments[14])  # stored after the checkpoint

    second = fed(made, store, facts)
    assert second.gate.pending == 7
    second.feed.take(())
    assert second.feed.waits_for == "episodes: 4 of 8, 3 in groups that are not complete", "its edge may be dialling"
    second.gate.running("left", 1, 1)
    second.give(made.segments[15])
    assert second.feed.due
    updated = second.feed.update(lambda: None)
    assert updated is not None
    metrics, finished = updated
    assert metrics["groups"] == 2 and len(finished) == 8
    second.feed.published()
    assert second.gate.pending == second.gate.outstanding == 0


def test_a_group_that_lacks_an_episode_is_given_up_only_when_its_edge_runs_nothing(
    made: Made, store: SegmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode_feed, "QUIET_S", 0.0)
    here = fed(made, store)
    here.gate.running("left", 1, 8)
    here.gate.want("left", 1, 8)
    here.give(*made.segments[:15])
    here.feed.take(())
    assert here.gate.pending == 7 and here.feed.counts()["groups_incomplete"] == 0
    assert here.gate.poll(0) == [], "the last of the group may still run"
    here.gate.ended("left", 1, 1)  # it has failed; only now nothing can come
    assert here.gate.poll(0) == [], "no room for a group"
    here.feed.take(())
    assert here.gate.pending == 4
    assert here.feed.counts()["groups_incomplete"] == 1 and here.feed.counts()["episodes_incomplete"] == 3
    assert [grant.episodes for grant in here.gate.poll(0)] == [4]


def test_groups_of_an_edge_that_is_away_wait_longer(
    made: Made, store: SegmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode_feed, "QUIET_S", 0.0)
    here = fed(made, store)
    here.gate.running("left", 1, 8)
    here.give(*made.segments[:15])
    here.gate.freed("left")
    here.feed.take(())
    assert here.gate.pending == 7, "it may come back"
    monkeypatch.setattr(episode_feed, "AWAY_S", 0.0)
    here.feed.take(())
    assert here.gate.pending == 4


def test_a_whole_run_by_groups_in_which_one_episode_fails(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks share the arms by groups; a simulation diverges in the first group, and the run goes on to its end."""
    monkeypatch.setattr(episode_feed, "QUIET_S", 0.2)
    diverged, done = BatchArmEnv._diverged, []

    def once(self: BatchArmEnv) -> np.ndarray:
        found = diverged(self)
        if not done and self.running[1] and self.num_envs == 8:
            found[1] = True
            done.append(True)
        return found

    monkeypatch.setattr(BatchArmEnv, "_diverged", once)
    config = small("task=[reach,push]", "observations.instruction=true", "edges.1.arms=16", "edges.0.arms=16")
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    served(running, config, folder)
    assert "end: version 3" in running.end()
    assert done

    rows = [row for row in read_metrics(folder.metrics) if "updates" in row]
    assert [row["groups"] for row in rows] == [2, 2, 2]
    assert rows[-1]["groups_incomplete"] == 1 and rows[-1]["episodes_incomplete"] == 3
    assert all(row["staleness_max"] == 0 for row in rows)
    with SegmentStore(folder.segments) as store:
        headers = [header for _, header in store.scan_headers() if header.last]
    members = Counter(header.group.id for header in headers if header.group is not None)
    assert sum(members.values()) == len(headers)
    assert set(members.values()) >= {3, 4} and max(members.values()) == 4  # the last may have been cut short by the end
    by_group: dict[int, set[str]] = {}
    for header in headers:
        assert header.group is not None
        by_group.setdefault(header.group.id, set()).add(header.task)
    assert all(len(words) == 1 for words in by_group.values())
