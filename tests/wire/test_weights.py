"""Weights from the publisher to the edges: complete, the newest, and no more of them than needed."""

import threading
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robotlearn.errors import WireError
from robotlearn.wire import messages
from robotlearn.wire.chunks import WeightsLayout
from robotlearn.wire.messages import Gone
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.weights import Weights, WeightsClient
from tests.waiting import until
from tests.wire.proxy import Proxy, Spoiler
from tests.wire.rig import learner, weights_client

Tensors = dict[str, np.ndarray]


def tensors(value: float, size: int = 60_000) -> Tensors:
    """Small, middling and large tensors, a scalar, an empty one, and other dtypes."""
    rng = np.random.default_rng(int(value * 10))
    return {
        "bias": np.full(7, value, np.float32),
        "scale": np.array(value, np.float64),
        "empty": np.zeros((0, 3), np.float32),
        "large": rng.standard_normal((3, size)).astype(np.float32),  # in pieces
        "middling": rng.standard_normal((40, 200)).astype(np.float16),
        "counts": np.arange(9, dtype=np.int64),
    }


def pull_of(uid: int, chunk: int, have: bytes | None, delta: bool = False) -> messages.Pull:
    """A whole chunk."""
    return messages.Pull(uid, chunk, have, delta, 0, 1 << 30)


def same(weights: Weights | None, expected: Tensors) -> bool:
    return weights is not None and all(
        weights.tensors[name].dtype == array.dtype and np.array_equal(weights.tensors[name], array)
        for name, array in expected.items()
    )


@given(
    st.lists(st.integers(0, 5000), max_size=12).map(
        lambda sizes: {f"t{i}": np.zeros(n, "u1") for i, n in enumerate(sizes)}
    ),
    st.sampled_from([64, 256, 1024]),
)
def test_the_chunks_of_a_layout_cover_every_byte_once(arrays: Tensors, chunk_bytes: int) -> None:
    layout = WeightsLayout.of(arrays, chunk_bytes)
    covered = [np.zeros(array.nbytes, int) for array in arrays.values()]
    for chunk in layout.chunks:
        assert 0 <= chunk.length <= 2 * chunk_bytes + 64 and chunk.length % 64 == 0
        for piece in chunk.pieces:
            covered[piece.tensor][piece.start : piece.stop] += 1
            assert piece.offset + piece.stop - piece.start <= chunk.length and piece.offset % 64 == 0
    assert all((count == 1).all() for count in covered)
    assert layout.nbytes == sum(array.nbytes for array in arrays.values())


@pytest.mark.parametrize("array", [np.zeros(3, object), np.zeros(3, "c8"), np.zeros(3, ">f4"), np.zeros(3, "M8[s]")])
def test_a_dtype_that_weights_cannot_have_is_refused(array: np.ndarray) -> None:
    with pytest.raises(WireError, match="'w'"):
        Publisher().publish(0, {"w": array})


def test_the_newest_weights_arrive_complete_as_read_only_views(tmp_path: Path) -> None:
    with learner(tmp_path) as there, weights_client(there.address) as client:
        assert client.newest() is None and client.wait(0, 0.01) is None
        for version in (0, 3, 4):
            expected = tensors(version + 0.5)
            there.publisher.publish(version, expected)
            weights = client.wait(version, 20)
            assert same(weights, expected) and weights is client.newest()
            assert weights is not None and weights.incarnation == there.server.incarnation
            assert not any(array.flags.writeable for array in weights.tensors.values())


def test_publishing_takes_a_snapshot_and_old_views_stay_valid(tmp_path: Path) -> None:
    with learner(tmp_path) as there, weights_client(there.address) as client:
        live = tensors(1.0)
        there.publisher.publish(0, live)
        there.publisher.settle()
        for array in live.values():
            array[...] = 0  # the optimiser goes on
        first = client.wait(0, 20)
        for version in range(1, 8):
            there.publisher.publish(version, tensors(version + 1.0))
            assert client.wait(version, 20) is not None
        assert same(first, tensors(1.0))


def test_versions_only_rise(tmp_path: Path) -> None:
    publisher = Publisher()
    publisher.publish(3, tensors(0))
    for version in (3, 2):
        with pytest.raises(WireError, match=f"version {version} is published after version 3"):
            publisher.publish(version, tensors(0))


def test_a_late_joiner_gets_the_newest_only(tmp_path: Path) -> None:
    with learner(tmp_path) as there:
        for version in range(5):
            there.publisher.publish(version, tensors(version))
        with weights_client(there.address) as client:
            assert same(client.wait(4, 20), tensors(4))
            assert client.stats()["bytes_received"] < 1.5 * sum(a.nbytes for a in tensors(4).values())


def test_equal_chunks_are_not_sent_again(tmp_path: Path) -> None:
    with learner(tmp_path) as there, weights_client(there.address) as client:
        first = tensors(1.0)
        there.publisher.publish(0, first)
        assert same(client.wait(0, 20), first)
        received = client.bytes_received
        second = {name: array.copy() for name, array in first.items()}
        second["large"][2, -1] += 1
        there.publisher.publish(1, second)
        assert same(client.wait(1, 20), second)
        assert client.bytes_received - received <= 2 * (64 << 10) and client.chunks_same > 5


def test_tensors_may_change_their_shapes(tmp_path: Path) -> None:
    with learner(tmp_path) as there, weights_client(there.address) as client:
        for version, size in enumerate((60_000, 100, 90_000)):
            there.publisher.publish(version, tensors(version, size))
            assert same(client.wait(version, 20), tensors(version, size))


@pytest.mark.parametrize("cuts", [1, 4])
def test_a_pull_goes_on_where_it_was_after_the_connection_is_cut(tmp_path: Path, cuts: int) -> None:
    expected = tensors(2.0, size=400_000)
    total = sum(array.nbytes for array in expected.values())
    with learner(tmp_path) as there, Proxy(there.address) as proxy:
        there.publisher.publish(0, expected)
        with weights_client(proxy.address) as client:
            for cut in range(1, cuts + 1):
                proxy.cut_after = cut * total // (cuts + 1)
                until(lambda: proxy.cut_after is None, "the cut")
            assert same(client.wait(0, 30), expected)
            assert client.disconnects >= 1 and client.chunks_same > 0
            assert client.bytes_received <= total + 64 * 20, "nothing that had come was sent again"


def test_a_pull_goes_on_after_a_learner_restart_with_the_same_weights(tmp_path: Path) -> None:
    expected = tensors(2.0, size=400_000)
    total = sum(array.nbytes for array in expected.values())
    with learner(tmp_path) as first:
        first.publisher.publish(5, expected)
        with Proxy(first.address) as proxy:
            proxy.cut_after = total // 2
            with weights_client(proxy.address) as client:
                until(lambda: proxy.cut_after is None, "the cut")
                first.server.close()
                with learner(tmp_path / "second") as second:
                    proxy.target = second.address
                    proxy.reset()
                    second.publisher.publish(2, expected)
                    weights = client.wait(0, 30)
                    assert same(weights, expected) and weights is not None
                    assert (weights.version, weights.incarnation) == (2, second.server.incarnation)
                    assert client.chunks_same > 0 and client.bytes_received <= total + 64 * 20


def test_a_slow_edge_skips_versions_and_never_starves(tmp_path: Path) -> None:
    with learner(tmp_path) as there, weights_client(there.address, window_chunks=1) as client:
        seen: list[int] = []
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                weights = client.newest()
                if weights is not None and (not seen or seen[-1] != weights.version):
                    seen.append(weights.version)
                    if not same(weights, tensors(weights.version, 200_000)):
                        seen.append(-1)

        watcher = threading.Thread(target=watch)
        watcher.start()
        for version in range(40):
            there.publisher.publish(version, tensors(version, 200_000))
        last = client.wait(39, 30)
        stop.set()
        watcher.join()
        assert same(last, tensors(39, 200_000))
        assert -1 not in seen and seen == sorted(seen) and len(seen) < 40, "never mixed, in order, some skipped"


def test_a_chunk_that_fails_its_hash_is_pulled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spoiled: list[int] = []
    original = WeightsClient._on_chunk

    def spoil(self: WeightsClient, message: messages.ChunkOf, payload: memoryview) -> None:
        if message.chunk in (1, 3) and message.chunk not in spoiled:
            spoiled.append(message.chunk)
            changed = bytearray(payload)
            changed[len(changed) // 2] ^= 1
            payload = memoryview(changed if message.chunk == 1 else changed[:-64])
        original(self, message, payload)

    monkeypatch.setattr(WeightsClient, "_on_chunk", spoil)
    with learner(tmp_path) as there, weights_client(there.address) as client:
        there.publisher.publish(0, tensors(1.0))
        assert same(client.wait(0, 20), tensors(1.0))
        assert client.bad_hashes == 2 and sorted(spoiled) == [1, 3]
        assert caplog.text.count("fails its hash") == 1


def test_a_layout_that_was_damaged_on_the_way_is_told_again(tmp_path: Path) -> None:
    with (
        learner(tmp_path) as there,
        Spoiler(there.address, b"middling") as link,  # a tensor's name
        weights_client(link.address) as client,
    ):
        there.publisher.publish(0, tensors(1.0))
        assert same(client.wait(0, 30), tensors(1.0))
        assert link.corrupted and client.connections == 2


def test_several_edges_pull_at_once(tmp_path: Path) -> None:
    with (
        learner(tmp_path) as there,
        weights_client(there.address, edge="a") as one,
        weights_client(there.address, edge="b", window_chunks=1) as two,
        weights_client(there.address, edge="c", window_chunks=16) as three,
    ):
        for version in range(10):
            there.publisher.publish(version, tensors(version))
        assert all(same(client.wait(9, 30), tensors(9)) for client in (one, two, three))


def test_weights_too_large_for_an_edge_are_refused_by_it(tmp_path: Path) -> None:
    with learner(tmp_path) as there, weights_client(there.address, max_bytes=1000) as client:
        there.publisher.publish(0, tensors(1.0))
        until(lambda: client.bad_frames > 0, "the announcement to be refused")
        there.publisher.publish(1, {"w": np.ones(3, np.float32)})
        assert same(client.wait(1, 20), {"w": np.ones(3, np.float32)})


# ---- the publisher alone


def test_what_is_not_kept_is_gone_and_what_is_being_pulled_is_kept() -> None:
    publisher = Publisher(chunk_bytes=64 << 10, keep_older=2)
    uids = []
    for version in range(6):
        publisher.publish(version, tensors(version))
        uids.append(publisher.uid)
        if version in (1, 2, 3):
            assert publisher.pull(pull_of(publisher.uid, 0, None))[1] == version
    answers = [publisher.pull(pull_of(uid, 1, None)) for uid in uids]
    assert [version for _, version in answers] == [-1, -1, 2, 3, -1, 5], "the newest, and two that were being pulled"
    gone, _ = answers[0]
    assert isinstance(gone, bytes) and messages.decode(gone)[0] == Gone(uids[0])
    assert publisher.pull(pull_of(uids[5], 10**6, None))[1] == -1
    assert publisher.stats()["gone"] == 4


@pytest.mark.parametrize("by_the_server", [0, 1, 3, 10**6])
def test_what_is_published_may_change_once_it_is_settled(by_the_server: int) -> None:
    """Whoever copied: the server in its own time, for a pull that was early, or the training loop at last."""
    publisher = Publisher(chunk_bytes=64 << 10)
    live = tensors(1.0)
    publisher.publish(0, live)
    for _ in range(by_the_server):
        if not publisher.advance():
            break
    early, _ = publisher.pull(pull_of(publisher.uid, 2, None))
    publisher.settle()
    assert not publisher.advance()
    for array in live.values():
        array[...] = 0
    frames = [publisher.pull(pull_of(publisher.uid, chunk, None))[0] for chunk in range(len(publisher._newest.hashes))]  # type: ignore[union-attr]
    theirs = Publisher(chunk_bytes=64 << 10)
    theirs.publish(0, tensors(1.0))
    for chunk, frame in enumerate(frames):
        expected, _ = theirs.pull(pull_of(theirs.uid, chunk, None))
        assert bytes(frame)[64:] == bytes(expected)[64:]
    assert bytes(early) == bytes(frames[2])


def served(publisher: Publisher) -> np.ndarray:
    """What the newest weights' chunks hold, as numbers, without their headers."""
    assert publisher._newest is not None
    return np.concatenate([np.frombuffer(frame[64:], np.float32) for frame in publisher._newest.memory.frames])


def test_server_and_training_loop_copy_at_the_same_time() -> None:
    publisher = Publisher(chunk_bytes=4 << 10)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            publisher.advance()

    server = threading.Thread(target=serve)
    server.start()
    try:
        live = np.zeros(200_000, np.float32)
        for version in range(200):
            live.fill(version)
            publisher.publish(version, {"w": live})
            publisher.settle()
            live.fill(-1)
            assert (served(publisher)[: live.size] == version).all()
    finally:
        stop.set()
        server.join()


def test_the_server_copies_by_itself(tmp_path: Path) -> None:
    with learner(tmp_path) as there:
        there.publisher.publish(0, tensors(1.0))
        until(lambda: there.publisher._newest.complete, "all chunks to be copied")  # type: ignore[union-attr]


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_tensor_may_lie_in_memory_in_any_order(order: Literal["C", "F"]) -> None:
    publisher = Publisher(chunk_bytes=4 << 10)
    tensor = np.asarray(np.arange(60_000, dtype=np.float32).reshape(200, 300), order=order)
    publisher.publish(0, {"w": tensor})
    publisher.settle()
    assert np.array_equal(served(publisher)[:60_000], np.arange(60_000))


def test_memory_is_used_again_but_never_while_it_is_being_sent() -> None:
    publisher = Publisher(chunk_bytes=64 << 10, keep_older=0)
    publisher.publish(0, tensors(0))
    frame, _ = publisher.pull(pull_of(publisher.uid, 0, None))
    assert not isinstance(frame, bytes)
    sent = bytes(frame.buffer)
    for version in range(1, 10):
        publisher.publish(version, tensors(version))
        assert bytes(frame.buffer) == sent, "libzmq still holds it"
    assert len(publisher._free) <= 2
    memory = {id(publisher._newest.memory) for _ in range(1) if publisher._newest}
    del frame
    for version in range(10, 20):
        publisher.publish(version, tensors(version))
        memory.add(id(publisher._newest.memory))  # type: ignore[union-attr]
    assert len(memory) <= 3


@settings(max_examples=20)
@given(st.integers(0, 2**62), st.integers(0, 2**62), st.none() | st.binary(min_size=8, max_size=8))
def test_wild_pulls_are_gone(uid: int, chunk: int, have: bytes | None) -> None:
    publisher = Publisher()
    publisher.publish(0, {"w": np.zeros(10, np.float32)})
    assert publisher.pull(pull_of(uid, chunk, have))[1] in (-1, 0)
