"""However many connect and say nothing, the learner goes on, and who says who it is gets in."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from robotlearn.wire import record
from robotlearn.wire.messages import Hello, Refuse, Welcome
from robotlearn.wire.sockets import Limits
from tests.waiting import until
from tests.wire.crowd import GREETING, flood, gone
from tests.wire.rig import CONTRACT, Bare, edge, learner

SAYINGS = {"nothing": b"", "half a greeting": GREETING[:20], "a greeting and no more": GREETING}


@pytest.mark.parametrize("saying", SAYINGS)
def test_a_flood_of_connections_is_bounded_and_who_works_goes_on(
    tmp_path: Path, saying: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robotlearn.wire.server._MAX_STRANGERS", 16)
    with learner(tmp_path / "learner") as rig, edge(tmp_path / "edge", rig.address) as honest:
        honest.record(5)
        until(lambda: honest.spool.counts().acknowledged == 5, "answers")
        crowd = list(flood(rig.address, 300, SAYINGS[saying]))
        until(lambda: rig.server.stats()["connections"] <= 1 + 16, "the bound")
        honest.record(5)
        with edge(tmp_path / "late", rig.address, name="late") as late:
            late.record(5)
            until(lambda: late.spool.counts().acknowledged == 5, "answers for who came during the flood")
        until(lambda: honest.spool.counts().acknowledged == 10, "answers for who was there")
        assert honest.uplink.disconnects == 0 and rig.server.stats()["strangers_ended"] >= 300 - 16
        until(lambda: sum(map(gone, crowd)) >= 300 - 17, "the crowd to be gone")
        for connection in crowd:
            connection.close()
        until(lambda: rig.server.stats()["connections"] == 1, "the honest edge alone")


def test_who_finishes_the_handshake_and_never_says_hello_is_put_out(tmp_path: Path) -> None:
    limits = Limits(heartbeat_s=0.2, dead_after_s=1.5)
    with (
        learner(tmp_path / "learner", limits=limits) as rig,
        Bare(rig.address) as known,
        Bare(rig.address, hello=False) as mute,
        Bare(rig.address, hello=False) as refused,
    ):
        refused.say(Hello(record.SCHEMA, "other", 5, "data", {"another": 1}, 0, 0))
        assert isinstance(refused.hear(), Refuse)
        monitors = [bare.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) for bare in (mute, refused)]
        while not all(monitor.poll(0) for monitor in monitors):
            known.say(Hello(record.SCHEMA, "bare", 5, "data", CONTRACT, 0, 0))
            assert isinstance(known.hear(), Welcome)
        assert rig.server.stats()["strangers_ended"] >= 2
        assert rig.server.stats()["failed_handshakes"] == 0 and rig.server.stats()["peers"] == 1


@pytest.mark.slow
def test_names_of_edges_that_are_gone_are_kept_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robotlearn.wire.reception._MAX_GONE", 2)
    limits = Limits(heartbeat_s=0.2, dead_after_s=0.5)
    with learner(tmp_path / "learner", limits=limits) as rig:
        for number in range(5):
            with Bare(rig.address, name=f"edge-{number}"):
                pass
            until(lambda: rig.server.stats()["peers"] == 0, "its death")
        with Bare(rig.address, name="one more"):
            assert [view.edge for view in rig.server.peers()] == ["edge-4", "one more"]


FEW_FILES = 160


def serve_with_few_files(folder: str) -> None:
    """A learner that may have few open files, and says what it has stored."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, FEW_FILES))
    from tests.wire.rig import Learner

    rig = Learner(Path(folder))
    print(rig.address, flush=True)
    for _ in sys.stdin:
        rig.server.check()
        stats = rig.server.stats()
        print(rig.store.stored, stats["connections"], len(os.listdir("/proc/self/fd")), flush=True)


def test_a_learner_without_open_files_left_goes_on(tmp_path: Path) -> None:
    code = f"from tests.wire.test_strangers import serve_with_few_files as serve; serve({str(tmp_path)!r})"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None

    def ask() -> list[int]:
        child.stdin.write("\n")
        child.stdin.flush()
        return list(map(int, child.stdout.readline().split()))

    try:
        address = child.stdout.readline().strip()
        with edge(tmp_path / "edge", address) as honest:
            honest.record(3)
            until(lambda: honest.spool.counts().acknowledged == 3, "answers")
            child.send_signal(19)  # SIGSTOP: all of them come at once
            crowd = []
            with contextlib.suppress(TimeoutError):
                host, _, port = address.removeprefix("tcp://").rpartition(":")
                for _ in range(2 * FEW_FILES):
                    crowd.append(socket.create_connection((host, int(port)), timeout=0.5))
            child.send_signal(18)
            crowd += flood(address, 2 * FEW_FILES)
            honest.record(20)
            until(lambda: honest.spool.counts().acknowledged == 23, "answers during the flood")
            until(lambda: ask()[1] <= FEW_FILES // 4 + 1, "the bound")
            stored, _, files = ask()
            assert stored == 23 and files < FEW_FILES
            for connection in crowd:
                connection.close()
    finally:
        child.kill()
        child.communicate()
