"""Weights over slow links and with little to tell: deltas, what does not train, parts of chunks, limits."""

import time
from pathlib import Path

import numpy as np
import pytest

from robotlearn.wire import messages
from robotlearn.wire.bad_link import BadLink, Faults
from robotlearn.wire.chunks import BF16, to_bf16
from robotlearn.wire.messages import ChunkOf, Pull
from robotlearn.wire.pace import AHEAD_S, SMALLEST, Pace
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.sockets import Limits
from robotlearn.wire.weights import WeightsClient
from tests.waiting import until
from tests.wire.proxy import Proxy
from tests.wire.rig import learner, weights_client
from tests.wire.test_weights import same, tensors

CHUNK = 64 << 10


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Edges take their link for a slow one, so that they ask for deltas."""
    monkeypatch.setattr(Pace, "wants_delta", lambda self, nbytes: True)
    monkeypatch.setattr(Pace, "probes", lambda self, nbytes, now: False)


def policy(version: int, backbone: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """A head, of which few numbers change, and a backbone that doesn't train."""
    head = np.random.default_rng(0).standard_normal(200_001).astype(np.float32)
    head[::100] += version
    frozen = np.random.default_rng(1).standard_normal(300_001).astype(np.float32) if backbone is None else backbone
    return {"backbone": frozen, "head": head, "bias": np.full(5, version, np.float32), "mean": np.ones(3, np.float32)}


FROZEN = {"backbone": 0, "mean": 0}


def total(arrays: dict[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays.values())


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("window", [1, 6])
def test_an_edge_that_has_the_last_version_gets_deltas(tmp_path: Path, window: int) -> None:
    with learner(tmp_path) as there, weights_client(there.address, window_chunks=window) as client:
        there.publisher.publish(0, policy(0))
        assert same(client.wait(0, 20), policy(0))
        for version in (1, 2, 3):
            until(lambda: there.publisher._newest.last_held > 0, "the edge to say what it has")  # type: ignore[union-attr]
            received = client.bytes_received
            there.publisher.publish(version, policy(version))
            assert same(client.wait(version, 20), policy(version))
            assert client.bytes_received - received < 0.05 * total(policy(0))
        assert client.chunks_delta >= 9 and client.bad_hashes == 0


@pytest.mark.usefixtures("slow")
def test_a_delta_is_made_once_for_all_edges(tmp_path: Path) -> None:
    with (
        learner(tmp_path) as there,
        weights_client(there.address, edge="a") as one,
        weights_client(there.address, edge="b") as two,
    ):
        there.publisher.publish(0, policy(0))
        assert one.wait(0, 20) and two.wait(0, 20)
        until(lambda: there.publisher._newest.last_held > 0, "the edges to say what they have")  # type: ignore[union-attr]
        there.publisher.publish(1, policy(1))
        assert same(one.wait(1, 20), policy(1)) and same(two.wait(1, 20), policy(1))
        assert there.publisher.deltas_made == one.chunks_delta == two.chunks_delta > 0


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("fault", ["base", "result", "damage", "size"])
def test_a_delta_that_does_not_fit_is_pulled_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    spoiled: list[int] = []
    original = WeightsClient._on_chunk

    def spoil(self: WeightsClient, message: ChunkOf, payload: memoryview) -> None:
        if message.base is not None and not spoiled:
            spoiled.append(message.chunk)
            match fault:
                case "base":
                    message.base = b"another!"
                case "result":
                    message.hash = b"another!"
                case "damage":
                    payload = memoryview(bytes(payload[:40]) + bytes(len(payload) - 40))
                case "size":
                    message.total = 1 << 40
        original(self, message, payload)

    monkeypatch.setattr(WeightsClient, "_on_chunk", spoil)
    with learner(tmp_path) as there, weights_client(there.address) as client:
        there.publisher.publish(0, policy(0))
        assert client.wait(0, 20)
        until(lambda: there.publisher._newest.last_held > 0, "the edge to say what it has")  # type: ignore[union-attr]
        there.publisher.publish(1, policy(1))
        assert same(client.wait(1, 20), policy(1))
        assert spoiled and client.bad_hashes == 1 and client.chunks_delta > 1


def published(publisher: Publisher, version: int) -> list[bytes | None]:
    """Publish and hash it all; the hashes of the chunks that train."""
    publisher.publish(version, policy(version), constant=FROZEN)
    while publisher.advance():
        pass
    return [publisher.hash_of(publisher.uid, chunk) for chunk in range(10)]


def test_bases_are_what_edges_said_they_have_and_at_most_two() -> None:
    publisher = Publisher(chunk_bytes=CHUNK)
    hashes = []
    for version in range(6):
        hashes.append(published(publisher, version)[1])
        if version != 3:
            publisher.held(publisher.uid)
    assert publisher.stats()["older_kept"] == 2
    based = []
    for have in hashes[:-1]:
        frame, _ = publisher.pull(Pull(publisher.uid, 1, have, True, 0, CHUNK))
        message, _ = messages.decode(frame if isinstance(frame, bytes) else frame.buffer)
        assert isinstance(message, ChunkOf)
        based.append(message.base == have)
    assert based == [False, False, True, False, True]


def test_deltas_that_are_kept_are_bounded() -> None:
    publisher = Publisher(chunk_bytes=4 << 10)
    before = published(publisher, 0)
    for version in range(1, 5):
        publisher.held(publisher.uid)
        hashes = published(publisher, version)
        publisher._deltas.max_bytes = 4000
        for chunk, have in enumerate(before):
            publisher.pull(Pull(publisher.uid, chunk, have, True, 0, CHUNK))
            assert publisher._deltas._nbytes <= 4000
        before = hashes
    assert publisher.chunks_delta == 4 * len(before) > len(publisher._deltas._made) > 2


def test_what_does_not_train_crosses_the_wire_once_and_is_there_once(tmp_path: Path) -> None:
    live = policy(0)["backbone"]
    with learner(tmp_path) as there, weights_client(there.address) as client:
        there.publisher.publish(0, policy(0, live), constant=FROZEN)
        first = client.wait(0, 20)
        assert same(first, policy(0))
        assert first is not None
        there.publisher.settle()
        before = there.publisher._newest
        for version in (1, 2, 3):
            live[:] = 0  # proof that nobody looks at it again
            received = client.bytes_received
            there.publisher.publish(version, policy(version, live), constant=FROZEN)
            weights = client.wait(version, 20)
            assert same(weights, policy(version)) and weights is not None
            assert client.bytes_received - received <= 900_000, "the head alone"
            if version > 1:  # by then the learner had hashed it all, and told so
                assert weights.tensors["backbone"].ctypes.data == last  # noqa: F821
            last = weights.tensors["backbone"].ctypes.data  # noqa: F841
        newest = there.publisher._newest
        assert before is not None and newest is not None
        assert all(a is b for a, b in zip(before.constants, newest.constants, strict=True))
        assert same(first, policy(0)), "old views stay valid"


def test_another_mark_makes_it_anew(tmp_path: Path) -> None:
    with learner(tmp_path) as there, weights_client(there.address) as client:
        there.publisher.publish(0, policy(0), constant=FROZEN)
        assert same(client.wait(0, 20), policy(0))
        other = np.arange(300_001, dtype=np.float32)
        there.publisher.publish(1, policy(1, other), constant=FROZEN | {"backbone": 1})
        assert same(client.wait(1, 20), policy(1, other))
        there.publisher.publish(2, policy(2, other + 1), constant={"mean": 0})
        assert same(client.wait(2, 20), policy(2, other + 1))


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("frozen", [{}, FROZEN])
def test_edges_may_be_served_in_bfloat16(tmp_path: Path, frozen: dict[str, int]) -> None:
    with learner(tmp_path) as there, weights_client(there.address) as client:
        for version in (0, 1):
            there.publisher.publish(version, policy(version), constant=frozen, rounded={"head", "backbone"})
            weights = client.wait(version, 20)
            expected = policy(version)
            for name in ("head", "backbone"):
                rounded = np.zeros(expected[name].shape, BF16)
                to_bf16(expected[name], rounded)
                expected[name] = rounded
            assert same(weights, expected)


# ---- slow links


@pytest.mark.slow
def test_a_slow_link_carries_chunks_that_take_longer_than_it_may_be_silent(tmp_path: Path) -> None:
    """A chunk takes 4.2 s here, and 1.5 s of silence end a connection: in one frame it would never arrive."""
    limits = Limits(dead_after_s=1.5, heartbeat_s=0.3)
    expected = {"w": np.random.default_rng(0).standard_normal(64 << 10).astype(np.float32)}
    with (
        learner(tmp_path, chunk_bytes=256 << 10, limits=limits) as there,
        BadLink(there.address, Faults(mbit=0.5)) as link,
        weights_client(link.address, limits=limits) as client,
    ):
        there.publisher.publish(0, expected)
        assert same(client.wait(0, 100), expected)
        assert client.bytes_received < 2 * total(expected)
        assert client._pace.rate is not None and client._pace.ahead < 256 << 10


def test_parts_of_a_chunk_that_had_come_are_not_sent_again(tmp_path: Path) -> None:
    expected = {"w": np.random.default_rng(0).standard_normal(512 << 10).astype(np.float32)}
    with learner(tmp_path, chunk_bytes=2 << 20) as there, Proxy(there.address) as proxy:
        proxy.faults = Faults(mbit=20)
        there.publisher.publish(0, expected)
        with weights_client(proxy.address, limit_mbit=10) as client:
            for cut in (1, 2, 3):
                proxy.cut_after = cut * total(expected) // 4
                until(lambda: proxy.cut_after is None, "the cut")
            proxy.faults = Faults()
            assert same(client.wait(0, 60), expected)
            assert client.disconnects >= 3 and client.bytes_received == total(expected)


def test_weights_take_no_more_of_the_link_than_they_may(tmp_path: Path) -> None:
    expected = tensors(1.0, 300_000)
    with learner(tmp_path) as there:
        there.publisher.publish(0, expected)
        began = time.monotonic()
        with weights_client(there.address, limit_mbit=16) as client:
            assert same(client.wait(0, 60), expected)
            # It can't be sooner, however busy the machine is; what is on the way at the end has its time still to come.
            assert time.monotonic() - began > 0.7 * total(expected) / 2e6


def test_as_much_is_on_the_way_as_comes_in_two_seconds() -> None:
    pace = Pace()
    assert pace.part <= pace.ahead <= 4 * SMALLEST, "little, before anything is known"
    now = 100.0
    for _ in range(50):
        asked = pace.asks(now)
        now += 1.0
        pace.came(asked, 62_500, now, raw=True)
    assert pace.ahead == pytest.approx(AHEAD_S * 62_500, rel=0.01)
    assert pace.wants_delta(2 << 20) and not pace.probes(2 << 20, now)
    assert pace.probes(2 << 20, now + 100 * 34) and not pace.probes(2 << 20, now + 100 * 34), "one, now and then"
    for _ in range(50):
        asked = pace.asks(now)
        now += 0.001
        pace.came(asked, 2 << 20, now, raw=True)
    pace.complete()
    assert pace.ahead > 100 << 20 and not pace.wants_delta(2 << 20), "so fast a link gets whole chunks"
    pace.forget()
    assert pace.ahead <= 4 * SMALLEST
