"""Segments from an edge's spool into the learner's store, over real sockets, once each, whatever happens between."""

import contextlib
import errno
import logging
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from robotlearn.buffer.store import SegmentStore
from robotlearn.errors import AddressError, ContractError
from robotlearn.wire import intake, messages, record
from robotlearn.wire.messages import Ack, Grant, Hello, Refuse, Status, Want, Welcome
from robotlearn.wire.sockets import Limits
from tests.buffer.faults import FullFiles
from tests.waiting import until
from tests.wire.make import make_segment
from tests.wire.proxy import Proxy, Spoiler
from tests.wire.rig import CONTRACT, Bare, Edge, Learner, edge, learner


def data(sequence: int, session: int = 5, **fields: Any) -> bytearray:
    return record.encode(make_segment(**({"edge": "bare"} | fields)), session=session, sequence=sequence)


def settled(rig: Edge, count: int) -> None:
    until(lambda: rig.spool.counts().acknowledged == count, f"{count} acknowledgements")


def test_what_is_recorded_is_stored_and_settled_and_handed_to_the_training_loop(tmp_path: Path) -> None:
    with learner(tmp_path / "l") as there, edge(tmp_path / "e", there.address, sync="power") as here:
        here.record(50, image=8)
        settled(here, 50)
        assert there.sequences() == list(range(50))
        taken = there.server.take_stored(1)
        assert [stored.segment.sequence for stored in taken] == list(range(50))
        np.testing.assert_array_equal(taken[3].segment.chunk_path, make_segment(image=8).chunk_path)
        assert there.store.read(taken[3].position).sequence == 3
        assert there.server.take_stored(0) == [] and here.balanced()


def test_an_edge_may_come_before_its_learner_and_its_data_wait(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with edge(tmp_path / "e", address) as here:
        here.record(10)
        assert here.uplink.state == "connecting" and here.spool.pending == 10
        with learner(tmp_path / "l", bind=address):
            settled(here, 10)


def test_what_an_edge_began_while_it_waited_is_counted_when_its_learner_comes(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with edge(tmp_path / "e", address) as here:
        until(lambda: here.uplink._monitor is not None, "it to dial")
        here.uplink.episode_started(3)
        with learner(tmp_path / "l", bind=address) as there:
            until(lambda: here.uplink.state == "connected", "the connection")
            assert there.gate.running_at("edge-a") == 3


def test_what_waits_says_for_whom(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with edge(tmp_path / "e", "tcp://127.0.0.1:9") as here:
        with caplog.at_level(logging.WARNING, "robotlearn.wire"):
            until(lambda: caplog.records, "a line after five seconds")
        assert "tcp://127.0.0.1:9" in caplog.text and "last seen never" in caplog.text
        assert here.uplink.seen == "never"


def test_a_cut_connection_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with learner(tmp_path / "l") as there, Proxy(there.address) as proxy, edge(tmp_path / "e", proxy.address) as here:
        for round_ in range(1, 6):
            here.record(100)
            until(lambda n=round_: there.store.stored > 100 * n - 60, "half of the round to arrive")  # type: ignore[misc]
            proxy.reset()
        settled(here, 500)
        assert there.sequences() == sorted(there.sequences()) == list(range(500))
        assert here.uplink.connections > 1 and here.balanced()


def test_a_half_open_link_is_noticed_and_the_edge_is_not_mute_behind_it(tmp_path: Path) -> None:
    limits = Limits(heartbeat_s=0.2, dead_after_s=2.0)
    with (
        learner(tmp_path / "l") as there,
        Proxy(there.address) as proxy,
        edge(tmp_path / "e", proxy.address, limits=limits) as here,
    ):
        here.record(5)
        settled(here, 5)
        proxy.paused = True  # nothing is refused, nothing comes through
        here.record(5)
        until(lambda: here.uplink.state == "connecting", "the edge to notice")
        proxy.reset()
        proxy.paused = False
        settled(here, 10)


def test_a_stalled_learner_makes_the_spool_grow_and_the_recorder_never_waits(tmp_path: Path) -> None:
    with learner(tmp_path / "l", max_waiting=10, window_bytes=20_000) as there:
        with edge(tmp_path / "e", there.address) as here:
            here.record(600)  # nobody takes what is stored
            until(lambda: there.server.stats()["waiting"] > 0, "the intake to fill up")
            here.record(200)
            assert here.spool.pending > 700 and here.uplink.state == "connected"
            taken: list[int] = []
            until(
                lambda: taken.extend(s.header.sequence for s in there.server.take_stored(0)) or len(taken) == 800, "all"
            )
            settled(here, 800)
        assert taken == list(range(800))


def test_a_restarted_learner_is_sent_again_what_it_did_not_answer(tmp_path: Path) -> None:
    first = Learner(tmp_path / "l")
    with Proxy(first.address) as proxy, edge(tmp_path / "e", proxy.address) as here:
        here.record(30)
        settled(here, 30)
        first.close()
        proxy.reset()
        here.record(30)
        with learner(tmp_path / "l") as second:
            proxy.target = second.address
            settled(here, 60)
            assert second.sequences() == list(range(60)) and second.store.stored == 60


def test_a_restarted_edge_goes_on_under_its_name(tmp_path: Path) -> None:
    with learner(tmp_path / "l") as there, Proxy(there.address) as proxy:
        with edge(tmp_path / "e", proxy.address) as before:
            before.record(10)
            settled(before, 10)
            proxy.paused = True  # it dies, and the learner doesn't hear of it
            before.record(5)
        with edge(tmp_path / "e", there.address) as after:
            after.record(5)
            settled(after, 20)
            assert after.uplink.state == "connected"
            [view] = there.server.peers()
            assert (view.edge, view.session, view.connected) == ("edge-a", after.spool.session, True)


def test_two_live_edges_of_one_name_the_newer_takes_over_and_the_older_is_told(tmp_path: Path) -> None:
    with learner(tmp_path / "l") as there, edge(tmp_path / "a", there.address) as older:
        until(lambda: older.uplink.state == "connected", "the first")
        with edge(tmp_path / "b", there.address) as newer:
            until(lambda: older.uplink.state == "superseded", "the older to be told")
            with pytest.raises(ContractError, match="took over the name 'edge-a'"):
                older.uplink.check()
            newer.record(3)
            settled(newer, 3)
            assert newer.uplink.state == "connected"


@pytest.mark.parametrize(
    ("contract", "said"),
    [
        ({**CONTRACT, "policy.hidden": "32x32"}, "policy.hidden: the learner has '64x64', the edge has '32x32'"),
        ({**CONTRACT, "more": 1}, "more: the learner has nothing, the edge has 1"),
        ({k: v for k, v in CONTRACT.items() if "gamma" not in k}, "algorithm.gamma: .*the edge has nothing"),
    ],
)
def test_another_contract_is_refused_naming_the_key(tmp_path: Path, contract: dict[str, Any], said: str) -> None:
    with learner(tmp_path / "l") as there, edge(tmp_path / "e", there.address, contract=contract) as here:
        here.record(1)
        until(lambda: here.uplink.state == "refused", "the refusal")
        with pytest.raises(ContractError, match=said):
            here.uplink.check()
        assert there.store.stored == 0 and here.spool.pending == 1


def test_another_schema_is_refused(tmp_path: Path) -> None:
    with learner(tmp_path / "l") as there, Bare(there.address, hello=False) as bare:
        bare.say(Hello(99, "bare", 1, "data", CONTRACT, 0, 0))
        refusal = bare.hear()
        assert isinstance(refusal, Refuse) and refusal.key == "schema"


def test_duplicates_are_answered_and_dropped_and_order_does_not_matter(tmp_path: Path) -> None:
    with learner(tmp_path / "l") as there, Bare(there.address) as bare:
        for sequence in (3, 0, 3, 2, 1, 0, 3):
            bare.send(data(sequence))
        answered = 0
        while answered < 7:
            ack = bare.hear()
            assert isinstance(ack, Ack)
            answered += sum(count for _, _, count in ack.ranges)
        assert there.sequences() == [3, 0, 2, 1]
        assert there.server.stats()["duplicates"] == 3


def test_what_can_never_be_stored_goes_to_the_edges_quarantine(tmp_path: Path) -> None:
    with learner(tmp_path / "l") as there, edge(tmp_path / "e", there.address) as here:
        here.record(2)
        here.record(1, reward=np.full(6, np.nan, np.float32))
        here.record(2)
        settled(here, 4)
        until(lambda: here.spool.counts().rejected == 1, "the rejection")
        [kept] = (tmp_path / "e" / "quarantine").glob("*.json")
        assert "reward holds a number that is not finite" in kept.read_text()
        assert there.sequences() == [0, 1, 3, 4] and here.balanced()


def test_a_record_beyond_the_learners_limit_is_rejected_on_the_edges_own_side(tmp_path: Path) -> None:
    with learner(tmp_path / "l", max_frame_bytes=20_000) as there, edge(tmp_path / "e", there.address) as here:
        here.record(1)
        here.record(1, image=64)
        here.record(1)
        settled(here, 2)
        assert here.spool.counts().rejected == 1 and here.uplink.too_large == 1
        assert here.uplink.connections == 1 and there.sequences() == [0, 2]


def test_what_was_rejected_is_stored_once_when_its_cause_is_mended(tmp_path: Path) -> None:
    with learner(tmp_path / "l", max_frame_bytes=20_000) as there, edge(tmp_path / "e", there.address) as here:
        here.record(1)
        here.record(1, image=64)
        here.record(1)
        until(lambda: here.spool.counts().rejected == 1 and not here.spool.pending, "the rejection")
        until(lambda: there.store._seen_of("edge-a", here.spool.session).floor == 1, "the floor, with the hole")
        session = here.spool.session
    with learner(tmp_path / "l") as there, edge(tmp_path / "e", there.address) as here:
        here.spool.retry(session, 1)
        settled(here, 3)
        assert here.balanced() and here.spool.counts().rejected == 0
        assert sorted(there.sequences()) == [0, 1, 2] and there.server.stats()["duplicates"] == 0


def test_an_edge_sends_no_faster_than_it_may(tmp_path: Path) -> None:
    with learner(tmp_path / "l") as there, edge(tmp_path / "e", there.address, max_bytes_per_s=1e-3) as here:
        here.record(5)
        settled(here, 1)
        until(lambda: there.server.peers()[0].counts.get("pending") == 4, "the edge to say so")
        assert here.uplink.stats()["sent"] == 1, "the first one overdraws what it may for days"


def test_an_oversize_frame_costs_its_sender_the_connection_and_nobody_else(tmp_path: Path) -> None:
    with learner(tmp_path / "l", max_frame_bytes=20_000) as there, edge(tmp_path / "e", there.address) as here:
        with Bare(there.address) as bare:
            bare.send(bytes(30_000))
            until(lambda: there.server.stats()["disconnects"] > 0, "the disconnect")
        here.record(20)
        settled(here, 20)


GARBAGE = {
    "nothing": [b""],
    "text": [b"GET / HTTP/1.1\r\n\r\n"],
    "several-parts": [b"one", b"two", b"three"],
    "message-cut-off": [messages.encode(Want(1, 1))[:-3]],
    "message-of-the-other-side": [messages.encode(Grant(1, 1))],
    "weights-message": [messages.encode(messages.Pull(1, 1, None, False, 0, 1))],
    "record-in-parts": [bytes(data(0)[:200]), bytes(data(0)[200:])],
    "unknown-type": [messages.MAGIC + struct.pack("<BBHI", 99, 0, 1, 0)],
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_counted_said_once_and_dropped_while_honest_traffic_goes_on(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    with learner(tmp_path / "l") as there, edge(tmp_path / "e", there.address) as here, Bare(there.address) as bare:
        for _ in range(5):
            bare.send(*GARBAGE[case])
            here.record(4)
        settled(here, 20)
        until(lambda: there.server.stats()["bad_frames"] == 5, "the count")
        assert {view.edge: view.bad_frames for view in there.server.peers()} == {"bare": 5, "edge-a": 0}
        assert caplog.text.count("a frame of edge bare") == 1
        bare.send(data(0))  # and the peer itself may mend its ways
        assert isinstance(bare.hear(), Ack)


def test_a_record_damaged_on_the_way_is_sent_again(tmp_path: Path) -> None:
    """The learner can't answer for what it can't trust; that later ones are answered first tells the edge."""
    with learner(tmp_path / "l") as there, Bare(there.address) as bare:
        damaged = data(1)
        damaged[500] ^= 1
        for frame in (data(0), damaged, data(2)):
            bare.send(frame)
        ranges: list[tuple[int, int, int]] = []
        while sum(count for _, _, count in ranges) < 2:
            ack = bare.hear()
            assert isinstance(ack, Ack)
            ranges += ack.ranges
        assert ranges == [(5, 0, 1), (5, 2, 1)] and there.server.stats()["damaged"] == 1


def test_an_edge_sends_again_what_is_passed_over_in_the_answers(tmp_path: Path) -> None:
    context: zmq.Context[Any] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    try:
        with edge(tmp_path / "e", f"tcp://127.0.0.1:{port}") as here:
            here.record(3)
            identity, _ = router.recv_multipart()
            router.send_multipart([identity, messages.encode(Welcome("r", 1, 1 << 20, 1 << 20, -1))])
            session = here.spool.session

            def next_record() -> int:
                while True:
                    assert router.poll(20_000)
                    frame = router.recv_multipart()[1]
                    if messages.kind_of(frame) == "record":
                        return record.peek(frame).sequence

            assert [next_record() for _ in range(3)] == [0, 1, 2]
            router.send_multipart([identity, messages.encode(Ack([(session, 0, 1), (session, 2, 1)]))])
            assert next_record() == 1
            router.send_multipart([identity, messages.encode(Ack([(session, 1, 1)]))])
            settled(here, 3)
            assert here.uplink.resent == 1
    finally:
        context.destroy(linger=0)


def test_what_is_sent_beyond_the_window_is_dropped_and_counted(tmp_path: Path) -> None:
    with (
        learner(tmp_path / "l", max_waiting=1, window_bytes=4000, max_frame_bytes=20_000) as there,
        Bare(there.address) as bare,
    ):
        for sequence in range(100):
            bare.send(data(sequence))
        until(lambda: there.server.stats()["over_window"] > 50, "the window's bound")


def test_all_edges_together_are_bounded_over_all_connections_and_nobody_starves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(data(0))
    with learner(tmp_path / "l", max_frame_bytes=20_000) as there, contextlib.ExitStack() as stack:
        server = there.server
        server._max_inbox_bytes = 6 * size
        monkeypatch.setattr(server._intake, "put", lambda arrivals: None)  # nothing is ever answered
        for number in range(10):  # connections of one edge
            with Bare(there.address, session=number) as bare:
                for sequence in range(5):
                    bare.send(data(sequence))
                told = 5 * (number + 1)
                until(lambda told=told: server._inbox_bytes // size + server.counters["over_window"] == told, "records")  # type: ignore[misc]
        assert server._inbox_bytes == 6 * size
        others = [stack.enter_context(Bare(there.address, name=f"edge-{number}")) for number in range(2)]
        for bare in others:
            for sequence in range(5):
                bare.send(data(sequence, edge=bare.edge))
        until(lambda: server._inbox_bytes // size + server.counters["over_window"] == 60, "records of the others")
        assert server._inbox_bytes == (6 + 2 * 2) * size, "each its share"


def test_an_honest_edge_never_sends_beyond_the_window(tmp_path: Path) -> None:
    with (
        learner(tmp_path / "l", window_bytes=10_000, max_frame_bytes=20_000) as there,
        edge(tmp_path / "e", there.address) as here,
    ):
        here.record(200)
        settled(here, 200)
        assert there.server.stats()["over_window"] == 0 and here.uplink.resent == 0


def test_a_learner_with_a_full_disk_answers_when_it_has_space_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = FullFiles()
    with learner(tmp_path / "l", files=files) as there, edge(tmp_path / "e", there.address) as here:
        files.room = 1000
        here.record(5)
        until(lambda: "can't store segments" in caplog.text, "the learner to say so")
        assert here.spool.pending == 5 and os.strerror(errno.ENOSPC) in there.server.disk_full
        files.room = 1 << 40
        settled(here, 5)
        assert not there.server.disk_full and caplog.text.count("can't store segments") == 1
        assert there.sequences() == list(range(5))


def test_a_training_loop_that_asks_does_not_make_a_full_disk_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []
    original = SegmentStore.append

    def count(self: SegmentStore, batch: Any, edges: Any = None) -> Any:
        tries.append(len(batch))
        return original(self, batch, edges)

    monkeypatch.setattr(SegmentStore, "append", count)
    monkeypatch.setattr(intake, "_RETRY_S", 3600.0)
    files = FullFiles()
    with learner(tmp_path / "l", files=files) as there, edge(tmp_path / "e", there.address) as here:
        files.room = 0
        here.record(1)
        until(lambda: there.server.disk_full, "the disk to be found full")
        for _ in range(20):
            there.server.take_stored(0.01)
        assert tries == [1]


def test_an_edge_that_sends_little_does_not_wait_for_those_that_send_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_BATCH_BYTES", 20_000)
    with learner(tmp_path / "l") as there, contextlib.ExitStack() as stack:
        many = [stack.enter_context(Bare(there.address, name=f"much-{n}")) for n in range(2)]
        few = stack.enter_context(Bare(there.address, name="little"))
        with there.store._lock:  # nothing is stored before all have come
            for bare in many:
                for sequence in range(100):
                    bare.send(data(sequence, edge=bare.edge))
            until(lambda: there.server._inbox_bytes >= 200 * len(data(0)), "what the two have sent")
            few.send(data(0, edge="little"))
            until(lambda: there.server._inbox_bytes > 200 * len(data(0)), "what the third has sent")
        until(lambda: there.server.stats()["stored"] == 201, "all of it")
        order = [(segment.edge, segment.sequence) for _, segment in there.store.scan()]
        first = order.index(("little", 0))
        # The batch that was held up, and one that the three share.
        assert first <= 2 * (20_000 // len(data(0)) + 3)
        for bare in many:
            assert [sequence for edge, sequence in order if edge == bare.edge] == list(range(100))


@pytest.mark.slow
@pytest.mark.parametrize("holds", [b"edge-a", b"the run"], ids=["HELLO", "WELCOME"])
def test_a_handshake_of_which_a_bit_was_changed_is_made_again(tmp_path: Path, holds: bytes) -> None:
    limits = Limits(heartbeat_s=0.5, dead_after_s=3.0)
    with (
        learner(tmp_path / "l", run="the run", limits=limits) as there,
        Spoiler(there.address, holds) as link,
        edge(tmp_path / "e", link.address) as here,
    ):
        here.record(3)
        settled(here, 3)
        assert link.corrupted


@pytest.mark.slow
def test_a_grant_of_which_a_bit_was_changed_is_given_again(tmp_path: Path) -> None:
    limits = Limits(heartbeat_s=0.5, dead_after_s=3.0)
    with (
        learner(tmp_path / "l", limits=limits) as there,
        Spoiler(there.address, messages.encode(Grant(4, -1))) as link,
        edge(tmp_path / "e", link.address) as here,
    ):
        here.uplink.want(4)
        until(lambda: here.uplink.bad_frames == 1, "the grant to come, and to be dropped")
        until(lambda: here.uplink._untaken == 4, "another")
        assert here.uplink.take_grants() == (4, -1) and there.gate.running_at("edge-a") == 4
        assert here.uplink.connections == 1


def test_an_unknown_peer_is_asked_to_say_hello(tmp_path: Path) -> None:
    with learner(tmp_path / "l") as there, Bare(there.address, hello=False) as bare:
        for frame in (bytes(data(0)), messages.encode(Want(1, 0))):
            bare.send(frame)
            refusal = bare.hear()
            assert isinstance(refusal, Refuse) and refusal.key == "hello"
        assert there.store.stored == 0


def test_a_connection_speaks_for_one_edge(tmp_path: Path) -> None:
    with learner(tmp_path / "l") as there, Bare(there.address, name="a") as bare:
        for name, session, role in (("b", 5, "data"), ("a", 6, "data"), ("a", 5, "weights")):
            bare.say(Hello(record.SCHEMA, name, session, role, CONTRACT, 0, 0))
            refusal = bare.hear()
            assert isinstance(refusal, Refuse) and refusal.key == "session"
        assert [peer.edge for peer in there.server.peers()] == ["a"]


def test_the_number_of_peers_is_bounded(tmp_path: Path) -> None:
    with (
        learner(tmp_path / "l", max_peers=2) as there,
        Bare(there.address, name="a"),
        Bare(there.address, name="b"),
        Bare(there.address, hello=False) as third,
    ):
        third.say(Hello(record.SCHEMA, "c", 1, "data", CONTRACT, 0, 0))
        refusal = third.hear()
        assert isinstance(refusal, Refuse) and refusal.key == "peers"


# ---- the gate over the wire


def grants(rig: Edge, count: int) -> int:
    """Take `count` grants; the version of the last."""
    taken, version = 0, -1
    while taken < count:
        until(lambda: rig.uplink._untaken, f"{count} grants, got {taken}")
        more, version = rig.uplink.take_grants()
        taken += more
    assert taken == count
    return version


def test_episodes_are_granted_recorded_accepted_and_consumed(tmp_path: Path) -> None:
    with learner(tmp_path / "l", episodes=4) as there, edge(tmp_path / "e", there.address) as here:
        for version in range(3):
            there.publisher.publish(version, {"w": np.zeros(3, np.float32)})
            here.uplink.want(4)
            assert grants(here, 4) == version and here.uplink.running == 4
            assert there.gate.running_at("edge-a") == 4
            here.record(4)  # not the ends of their episodes
            here.record(4, last=True)
            until(lambda: there.gate.pending == 4 and there.gate.running_at("edge-a") == 0, "the accepted episodes")
            assert here.uplink.running == 0
            there.gate.consumed(4)


def test_an_aborted_or_rejected_episode_makes_room(tmp_path: Path) -> None:
    with learner(tmp_path / "l", episodes=4) as there, edge(tmp_path / "e", there.address) as here:
        here.uplink.want(4)
        grants(here, 4)
        here.uplink.episode_aborted(1)
        here.record(1, last=True, reward=np.full(6, np.nan, np.float32))
        here.uplink.want(2)
        grants(here, 2)
        assert there.gate.outstanding == 4


def test_grants_that_are_no_longer_wanted_go_back(tmp_path: Path) -> None:
    with (
        learner(tmp_path / "l", episodes=4) as there,
        edge(tmp_path / "a", there.address, name="a") as one,
        edge(tmp_path / "b", there.address, name="b") as two,
    ):
        one.uplink.want(4)
        until(lambda: one.uplink._untaken == 4, "its grants")
        two.uplink.want(3)
        one.uplink.want(0)
        grants(two, 3)
        until(lambda: there.gate.running_at("a") == 0, "the grants to come back")


def test_a_reconnected_edge_is_counted_once(tmp_path: Path) -> None:
    with (
        learner(tmp_path / "l", episodes=6) as there,
        Proxy(there.address) as proxy,
        edge(tmp_path / "e", proxy.address) as here,
    ):
        here.uplink.want(3)
        grants(here, 3)
        proxy.target = "tcp://127.0.0.1:1"  # nobody listens there
        proxy.reset()
        until(lambda: here.uplink.state == "connecting", "the loss")
        here.record(1, last=True)  # ends while it is cut off
        here.uplink.episode_started(1)
        proxy.target = there.address
        until(lambda: there.gate.pending == 1, "the backlog")
        assert there.gate.running_at("edge-a") == 3
        here.record(3, last=True)
        until(lambda: there.gate.pending == 4, "all of it")
        assert there.gate.running_at("edge-a") == 0


def test_a_dead_edge_frees_what_it_was_running(tmp_path: Path) -> None:
    with (
        learner(tmp_path / "l", episodes=4, limits=Limits(heartbeat_s=0.5, dead_after_s=1.5)) as there,
        Bare(there.address) as bare,
    ):
        bare.say(Want(4, 0))
        grant = bare.hear()
        assert isinstance(grant, Grant) and grant.count == 4 and there.gate.running_at("bare") == 4
        until(lambda: there.server.stats()["dead"] == 1, "its silence to be noticed")
        [view] = there.server.peers()
        assert not view.connected and there.gate.running_at("bare") == 0
        bare.say(Want(4, 4))
        refusal = bare.hear()
        assert isinstance(refusal, Refuse) and refusal.key == "hello"


def test_a_want_that_crosses_its_grant_is_not_granted_twice(tmp_path: Path) -> None:
    with learner(tmp_path / "l", episodes=100) as there, Bare(there.address) as bare:
        bare.say(Want(10, 0))
        assert bare.hear() == Grant(10, -1)
        bare.say(Want(12, 0))  # said before the grant was heard
        assert bare.hear() == Grant(2, -1)


def test_the_learner_shows_what_an_edge_says_of_itself(tmp_path: Path) -> None:
    with learner(tmp_path / "l") as there, edge(tmp_path / "e", there.address) as here:
        here.uplink.report(version=7, state="running", waits_for="the gate", rates={"hz": 20.0})
        here.record(3)
        until(
            lambda: any(v.counts.get("acknowledged") == 3 and v.version == 7 for v in there.server.peers()), "a STATUS"
        )
        [view] = there.server.peers()
        assert (view.state, view.waits_for, view.rates["hz"], view.stored) == ("running", "the gate", 20.0, 3)


def test_floors_close_the_holes_that_evictions_left(tmp_path: Path) -> None:
    with learner(tmp_path / "l") as there, Bare(there.address) as bare:
        for sequence in (0, 4):
            bare.send(data(sequence))
        until(lambda: there.store.stored == 2, "both")
        bare.say(Status(0, "", "", {}, {}, 0, [(5, 5)]))
        until(lambda: there.store.seen("bare", 5, 2), "the hole to close")


# ---- addresses


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tcp://0.0.0.0:*", "can be reached from other machines"),
        ("tcp://*:*", "can be reached from other machines"),
        ("localhost:5555", "is not tcp://HOST:PORT"),
        ("tcp://127.0.0.1", "is not tcp://HOST:PORT"),
        ("tcp://127.0.0.1:70000", "is not tcp://HOST:PORT"),
        ("tcp://192.0.2.1:5555", "can be reached"),
    ],
)
def test_an_address_that_must_not_be_bound_is_one_clear_line(tmp_path: Path, address: str, said: str) -> None:
    with pytest.raises(AddressError, match=said) as caught:
        Learner(tmp_path / "l", bind=address)
    assert "\n" not in str(caught.value)


def test_a_public_address_may_be_bound_when_told_so(tmp_path: Path) -> None:
    with learner(tmp_path / "l", bind="tcp://0.0.0.0:*", insecure_public=True) as there:
        port = there.address.rpartition(":")[2]
        with edge(tmp_path / "e", f"tcp://127.0.0.1:{port}") as here:
            here.record(1)
            settled(here, 1)


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with learner(tmp_path / "l") as there, pytest.raises(AddressError, match=f"{there.address} is in use; stop"):
        Learner(tmp_path / "m", bind=there.address)


@pytest.mark.parametrize("address", ["tcp://*:5555", "tcp://127.0.0.1:*", "127.0.0.1:5555", "http://host:80"])
def test_an_address_that_cannot_be_dialled_is_refused_at_once(tmp_path: Path, address: str) -> None:
    with pytest.raises(AddressError, match=r"tcp://HOST:PORT|names no host"):
        Edge(tmp_path / "e", address)


def test_a_closed_server_and_uplink_leave_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with learner(tmp_path / "l") as there, edge(tmp_path / "e", there.address) as here:
        here.record(3)
        settled(here, 3)
        assert threading.active_count() == before + 3
    assert threading.active_count() == before
