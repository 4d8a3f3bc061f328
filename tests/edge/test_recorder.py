"""The recorder: segments that join to the very episode that happened, however they were cut."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotlearn.algorithms.chunks import Episode, join
from robotlearn.edge.recorder import Origin, Recorder, Sizes
from robotlearn.wire import layout, record
from robotlearn.wire.encodings import Encodings, ImageEncoding
from robotlearn.wire.segment import Segment

HORIZON, STEPS, DIM = 4, 2, 3
SIZES = Sizes({"observation.state": ((2,), np.dtype(np.float32))}, HORIZON, STEPS, DIM, DIM)
ORIGIN = Origin("bench", "bench/arm", "panda")
STEP_FIELDS = ("action_executed", "intervention", "held", "reward", "terminated", "truncated", "success")
CHUNK_FIELDS = ("version", "start", "first", "executed", "lag", "path", "stochastic", "log_prob")


class Script:
    """What one arm does in one episode: made at random, recorded naively, and played to a recorder step by step."""

    def __init__(self, rng: np.random.Generator, steps: int, *, lock_step: bool = False) -> None:
        self.observations = rng.standard_normal((steps + 1, 2), dtype=np.float32)
        self.steps: dict[str, np.ndarray] = {
            "proposed": rng.standard_normal((steps, DIM), dtype=np.float32),
            "executed": rng.standard_normal((steps, DIM), dtype=np.float32),
            "reward": rng.standard_normal(steps).astype(np.float32),
            **{name: rng.random(steps) < 0.2 for name in ("intervention", "held", "success")},
            "terminated": np.zeros(steps, bool),
            "truncated": np.zeros(steps, bool),
        }
        self.steps["terminated" if rng.random() < 0.5 else "truncated"][-1] = True
        self.chunks: dict[int, dict[str, Any]] = {}
        self.from_chunk = np.zeros(steps, bool)
        t = 0
        while t < steps:
            if not lock_step:
                t += int(rng.integers(0, 20)) if rng.random() < 0.2 else 0  # the arm holds: no chunk is there
            if t >= steps:
                break
            first = 0 if lock_step else int(rng.integers(0, HORIZON - 1))
            count = min(HORIZON - first, steps - t)
            self.chunks[t] = {
                "version": int(rng.integers(0, 99)),
                "path": rng.standard_normal((STEPS + 1, HORIZON, DIM), dtype=np.float32),
                "stochastic": rng.random(STEPS) < 0.5,
                "log_prob": rng.standard_normal((STEPS, HORIZON), dtype=np.float32),
                "first": first,
                "lag": min(t, first + (0 if lock_step else int(rng.integers(0, 5)))),
            }
            self.from_chunk[t : t + count] = True
            t += count

    def __len__(self) -> int:
        return len(self.from_chunk)

    def episode(self) -> Episode:
        """The episode as one would write it down with lists and no segments."""
        starts = sorted(self.chunks)
        rows = [self.chunks[start] for start in starts]
        ends = [*starts[1:], len(self)][: len(starts)]
        executed = [int(self.from_chunk[a:b].sum()) for a, b in zip(starts, ends, strict=True)]
        kept = {
            name: np.array([row[name] for row in rows]) for name in CHUNK_FIELDS if name not in ("start", "executed")
        }
        steps = {name: self.steps[name] for name in STEP_FIELDS if name != "action_executed"}
        return Episode(
            {"observation.state": self.observations},
            action_executed=self.steps["executed"],
            start=np.array(starts),
            executed=np.array(executed),
            **steps,
            **kept,
        )


def play(recorder: Recorder, scripts: dict[int, Script], delays: dict[int, int] | None = None) -> None:
    """Play one script per arm at the same time; arm i begins `delays[i]` ticks late."""
    delays = delays or dict.fromkeys(scripts, 0)
    last = max(delays[arm] + len(script) for arm, script in scripts.items())
    for tick in range(last):
        at = {arm: tick - delays[arm] for arm in scripts}
        begin = np.array([arm for arm, t in at.items() if t == 0], np.int64)
        if len(begin):
            first = np.stack([scripts[arm].observations[0] for arm in begin])
            recorder.begin(begin, {"observation.state": first}, ["reach"] * len(begin))
        new = np.array([arm for arm, t in at.items() if t in scripts[arm].chunks], np.int64)
        if len(new):
            rows = [scripts[arm].chunks[at[arm]] for arm in new]
            recorder.chunk(new, **{name: np.array([row[name] for row in rows]) for name in rows[0]})
        ids = np.array([arm for arm, t in at.items() if 0 <= t < len(scripts[arm])], np.int64)
        if len(ids):
            recorder.step(
                ids,
                {"observation.state": np.stack([scripts[arm].observations[at[arm] + 1] for arm in ids])},
                from_chunk=np.array([scripts[arm].from_chunk[at[arm]] for arm in ids]),
                monotonic=float(tick),
                wall=float(tick),
                **{
                    name: np.array([scripts[arm].steps[name][at[arm]] for arm in ids]) for name in scripts[ids[0]].steps
                },
            )


def assert_same(found: Episode, expected: Episode) -> None:
    np.testing.assert_array_equal(found.observations["observation.state"], expected.observations["observation.state"])
    assert len(found.version) == len(expected.version)
    for name in STEP_FIELDS + (CHUNK_FIELDS if len(expected.version) else ()):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@given(st.integers(0, 2**32), st.integers(HORIZON, 12), st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_segments_join_to_what_a_naive_recorder_writes_down(seed: int, segment_steps: int, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    scripts = {arm: Script(rng, length) for arm, length in enumerate(lengths)}
    segments: list[Segment] = []
    recorder = Recorder(len(lengths), ORIGIN, SIZES, segment_steps, segments.extend)
    play(recorder, scripts, {arm: int(rng.integers(0, 9)) for arm in scripts})

    for segment in segments:
        segment.validate()
        assert segment.steps <= 2 * segment_steps
    by_episode = defaultdict(list)
    for segment in segments:
        by_episode[segment.episode].append(segment)
    assert len(by_episode) == len(lengths), "each episode has an id of its own"
    joined = [join(parts) for parts in by_episode.values()]
    for script in scripts.values():
        first = script.observations[0]
        (match,) = [e for e in joined if np.array_equal(e.observations["observation.state"][0], first)]
        assert_same(match, script.episode())


@pytest.mark.parametrize("segment_steps", [6, 8])
def test_a_segment_is_cut_at_the_first_chunk_after_its_length(segment_steps: int) -> None:
    segments: list[Segment] = []
    recorder = Recorder(1, ORIGIN, SIZES, segment_steps, segments.extend)
    play(recorder, {0: Script(np.random.default_rng(0), 20, lock_step=True)})
    assert [segment.steps for segment in segments] == [8, 8, 4]
    assert [segment.first_step for segment in segments] == [0, 8, 16]
    assert [segment.last for segment in segments] == [False, False, True]
    assert all((segment.chunk_executed == HORIZON).all() for segment in segments), "no chunk is cut in two"


def test_without_chunks_a_segment_is_cut_at_twice_its_length() -> None:
    script = Script(np.random.default_rng(0), 20, lock_step=True)
    script.chunks, script.from_chunk = {}, np.zeros(20, bool)
    segments: list[Segment] = []
    play(Recorder(1, ORIGIN, SIZES, 4, segments.extend), {0: script})
    assert [segment.steps for segment in segments] == [8, 8, 4]
    np.testing.assert_array_equal(join(segments).observations["observation.state"], script.observations)


def test_a_new_episode_drops_what_an_unfinished_one_left() -> None:
    segments: list[Segment] = []
    recorder = Recorder(1, ORIGIN, SIZES, 8, segments.extend)
    ids = np.zeros(1, np.int64)
    recorder.begin(ids, {"observation.state": np.ones((1, 2), np.float32)}, ["reach"])
    aborted = Script(np.random.default_rng(1), 5, lock_step=True)
    recorder.chunk(ids, **{name: np.array([value]) for name, value in aborted.chunks[0].items()})
    whole = Script(np.random.default_rng(2), 7, lock_step=True)
    play(recorder, {0: whole})
    (segment,) = segments
    assert_same(join([segment]), whole.episode())


def test_what_was_handed_out_does_not_change_afterwards() -> None:
    segments: list[Segment] = []
    recorder = Recorder(1, ORIGIN, SIZES, 4, segments.extend)
    scripts = [Script(np.random.default_rng(seed), 4, lock_step=True) for seed in (1, 2)]
    for script in scripts:
        play(recorder, {0: script})
    for segment, script in zip(segments, scripts, strict=True):
        assert_same(join([segment]), script.episode())


def test_a_segment_shorter_than_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="at least the horizon, 4"):
        Recorder(1, ORIGIN, SIZES, 3, lambda segment: None)


CAMERA = "observation.images.front"


def filmed(encodings: Encodings | None) -> list[Segment]:
    """Three segments of one episode, with a picture at each step that shows its number."""
    sizes = Sizes(
        {"observation.state": ((2,), np.dtype(np.float32)), CAMERA: ((16, 16, 3), np.dtype(np.uint8))}, 4, 2, DIM, DIM
    )
    segments: list[Segment] = []
    recorder = Recorder(1, ORIGIN, sizes, 4, segments.extend, encodings)
    ids, no = np.zeros(1, np.int64), np.zeros(1, bool)

    def seen(t: int) -> dict[str, np.ndarray]:
        return {"observation.state": np.full((1, 2), t, np.float32), CAMERA: np.full((1, 16, 16, 3), t, np.uint8)}

    recorder.begin(ids, seen(0), ["reach"])
    for t in range(20):
        recorder.step(
            ids, seen(t + 1), proposed=np.zeros((1, DIM)), executed=np.zeros((1, DIM)), from_chunk=no, monotonic=t,
            wall=t, intervention=no, held=no, reward=np.zeros(1), terminated=no, truncated=np.array([t == 19]),
            success=no,
        )  # fmt: skip
    return segments


@pytest.mark.parametrize("name", ["raw", "jpeg", "lossless", "video"])
def test_segments_are_encoded_as_the_recorder_was_told_and_join_again(name: str) -> None:
    how = Encodings(images=((CAMERA, ImageEncoding(name)),))
    records = [record.encode(segment) for segment in filmed(how)]
    assert len(records) == 3
    for data in records:
        tensors = {tensor.name: tensor for tensor in layout.parse(bytes(record.peek(data).tensors)).observations}
        assert tensors[CAMERA].encoding == name and tensors["observation.state"].encoding == "zstd"
    # Each by itself, and in any order: no segment needs another one to be decoded.
    joined = join([record.decode(data) for data in reversed(records)])
    expected = np.arange(21)[:, None, None, None]
    assert np.abs(joined.observations[CAMERA].astype(int) - expected).max() <= (2 if name in ("jpeg", "video") else 0)


def test_by_default_arrays_are_compressed_and_images_are_not() -> None:
    (first, *_) = filmed(None)
    found = layout.parse(bytes(record.peek(record.encode(first)).tensors))
    assert {tensor.encoding for tensor in found.arrays} == {"zstd"}
    assert {tensor.name: tensor.encoding for tensor in found.observations}[CAMERA] == "raw"
