"""Batches gathered ahead: the same as without, whole while they are learnt from, and going on without what is gone."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from robotlearn.algorithms.transitions import Transitions, Window
from robotlearn.buffer.log_files import LogReader, Position
from robotlearn.buffer.store import SegmentStore
from robotlearn.config.replay import PartConfig
from robotlearn.errors import LogError
from robotlearn.replay import batches as batches_module
from robotlearn.replay.batches import BatchMaker
from robotlearn.replay.memory import ReplayMemory
from robotlearn.replay.sampling import ONLINE, Sampling
from tests.replay.whole import Step, Whole, assert_same, expected, make_whole, stored, two_robots

WINDOW = Window(2, 5, 0.9)
SIZE = 16
PARTS = {
    "uniform": [PartConfig()],
    "mixed": [
        PartConfig(share=0.5, how="prioritized", balance=("robot",)),
        PartConfig(share=0.25, how="newest"),
        PartConfig(share=0.25, source="successes"),
    ],
}


class Filled:
    """A memory with episodes in a log, whose images are all read from there."""

    def __init__(
        self, path: Path, how: str, *, spoil: Callable[[list[tuple[Step, Position]], Path], object] | None = None
    ) -> None:
        config, self.inputs, cells = two_robots()
        rng = np.random.default_rng(1)
        self.truth: dict[int, Whole] = {i: make_whole(rng, i, cells, config, 20) for i in range(8)}
        self.steps: list[Step] = []
        self.places: list[tuple[Step, Position]] = []
        """First step of each segment, and where it is."""
        self.memory = ReplayMemory(self.inputs, WINDOW, 0)
        self.sampling = Sampling(PARTS[how])
        pieces = [piece for whole in self.truth.values() for piece in whole.pieces()]
        with SegmentStore(path, sync="process", file_bytes=64 << 10) as store:
            appended = stored(store, pieces)
        log = LogReader(path / "records")  # which has no file open yet
        for one, (position, record) in zip(pieces, appended, strict=True):
            found, _ = self.memory.add(log, position, record, ONLINE, load=False)
            for steps in found:
                self.sampling.add(steps)
            self.steps += [Step(one.episode, one.first_step + i) for i in range(one.steps)]
            self.places.append((Step(one.episode, one.first_step), position))
        if spoil is not None:
            spoil(self.places, path / "records")
        self.maker = BatchMaker(self.memory, self.sampling, SIZE)

    def learn(self, count: int, seed: int = 0) -> list[Transitions]:
        """Copies of the batches of an update, with priorities that depend on what is drawn."""
        batches, found = self.maker.batches(count, np.random.default_rng(seed)), []
        for batch in batches:
            batches.prioritize(batch, batch.rows.double() % 7 + batch.reward)
            found.append(copied(batch))
        return found

    def check(self, batch: Transitions) -> None:
        for i, row in enumerate(batch.rows.tolist()):
            step = self.steps[row]
            right = expected(self.truth[step.episode], step.index, self.inputs, WINDOW)
            found = {name: getattr(batch, name)[i].numpy() for name in right if name not in ("now", "next")}
            found |= {"now": {key: value[i].numpy() for key, value in batch.observations.items()}}
            found |= {"next": {key: value[i].numpy() for key, value in batch.next_observations.items()}}
            assert_same(found, right, step)


def copied(batch: Transitions) -> Transitions:
    values = {
        name: {key: tensor.clone() for key, tensor in value.items()} if isinstance(value, dict) else value.clone()
        for name, value in vars(batch).items()
    }
    return Transitions(**values)


def alike(one: Transitions, other: Transitions) -> bool:
    for name, value in vars(one).items():
        there = getattr(other, name)
        pairs = [(value[key], there[key]) for key in value] if isinstance(value, dict) else [(value, there)]
        if not all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs):
            return False
    return True


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Callable[..., Filled]]:
    made: list[Filled] = []

    def fill(how: str = "mixed", name: str = "log", **options: object) -> Filled:
        made.append(Filled(tmp_path / name, how, **options))  # type: ignore[arg-type]
        return made[-1]

    yield fill
    for each in made:
        each.maker.close()


def test_batches_hold_what_their_steps_are(filled: Callable[..., Filled]) -> None:
    one = filled()
    batches = one.learn(20)
    assert len(batches) == 20
    for batch in batches:
        one.check(batch)
    assert len({row for batch in batches for row in batch.rows.tolist()}) > 100
    assert any((batch.weight < 1).any() for batch in batches)


def test_gathering_ahead_changes_nothing(filled: Callable[..., Filled], monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = [filled("uniform", f"a{seed}").learn(9, seed) for seed in range(3)]
    monkeypatch.setattr(batches_module, "AHEAD", 0)
    alone = [filled("uniform", f"b{seed}").learn(9, seed) for seed in range(3)]
    for one, other in zip(ahead, alone, strict=True):
        assert len(one) == len(other) == 9 and all(map(alike, one, other))


def test_with_priorities_a_batch_is_drawn_when_the_one_two_before_it_is_handed_out(
    filled: Callable[..., Filled],
) -> None:
    found = filled("mixed", "a").learn(12)
    other = filled("mixed", "b")
    rng, drawn, right = np.random.default_rng(0), [], []
    for number in range(12):
        while len(drawn) < min(12, number + 1 + batches_module.AHEAD):
            drawn.append(other.sampling.draw(SIZE, rng))
        draw, out = drawn[number], other.memory.buffers(SIZE)
        other.memory.gather(draw.rows, out)
        draw.prioritize((draw.rows % 7 + out["flat"]["reward"].double().numpy()).astype(np.float64))
        right.append((draw.rows, draw.weight))
    for batch, (rows, weight) in zip(found, right, strict=True):
        assert np.array_equal(batch.rows, rows) and np.array_equal(batch.weight, weight)


def test_a_batch_holds_until_the_one_after_the_next_is_asked_for(filled: Callable[..., Filled]) -> None:
    one = filled()
    for _ in range(2):  # the buffers are used again by the next update
        before: list[tuple[Transitions, Transitions]] = []
        for batch in one.maker.batches(10, np.random.default_rng(1)):
            one.memory.gather(np.zeros(1, np.int64), one.memory.buffers(1))  # time for the other thread
            for given, copy in [*before[-1:], (batch, copied(batch))]:
                assert alike(given, copy)
            before.append((batch, copied(batch)))


def test_memory_is_used_again(filled: Callable[..., Filled]) -> None:
    one = filled()
    places = [batch.actions.data_ptr() for _ in range(3) for batch in one.maker.batches(6, np.random.default_rng(0))]
    assert len(set(places)) == batches_module.AHEAD + 2


def test_what_is_given_up_early_harms_nothing(filled: Callable[..., Filled]) -> None:
    one, other = filled("uniform", "a"), filled("uniform", "b")
    for _ in range(5):
        for batch in one.maker.batches(10, np.random.default_rng(3)):
            kept, copy = batch, copied(batch)
            break
        assert alike(kept, copy), "nothing is written to any more"
    with pytest.raises(KeyError):
        for _ in one.maker.batches(10, np.random.default_rng(3)):
            raise KeyError
    one.maker.batches(10, np.random.default_rng(3))  # not even begun
    assert all(map(alike, one.learn(6, 1), other.learn(6, 1)))


def test_when_batches_are_given_up_nothing_is_gathered_any_more(
    filled: Callable[..., Filled], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, gather, done = filled("uniform"), ReplayMemory.gather, []

    def slow(self: ReplayMemory, *arguments: object) -> None:
        gather(self, *arguments)  # type: ignore[arg-type]
        time.sleep(0.02)
        done.append(None)

    monkeypatch.setattr(ReplayMemory, "gather", slow)
    for _ in one.maker.batches(10, np.random.default_rng(3)):
        break
    assert len(done) == 1 + batches_module.AHEAD


def test_a_batch_is_rated_while_it_is_the_last_or_the_one_before(filled: Callable[..., Filled]) -> None:
    one = filled()
    batches = one.maker.batches(4, np.random.default_rng(0))
    given = list(batches)
    for batch in given[-2:]:
        batches.prioritize(batch, torch.ones(SIZE))
    with pytest.raises(ValueError, match="not the last one or the one before"):
        batches.prioritize(given[1], torch.ones(SIZE))


def test_fewer_batches_than_are_gathered_ahead(filled: Callable[..., Filled]) -> None:
    one = filled()
    assert [len(one.learn(count)) for count in (0, 1, 2, 5)] == [0, 1, 2, 5]


# ---- images that can't be read any more


def file_of(position: Position, records: Path) -> Path:
    return records / f"{position.file:016d}.log"


def delete_a_file(places: list[tuple[Step, Position]], records: Path) -> set[Step]:
    """The second of its files; the first steps of the segments that were in it."""
    number = sorted({position.file for _, position in places})[1]
    gone = {step for step, position in places if position.file == number}
    os.remove(file_of(next(p for s, p in places if s in gone), records))
    return gone


def at_start(whole: Whole, number: int, index: int) -> Step:
    """The segment that a step is in."""
    return Step(number, max(cut for cut in whole.cuts[:-1] if cut <= index))


def at_end(whole: Whole, number: int, index: int) -> Step:
    """The segment that the last step of its window is in."""
    return at_start(whole, number, min(index + WINDOW.steps, len(whole)) - 1)


def seen_in(one: Filled, gone: set[Step]) -> set[Step]:
    """The steps whose windows show observations of these segments."""
    return {
        Step(n, i)
        for n, whole in one.truth.items()
        for i in range(len(whole))
        if {at_start(whole, n, i), at_end(whole, n, i)} & gone
    }


@pytest.mark.parametrize("how", ("uniform", "mixed"))
def test_what_cannot_be_read_is_drawn_no_more_and_the_rest_goes_on(
    filled: Callable[..., Filled], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    gone: set[Step] = set()
    one = filled(how, spoil=lambda places, records: gone.update(delete_a_file(places, records)))
    lost = seen_in(one, gone)
    assert lost and len(lost) < len(one.steps)
    with caplog.at_level(logging.ERROR):
        batches = [batch for seed in range(8) for batch in one.learn(10, seed)]
    assert len(batches) == 80
    for batch in batches:
        one.check(batch)
    drawn = {one.steps[row] for batch in batches for row in batch.rows.tolist()}
    assert not drawn & lost
    places = dict(one.places)
    assert {position for _, position in one.memory.dropped} <= {places[step] for step in gone}
    said = [record.message for record in caplog.records if "drawn no more" in record.message]
    assert sum(int(each.split()[0]) for each in said) == len(one.memory.dropped), "each once"
    left = {one.steps[row] for group in one.sampling.parts[0]._groups.values() for row in group.rows.tolist()}
    assert left == {Step(n, i) for n, whole in one.truth.items() for i in range(len(whole))} - lost


def test_of_each_step_it_is_known_what_cannot_be_read(filled: Callable[..., Filled]) -> None:
    gone: set[Step] = set()
    one = filled("uniform", spoil=lambda places, records: gone.update(delete_a_file(places, records)))
    numbers = {step: number for number, (step, _) in enumerate(one.places)}
    found = {one.steps[row]: set(one.memory.unreadable(np.array([row]))) for row in range(len(one.steps))}
    assert found == {
        Step(n, i): {numbers[shown] for shown in (at_start(whole, n, i), at_end(whole, n, i)) if shown in gone}
        for n, whole in one.truth.items()
        for i in range(len(whole))
    }


def test_what_is_drawn_instead_depends_on_the_seed_alone(filled: Callable[..., Filled]) -> None:
    one, other = (filled("mixed", name, spoil=delete_a_file) for name in "ab")
    for seed in range(4):
        assert all(map(alike, one.learn(10, seed), other.learn(10, seed)))
    assert one.memory.dropped


def test_a_step_whose_window_shows_what_is_lost_is_not_told_of_later(
    filled: Callable[..., Filled], tmp_path: Path
) -> None:
    config, inputs, cells = two_robots()
    whole = make_whole(np.random.default_rng(5), 0, cells, config, 20)
    memory = ReplayMemory(inputs, WINDOW, 0)
    pieces = {start: whole.piece(start, start + 5) for start in (0, 5, 10, 15)}
    with SegmentStore(tmp_path, sync="process") as store:
        places = dict(zip((10, 5, 0, 15), stored(store, [pieces[i] for i in (10, 5, 0, 15)]), strict=True))
        memory.add(store.records, *places[10], ONLINE)
        alive = memory.drop_at([(store.records, places[10][0])])
        assert not alive.any()
        told = [memory.add(store.records, *places[start], ONLINE)[0] for start in (5, 0, 15)]
    # Rows 5 to 9 are steps 5 to 9; a window of five steps from step 5 on shows what is seen after step 9, and no more.
    rows = [[steps.rows.tolist() for steps in found if steps.success is None and len(steps.rows)] for found in told]
    assert rows == [[[5]], [[10, 11, 12, 13, 14]], [[15, 16, 17, 18, 19]]]
    assert told[-1][-1].rows.tolist() == [5, *range(10, 20)] and told[-1][-1].success is not None


def test_a_priority_that_comes_after_a_loss_is_no_other_steps(
    filled: Callable[..., Filled], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, gather, calls = filled("mixed"), ReplayMemory.gather, []

    def failing(self: ReplayMemory, *arguments: object) -> None:
        calls.append(None)
        if len(calls) == 2:
            raise LogError("the first segment can't be read")
        gather(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ReplayMemory, "gather", failing)
    monkeypatch.setattr(ReplayMemory, "unreadable", lambda self, rows: [0])
    batches = one.maker.batches(4, np.random.default_rng(0))
    each = iter(batches)
    first = next(each)
    second = next(each)
    assert one.memory.dropped, "between the two"
    before = one.sampling.state()
    batches.prioritize(first, torch.full((SIZE,), 5.0))
    assert all(np.array_equal(value, before[name]) for name, value in one.sampling.state().items())
    batches.prioritize(second, torch.full((SIZE,), 5.0))
    weights = {row: w for group in one.sampling.parts[0]._groups.values()
               for row, w in zip(group.rows.tolist(), group.state()["weights"].tolist(), strict=True)}  # fmt: skip
    assert {row for row, weight in weights.items() if weight > 2} == set(second.rows[: SIZE // 2].tolist())


def test_with_nothing_left_batches_end(filled: Callable[..., Filled]) -> None:
    def delete_all(places: list[tuple[Step, Position]], records: Path) -> None:
        for path in records.iterdir():
            path.unlink()

    one = filled("uniform", spoil=delete_all)
    assert one.learn(5) == [] and not len(one.sampling)


@pytest.mark.parametrize("times", (1, 2))
def test_an_error_that_no_segment_explains_is_forgiven_once(
    filled: Callable[..., Filled], monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    one, undisturbed = filled("uniform"), filled("uniform", "undisturbed").learn(10)
    gather, calls = ReplayMemory.gather, []

    def failing(self: ReplayMemory, *arguments: object) -> None:
        calls.append(None)
        if 3 <= len(calls) < 3 + times:
            raise LogError("the disk hiccups")
        gather(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ReplayMemory, "gather", failing)
    if times == 1:
        for found, right in zip(one.learn(10), undisturbed, strict=True):
            assert torch.equal(found.rows, right.rows) and torch.equal(found.reward, right.reward)
        return
    with pytest.raises(LogError, match="hiccups"):
        one.learn(10)
    assert len(one.learn(10)) == 10


def test_what_was_handed_out_stays_whole_when_batches_are_drawn_anew(
    filled: Callable[..., Filled], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, gather, calls = filled("uniform"), ReplayMemory.gather, []

    def failing(self: ReplayMemory, *arguments: object) -> None:
        calls.append(None)
        if len(calls) == 3:
            raise LogError("the first segment can't be read")
        gather(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ReplayMemory, "gather", failing)
    monkeypatch.setattr(ReplayMemory, "unreadable", lambda self, rows: [0])
    before: tuple[Transitions, torch.Tensor] | None = None
    batches = one.maker.batches(8, np.random.default_rng(0))
    for batch in batches:
        batches._settle()  # what is under way has been written
        if before is not None:
            assert torch.equal(before[0].reward, before[1])
        before = batch, batch.reward.clone()
