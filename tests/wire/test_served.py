"""Which weights an edge is served: the newest, those that it is held at, or those that all are pinned to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robotlearn.errors import WireError
from robotlearn.wire.publisher import Publisher
from tests.waiting import until
from tests.wire.rig import edge, learner, weights_client


def tensors(version: int) -> dict[str, np.ndarray]:
    return {"w": np.full(50_000, version, np.float32), "bias": np.full(3, version, np.float32)}


def test_a_held_edge_has_what_it_is_held_at_and_others_the_newest(tmp_path: Path) -> None:
    with (
        learner(tmp_path) as there,
        weights_client(there.address, edge="real") as real,
        weights_client(there.address, edge="free", session=2) as free,
    ):
        there.publisher.hold(["real"], None)
        for version in range(3):
            there.publisher.publish(version, tensors(version))
            assert free.wait(version, 20) is not None
        assert real.newest() is None
        there.publisher.hold(["real"], 2)
        held = real.wait(2, 20)
        for version in range(3, 9):
            there.publisher.publish(version, tensors(version))
            assert free.wait(version, 20) is not None
        assert held is not None and real.newest() is held and (held.tensors["w"] == 2).all()
        with pytest.raises(WireError, match="version 5 are not kept"):
            there.publisher.hold(["real"], 5)
        with weights_client(there.address, edge="real", session=3) as again:  # it comes anew: they are kept for it
            found = again.wait(0, 20)
            assert found is not None and found.version == 2 and (found.tensors["w"] == 2).all()
        there.publisher.hold(["real"], 8)
        assert (latest := real.wait(8, 20)) is not None and (latest.tensors["w"] == 8).all()
        assert len(there.publisher._older) <= 1 + there.publisher._keep_older


def test_pinned_weights_go_to_all_until_the_pin_is_gone(tmp_path: Path) -> None:
    with (
        learner(tmp_path) as there,
        weights_client(there.address, edge="real") as real,
        weights_client(there.address, edge="free", session=2) as free,
    ):
        there.publisher.publish(0, tensors(0))
        there.publisher.hold(["real"], 0)
        there.publisher.publish(1, tensors(1))
        there.publisher.pin(1)
        for version in (2, 3, 4):
            there.publisher.publish(version, tensors(version))
        until(lambda: all((newest := one.newest()) and newest.version == 1 for one in (real, free)), "the pinned ones")
        with weights_client(there.address, edge="late", session=3) as late:
            assert (found := late.wait(0, 20)) is not None and found.version == 1
            there.publisher.pin(None)
            assert free.wait(4, 20) is not None and late.wait(4, 20) is not None
        assert (there.publisher.served("real")[0], there.publisher.served("free")[0]) == (0, 4)


def test_an_edge_that_may_have_no_weights_is_granted_nothing_and_later_no_version_that_it_may_not_have(
    tmp_path: Path,
) -> None:
    with learner(tmp_path / "l", episodes=4) as there:
        there.publisher.hold(["edge-a"], None)
        there.publisher.publish(7, tensors(7))
        with edge(tmp_path / "a", there.address) as held, edge(tmp_path / "b", there.address, name="free") as free:
            held.uplink.want(4)
            until(lambda: there.server.peers() and there.server.peers()[0].connected, "the held edge")
            free.uplink.want(3)
            granted = 0

            def three() -> bool:
                nonlocal granted
                granted += free.uplink.take_grants()[0]
                return granted == 3

            until(three, "what the held edge may not use")
            assert held.uplink.take_grants() == (0, -1)
            there.publisher.hold(["edge-a"], 7)
            there.publisher.publish(8, tensors(8))
            got: list[tuple[int, int]] = []
            until(lambda: got.append(held.uplink.take_grants()) or got[-1][0], "its grant")
            assert got[-1] == (1, 7)


def test_memory_is_bounded_by_what_is_held(tmp_path: Path) -> None:
    publisher = Publisher(chunk_bytes=64 << 10, keep_older=1)
    for version in range(20):
        publisher.publish(version, tensors(version))
        if version % 5 == 0:
            publisher.hold(["real"], version)
    assert [one.version for one in publisher._older if one in publisher._held_at.values()] == [15]
    assert len(publisher._older) <= 2
