"""How many episodes an edge may start: grants while there is a learner, an allowance while there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robotlearn.buffer.spool import Spool, SpoolFull
from robotlearn.edge.gatekeeper import Gatekeeper
from robotlearn.edge.recorder import Origin, Recorder, Sizes
from robotlearn.wire.segment import Segment
from robotlearn.wire.uplink import Uplink
from tests.edge.conftest import LearnersEnd
from tests.waiting import until

CONTRACT = {"task": "reach"}
SIZES = Sizes({"observation.state": ((2,), np.dtype(np.float32))}, 1, 1, 1, 1)


class Edge:
    def __init__(self, path: Path, address: str, offline_episodes: int = 3) -> None:
        self.spool = Spool(path, edge="edge")
        self.uplink = Uplink(address, self.spool, edge="edge", contract=CONTRACT)
        self.gate = Gatekeeper(self.uplink, self.spool, offline_episodes)
        self.uplink.start()

    def finish(self, segments: int = 1) -> None:
        for _ in range(segments):
            self.gate.record([one_step_episode()])

    def close(self) -> None:
        self.uplink.close()
        self.spool.close()


def one_step_episode() -> Segment:
    made: list[Segment] = []
    recorder = Recorder(1, Origin("edge", "edge/arm", "panda"), SIZES, 1, made.extend)
    ids = np.zeros(1, np.int64)
    recorder.begin(ids, {"observation.state": np.zeros((1, 2), np.float32)}, ["reach"])
    no = np.zeros(1, bool)
    recorder.step(
        ids, {"observation.state": np.zeros((1, 2), np.float32)}, proposed=np.zeros((1, 1)), executed=np.zeros((1, 1)),
        from_chunk=no, monotonic=0.0, wall=0.0, intervention=no, held=no, reward=np.zeros(1), terminated=~no,
        truncated=no, success=no,
    )  # fmt: skip
    return made[0]


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    edge = Edge(tmp_path / "spool", "tcp://127.0.0.1:1")  # nobody listens there
    yield edge
    edge.close()


def test_without_weights_nothing_starts(edge: Edge) -> None:
    assert edge.gate.may_start(5, -1) == 0
    assert edge.gate.waits_for(-1).startswith("learner tcp://127.0.0.1:1 (connecting, last seen never")


def test_cut_off_the_allowance_is_used_up_and_no_more_starts(edge: Edge) -> None:
    assert edge.gate.may_start(2, 0) == 2
    assert edge.gate.may_start(2, 0) == 1
    assert edge.gate.may_start(2, 0) == 0
    assert edge.uplink.running == 3


def test_connected_only_grants_count_and_the_allowance_is_new_afterwards(tmp_path: Path) -> None:
    end = LearnersEnd(tmp_path / "learner", CONTRACT, bound=5)
    edge = Edge(tmp_path / "spool", end.address, offline_episodes=2)
    until(lambda: edge.uplink.state == "connected", "the connection")
    started = 0

    def start() -> bool:
        nonlocal started
        started += edge.gate.may_start(8 - started, 0)
        return started >= 5

    until(start, "five grants, which is what the gate has room for")
    assert started == 5
    assert edge.gate.may_start(3, 0) == 0, "the gate is full"
    assert edge.gate.waits_for(0) == "the learner's gate (max_staleness)"
    edge.finish(5)
    until(lambda: end.store.stored == 5, "the learner to store five segments")
    end.gate.consumed(2)
    more = 0

    def start_more() -> bool:
        nonlocal more
        more += edge.gate.may_start(8 - more, 0)
        return more >= 2

    until(start_more, "two more grants")
    assert more == 2
    end.close()
    until(lambda: edge.uplink.state != "connected", "the loss of the learner to be seen")
    assert [edge.gate.may_start(6, 0) for _ in range(2)] == [2, 0]
    edge.close()


def test_what_is_recorded_is_told_per_robot_encoded_and_not(edge: Edge) -> None:
    assert edge.gate.traffic.rates(4) == {"robot_bytes": 0.0, "robot_array_bytes": 0.0}
    edge.finish(3)
    one, four = edge.gate.traffic.rates(1), edge.gate.traffic.rates(4)
    assert edge.spool.recorded_bytes > 3 * one_step_episode().nbytes > 0, "a record has a header too"
    assert one["robot_bytes"] > one["robot_array_bytes"] > 3.9 * four["robot_array_bytes"] > 0


def test_a_grant_waits_for_the_version_it_needs(tmp_path: Path) -> None:
    end = LearnersEnd(tmp_path / "learner", CONTRACT)
    end.publisher.publish(5, {"w": np.zeros(1, np.float32)})
    edge = Edge(tmp_path / "spool", end.address)
    until(lambda: edge.gate.may_start(4, 4) == 0 and edge.gate.needs == 5, "grants that need version 5")
    assert edge.gate.waits_for(4) == "weights of version 5"
    until(lambda: edge.gate.may_start(4, 5) == 4, "the four grants, now that the version is there")
    edge.close()
    end.close()


def test_the_learner_of_another_run_counts_its_versions_from_zero(tmp_path: Path) -> None:
    end = LearnersEnd(tmp_path / "first", CONTRACT)
    end.publisher.publish(57, {"w": np.zeros(1, np.float32)})
    edge = Edge(tmp_path / "spool", end.address, offline_episodes=0)
    until(lambda: edge.gate.may_start(1, 57) == 1, "a grant of the first run")
    edge.finish()
    end.close()
    until(lambda: edge.uplink.state != "connected", "the loss of the learner to be seen")
    other = LearnersEnd(tmp_path / "second", CONTRACT, bind=end.address)
    other.publisher.publish(0, {"w": np.zeros(1, np.float32)})
    until(lambda: edge.gate.may_start(1, 0) == 1, "a grant of the second run, with its version 0")
    edge.close()
    other.close()


def test_a_segment_without_room_is_counted_and_its_episode_given_up(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert edge.gate.may_start(2, 0) == 2
    edge.finish()
    assert edge.uplink.running == 1

    def full(segments: list[Segment]) -> list[int]:
        edge.spool.full = "no room"
        raise SpoolFull("no room")

    assert not edge.gate.state
    with monkeypatch.context() as patched:
        patched.setattr(edge.spool, "record_many", full)
        edge.finish()
    assert edge.gate.state == "NOT RECORDING (no room); "
    assert edge.uplink.running == 0, "the learner must not wait for it"
    edge.finish()
    assert not edge.gate.state
