"""The replay memory against what is computed from whole episodes, step by step."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robotlearn.algorithms.transitions import Window
from robotlearn.buffer.store import SegmentStore
from robotlearn.errors import WireError
from robotlearn.replay.finished import Finished
from robotlearn.replay.memory import ReplayMemory
from robotlearn.replay.sampling import ONLINE, Steps
from tests.replay.whole import Step, Whole, assert_same, expected, gathered, make_whole, stored, two_robots

WINDOWS = [
    Window(1, 1, 0.9),
    Window(1, 3, 0.9, timeout="failure"),
    Window(3, 3, 0.9, bootstraps=False),
    Window(3, 7, 0.96),
    Window(3, 7, 1.0, timeout="failure"),
    Window(2, 45, 0.96),
]


def name(window: Window) -> str:
    return f"H{window.horizon}-n{window.steps}-{window.timeout}{'' if window.bootstraps else '-alone'}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SegmentStore]:
    with SegmentStore(tmp_path, sync="process", file_bytes=64 << 10) as made:
        yield made


class Told:
    """A memory, and what it told of what was added."""

    def __init__(self, window: Window, store: SegmentStore, cache_bytes: int = 4096) -> None:
        _, inputs, _ = two_robots()
        self.memory, self.store = ReplayMemory(inputs, window, cache_bytes), store
        self.steps: list[Step] = []
        """Of each row."""
        self.drawable: dict[int, bool] = {}
        """Row to: whether a person does the whole chunk."""
        self.ended: dict[int, bool] = {}
        """Row to: success of its episode."""
        self.finished: list[Finished] = []
        self._sequence = 0

    def add(self, segments: list[Any], load: bool = True) -> list[Steps]:
        told = []
        for one, (position, record) in zip(segments, stored(self.store, segments, self._sequence), strict=True):
            self._sequence += 1
            found, finished = self.memory.add(self.store.records, position, record, ONLINE, load=load)
            self.steps += [Step(one.episode, one.first_step + i) for i in range(one.steps)]
            self.finished += [] if finished is None else [finished]
            for steps in found:
                self.take(steps, one)
            told += found
        return told

    def take(self, steps: Steps, one: Any) -> None:
        assert (steps.origin, steps.embodiment, steps.task) == (ONLINE, one.embodiment, one.task)
        assert (np.diff(steps.rows) > 0).all() and {self.steps[row].episode for row in steps.rows} <= {one.episode}
        for row, intervened in zip(steps.rows.tolist(), steps.intervened.tolist(), strict=True):
            if steps.success is None:
                assert row not in self.drawable, f"{self.steps[row]} is told twice"
                self.drawable[row] = intervened
            else:
                assert row not in self.ended and self.drawable[row] == intervened
                self.ended[row] = steps.success


def wholes(seed: int, count: int) -> dict[int, Whole]:
    rng = np.random.default_rng(seed)
    config, _, cells = two_robots()
    return {i: make_whole(rng, i, cells, config, int(rng.integers(1, 41))) for i in range(count)}


def known(whole: Whole, there: set[int], window: Window) -> set[int]:
    """Steps whose windows are known with these steps `there`: their next n are, or all up to the end."""
    return {
        index
        for index in there
        if all(k in there for k in range(index, min(index + window.steps, len(whole))))
    }  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS, ids=name)
def test_all_that_is_gathered_is_what_the_whole_episodes_say(store: SegmentStore, window: Window) -> None:
    truth = wholes(3, 16)
    pieces = [piece for whole in truth.values() for piece in whole.pieces()]
    order = np.random.default_rng(4).permutation(len(pieces))
    told = Told(window, store)
    told.add([pieces[i] for i in order])
    _, inputs, _ = two_robots()

    total = sum(map(len, truth.values()))
    assert len(told.memory) == total == len(told.drawable) == len(told.ended)
    rows = np.random.default_rng(5).permutation(np.repeat(np.arange(total), 2)).tolist()
    for row, found in zip(rows, gathered(told.memory, rows), strict=True):
        step = told.steps[row]
        assert_same(found, expected(truth[step.episode], step.index, inputs, window), step)
    for row, (episode, index) in enumerate(told.steps):
        one = truth[episode].segment
        assert told.ended[row] == one.success[-1]
        assert told.drawable[row] == one.intervention[index : index + window.horizon].all()

    assert len(told.finished) == len(truth)
    for whole in truth.values():
        one = whole.segment
        (mine,) = [each for each in told.finished if each.reward == pytest.approx(one.reward.sum(), abs=1e-4)]
        assert (mine.edge, mine.embodiment, mine.task, mine.steps) == (one.edge, one.embodiment, one.task, len(whole))
        assert (mine.success, mine.intervened) == (one.success[-1], one.intervention.sum())
        assert set(mine.versions) == set(one.chunk_version)
    assert not told.memory._episodes, "nothing is kept of what is whole"


@pytest.mark.parametrize("window", WINDOWS, ids=name)
@pytest.mark.parametrize("seed", range(2))
def test_a_step_can_be_drawn_just_when_its_window_is_known(store: SegmentStore, window: Window, seed: int) -> None:
    truth = wholes(10 + seed, 8)
    pieces = [piece for whole in truth.values() for piece in whole.pieces()]
    told, there = Told(window, store), {number: set[int]() for number in truth}
    _, inputs, _ = two_robots()
    for i in np.random.default_rng(seed).permutation(len(pieces)):
        one = pieces[i]
        told.add([one], load=bool(i % 2))
        there[one.episode] |= set(range(one.first_step, one.first_step + one.steps))
        right = {Step(n, index) for n, whole in truth.items() for index in known(whole, there[n], window)}
        assert {told.steps[row] for row in told.drawable} == right
        whole = {Step(n, index) for n, whole in truth.items() if len(there[n]) == len(whole) for index in there[n]}
        assert {told.steps[row] for row in told.ended} == whole
        newest = [row for row in told.drawable if told.steps[row].episode == one.episode]
        for row, found in zip(newest, gathered(told.memory, newest), strict=True):
            step = told.steps[row]
            assert_same(found, expected(truth[step.episode], step.index, inputs, window), step)


@pytest.mark.parametrize("window", WINDOWS, ids=name)
def test_no_window_crosses_a_gap(store: SegmentStore, window: Window) -> None:
    truth = wholes(30, 12)
    told, there = Told(window, store), {number: set[int]() for number in truth}
    for n, whole in truth.items():
        cuts = [0, *sorted({len(whole) // 3, 2 * len(whole) // 3} - {0}), len(whole)]
        pieces = replace_cuts(whole, cuts).pieces()
        for i in (0, *range(2, len(pieces))):
            told.add([pieces[i]])
            there[n] |= set(range(pieces[i].first_step, pieces[i].first_step + pieces[i].steps))
    right = {Step(n, index) for n, whole in truth.items() for index in known(whole, there[n], window)}
    assert {told.steps[row] for row in told.drawable} == right
    assert any(len(there[n]) < len(whole) for n, whole in truth.items())
    assert {told.steps[row].episode for row in told.ended} == {n for n in truth if len(there[n]) == len(truth[n])}


def replace_cuts(whole: Whole, cuts: list[int]) -> Whole:
    return Whole(whole.segment, cuts)


def test_steps_of_no_chunk_have_no_version_and_a_chunk_goes_on_in_the_next_segment(store: SegmentStore) -> None:
    config, inputs, cells = two_robots()
    whole = make_whole(np.random.default_rng(0), 0, cells, config, 12)
    whole.segment = replace(whole.segment, chunk_executed=np.array([4, 2, 4], np.int32))  # two steps are held
    whole.cuts = [0, 2, 9, 12]
    told = Told(Window(1, 1, 0.9), store)
    told.add(whole.pieces())
    versions = [int(found["version"]) for found in gathered(told.memory, range(12))]
    a, b, c = whole.segment.chunk_version.tolist()
    assert versions == [a] * 4 + [b] * 2 + [-1] * 2 + [c] * 4
    assert versions == [expected(whole, i, inputs, told.memory.window)["version"] for i in range(12)]


# ---- what a faulty edge may send


def bogus(whole: Whole, kind: str) -> tuple[list[Any], Any]:
    """Good segments of an episode, and one that can't be of it."""
    length = len(whole)
    first, middle, last = whole.piece(0, 8), whole.piece(8, 16), whole.piece(16, length)
    none = np.zeros(8, bool)
    end = np.arange(8) == 7
    return {
        "again": ([first, middle], whole.piece(0, 8, reward=np.full(8, 99, np.float32))),
        "again-longer": ([first, middle], whole.piece(0, 12)),
        "inside": ([first, middle], whole.piece(3, 6)),
        "into-the-next": ([middle, last], whole.piece(3, 9)),
        "around": ([first, middle], whole.piece(0, 16)),
        "overlapping": ([first, last], whole.piece(6, 18)),
        "behind-the-end": (
            [whole.piece(2, 8), replace(middle, truncated=end)],
            whole.piece(16, length, terminated=none[:1].repeat(length - 16), truncated=none[:1].repeat(length - 16)),
        ),
        "a-second-end-before": ([middle, last], whole.piece(0, 8, truncated=end)),
        "a-second-end": ([first, last], whole.piece(8, 16, truncated=end)),
        "an-end-before-what-is-there": ([first, whole.piece(16, 20)], whole.piece(8, 16, truncated=end)),
    }[kind]


@pytest.mark.parametrize("window", [Window(1, 1, 0.9), Window(3, 7, 0.96)], ids=name)
@pytest.mark.parametrize(
    "kind",
    (
        "again", "again-longer", "inside", "into-the-next", "around", "overlapping", "behind-the-end",
        "a-second-end-before", "a-second-end", "an-end-before-what-is-there",
    ),
)  # fmt: skip
def test_a_segment_that_cannot_be_of_its_episode_is_refused_and_changes_nothing(
    store: SegmentStore, window: Window, kind: str
) -> None:
    config, inputs, cells = two_robots()
    rng = np.random.default_rng(1)
    whole, other = (make_whole(rng, n, cells, config, 24) for n in (0, 1))
    good, bad = bogus(whole, kind)
    told = Told(window, store)
    told.add([good[0], *other.pieces()[:1], good[1]])
    before = dict(told.drawable)
    with pytest.raises(WireError, match="episode 0"):
        told.add([bad])
    assert len(told.memory) == len(told.steps) and told.drawable == before
    told.add(other.pieces()[1:])
    if kind not in ("behind-the-end", "an-end-before-what-is-there"):
        there = {step.index for step in told.steps if step.episode == 0}
        told.add([piece for piece in (whole.piece(0, 8), whole.piece(8, 16), whole.piece(16, 24))
                  if piece.first_step not in there])  # fmt: skip
        assert len(told.finished) == 2
        truth = {0: whole, 1: other}
        rows = sorted(told.drawable)
        assert len(rows) == 48
        for row, found in zip(rows, gathered(told.memory, rows), strict=True):
            step = told.steps[row]
            assert_same(found, expected(truth[step.episode], step.index, inputs, window), step)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_faulty_edge_sends_others_have_what_they_did(store: SegmentStore, seed: int) -> None:
    rng = np.random.default_rng(seed)
    config, inputs, cells = two_robots()
    truth = wholes(50 + seed, 6)
    noise = make_whole(rng, 99, cells, config, 40)
    segments = [piece for whole in truth.values() for piece in whole.pieces()]
    for _ in range(40):
        start = int(rng.integers(0, 39))
        end = int(rng.integers(start + 1, 41))
        over = (np.arange(end - start) == end - start - 1) & (rng.random() < 0.2)
        segments.append(noise.piece(start, end, truncated=over, terminated=np.zeros_like(over)))
    window = Window(3, 7, 0.96)
    told, refused = Told(window, store), 0
    for i in rng.permutation(len(segments)):
        try:
            told.add([segments[i]])
        except WireError:
            refused += 1
    assert refused and Counter(step.episode for step in told.steps).keys() >= {*truth, 99}
    rows = sorted(told.drawable)
    for row, found in zip(rows, gathered(told.memory, rows), strict=True):
        step = told.steps[row]
        if step.episode in truth:
            assert_same(found, expected(truth[step.episode], step.index, inputs, window), step)
    good = [row for row in rows if told.steps[row].episode in truth]
    assert len(good) == sum(map(len, truth.values())) == sum(told.steps[row].episode in truth for row in told.ended)


class Record(bytearray):
    """One that can be seen to go."""


def test_what_is_kept_of_an_unfinished_episode_holds_no_record(store: SegmentStore) -> None:
    config, inputs, cells = two_robots()
    whole = make_whole(np.random.default_rng(0), 0, cells, config, 12)
    memory = ReplayMemory(inputs, Window(1, 1, 0.9), 4096)
    ((position, record),) = stored(store, [whole.piece(0, 6)])
    own = Record(record)
    held = weakref.ref(own)
    memory.add(store.records, position, memoryview(own), ONLINE)
    del own
    gc.collect()
    assert held() is None
