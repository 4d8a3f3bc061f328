"""kill -9 of an edge and of a learner: recorded = stored once + in the spool + evicted + rejected, always."""

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from robotlearn.buffer.spool import Spool
from robotlearn.buffer.store import SegmentStore
from tests.waiting import until
from tests.wire.rig import edge, learner

Key = tuple[int, int]


class Children:
    """Processes of `tests.wire.child`, all gone when the test ends."""

    def __init__(self) -> None:
        self.all: list[subprocess.Popen[str]] = []

    def start(self, kind: str, folder: Path, address: str, *numbers: int) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.wire.child", kind, str(folder), address, *map(str, numbers)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.all.append(child)
        return child


@pytest.fixture
def children() -> Iterator[Children]:
    started = Children()
    yield started
    for child in started.all:
        child.kill()
        child.communicate()


@pytest.fixture
def address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


def said(child: subprocess.Popen[str], word: str) -> None:
    assert child.stdout is not None and child.stdout.readline().strip() == word


def check_invariant(spool: Spool, store: SegmentStore) -> None:
    """Every segment that was ever recorded is in exactly one of the four places, and those stored are stored once."""
    stored = [(segment.session, segment.sequence) for _, segment in store.scan()]
    assert len(stored) == len(set(stored)) == store.stored
    counts = spool.counts()
    assert counts.recorded == counts.acknowledged + counts.evicted + counts.rejected + counts.pending
    pending = set(spool._pending)
    unanswered = set(stored) & pending  # stored, and the answer not heard yet: in two places, one of them as a copy
    assert counts.recorded == len(stored) + len(pending - unanswered) + counts.evicted + counts.rejected
    assert counts.acknowledged == len(stored) - len(unanswered)


@pytest.mark.timeout(240)
def test_an_edge_killed_while_it_sends_loses_nothing(tmp_path: Path, children: Children) -> None:
    rng = random.Random(1)
    with learner(tmp_path / "l", window_bytes=60_000) as there:
        for life in range(4):
            child = children.start("edge", tmp_path / "e", there.address, 300, 64 << 20)
            goal = there.store.stored + rng.randrange(20, 200)
            until(lambda goal=goal: there.store.stored >= goal or there.server.take_stored(0) is None, "progress")  # type: ignore[misc]
            child.kill()
            child.wait()
            there.server.take_stored(0)
            with Spool(tmp_path / "e", edge="edge-a") as spool:
                until(lambda: there.server.stats()["waiting"] >= 0, "the intake")
                counts = spool.counts()
                assert counts.recorded <= 300 * (life + 1)
        with edge(tmp_path / "e", there.address) as last:
            until(lambda: last.spool.pending == 0, "everything to be answered")
            check_invariant(last.spool, there.store)
            assert last.spool.counts().evicted == 0 and there.store.stored == last.spool.counts().acknowledged


@pytest.mark.parametrize("dies_at", [1, 2, 5])
@pytest.mark.timeout(240)
def test_a_learner_killed_between_storing_and_answering_stores_nothing_twice(
    tmp_path: Path, children: Children, address: str, dies_at: int
) -> None:
    with edge(tmp_path / "e", address) as here:
        here.record(100)
        for _ in range(2):
            child = children.start("learner", tmp_path / "l", address, dies_at)
            said(child, "bound")
            assert child.wait(60) == -9
            here.record(20)
        with SegmentStore(tmp_path / "l") as store:
            assert store.stored > here.spool.counts().acknowledged, "killed while an answer was owed"
            check_invariant(here.spool, store)
        with learner(tmp_path / "l", bind=address) as there:
            until(lambda: here.spool.pending == 0, "everything to be answered")
            check_invariant(here.spool, there.store)
            assert there.store.stored == 140 and there.server.stats()["duplicates"] > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
def test_both_killed_again_and_again_with_evictions_and_rejections(
    tmp_path: Path, children: Children, address: str, seed: int
) -> None:
    rng = random.Random(seed)
    running = {
        "edge": children.start("edge", tmp_path / "e", address, 1500),
        "learner": children.start("learner", tmp_path / "l", address, 0),
    }
    for _ in range(12):
        time.sleep(rng.uniform(0.3, 2.0))  # how long they live is what is random here; nothing waits for it
        victim = rng.choice(["edge", "learner", "both"])
        for kind in ("edge", "learner"):
            if victim in (kind, "both"):
                running[kind].kill()
                running[kind].wait()
        if victim != "edge" and rng.random() < 0.5:
            time.sleep(rng.uniform(0.3, 1.0))  # an edge without its learner evicts
        for kind in ("learner", "edge"):
            if victim in (kind, "both"):
                count = 1500 if kind == "edge" else rng.choice([0, 0, 3, 30])
                running[kind] = children.start(kind, tmp_path / kind[0], address, count)
    for child in running.values():
        child.kill()
        child.wait()
    with learner(tmp_path / "l", bind=address) as there, edge(tmp_path / "e", address) as here:
        until(lambda: here.spool.pending == 0, "everything to be answered", 120)
        check_invariant(here.spool, there.store)
        assert here.spool.counts().rejected > 0
        assert os.path.isdir(tmp_path / "e" / "quarantine")
