"""The encoder's thread: nobody waits for it, nothing overtakes, nothing is lost without a word."""

from __future__ import annotations

import threading

import pytest

from robotlearn.edge.encoder import WAITING, Encoder
from robotlearn.wire.segment import Segment
from tests.wire.make import make_segment


def test_segments_are_recorded_in_their_order_and_nobody_waits_for_it() -> None:
    go, recorded = threading.Event(), []

    def record(segments: list[Segment]) -> None:
        go.wait()
        recorded.extend(segment.episode for segment in segments)

    encoder = Encoder(record)
    for episode in range(WAITING):
        encoder.put([make_segment(episode=episode)])
    assert recorded == []
    go.set()
    encoder.close()
    assert recorded == list(range(WAITING))
    encoder.close()


def test_what_fails_is_told_to_whom_it_is_put_by(caplog: pytest.LogCaptureFixture) -> None:
    def record(segments: list[Segment]) -> None:
        raise OSError("the disk is gone")

    encoder = Encoder(record)
    encoder.put([make_segment()])
    encoder.close()
    for again in (encoder.check, lambda: encoder.put([make_segment()])):
        with pytest.raises(OSError, match="the disk is gone"):
            again()
    assert "1 segments are lost: the disk is gone" in caplog.text
