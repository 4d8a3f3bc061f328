"""The chunk executor, tick by tick, against every order in which answers can come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotlearn.config.edge import ExecutionConfig
from robotlearn.edge.executor import ChunkExecutor

H = 4


def chunk(request: int, horizon: int = H) -> np.ndarray:
    """(H, 2): each action says which request it answers and its place in the chunk."""
    return np.stack([np.full(horizon, request), np.arange(horizon)], 1).astype(np.float32)


@dataclass
class Asked:
    request: int
    executed: int  # actions executed when the observation was made
    tick: int


# What happens in one tick beside asking and taking: which of the requests so far is answered (from the newest), or not.
Events = st.lists(
    st.tuples(st.sampled_from(["nothing", "answer", "old", "twice", "give up", "new episode"]), st.integers(0, 5)),
    min_size=5,
    max_size=60,
)


@given(Events, st.integers(1, 6), st.data())
def test_no_action_of_an_old_answer_is_executed_and_none_twice(events: list, horizon: int, data: st.DataObject) -> None:
    ahead = data.draw(st.integers(0, horizon - 1))
    executor: ChunkExecutor[int] = ChunkExecutor(horizon, ExecutionConfig(ahead=ahead))
    asked: list[Asked] = []
    open_request: int | None = None
    accepted: dict[int, Asked] = {}
    executed = starved = 0
    running: Asked | None = None
    for tick, (event, which) in enumerate(events):
        request = executor.due()
        if request is not None:
            assert open_request is None, "only one request is open at a time"
            asked.append(Asked(request, executed, tick))
            open_request = request
        if event == "new episode":
            executor.start()
            open_request, running, executed = None, None, 0
            accepted.clear()
        elif event == "give up":
            executor.give_up()
            open_request = None
        elif event in ("answer", "twice") and open_request is not None:
            for repeat in range(1 + (event == "twice")):
                taken_in = executor.offer(open_request, chunk(open_request, horizon), open_request)
                assert taken_in == (repeat == 0)
            accepted[open_request] = next(one for one in asked if one.request == open_request)
            open_request = None
        elif event == "old" and asked:
            old = asked[-1 - which % len(asked)].request
            if old != open_request:
                assert not executor.offer(old, chunk(old, horizon), old), "an answer to an old request is dropped"
        taken = executor.take()
        if taken is None:
            starved += 1
            continue
        request, index = (int(value) for value in taken.action)
        assert request in accepted, "the action comes from an answer that was accepted in this episode"
        one = accepted[request]
        if taken.began is not None:
            assert taken.began == request
            # As many are skipped as were executed since the observation; held ticks moved nothing and skip nothing.
            assert taken.first == index == executed - one.executed
            running = one
        assert running is not None and running.request == request, "never a mixture of two chunks"
        assert index == executed - one.executed
        executed += 1
    assert executor.starved == starved


def run(executor: ChunkExecutor[int], ticks: int, delay: int) -> list[tuple[int, int] | None]:
    """A tick takes answers in, asks, takes an action; an answer comes `delay` ticks after its request.

    Returns (request, index in the chunk) per tick, None where the arm starved.
    """
    done: list[tuple[int, int] | None] = []
    coming: dict[int, int] = {}
    for tick in range(ticks):
        for now in (False, True):
            if now == (delay == 0) and tick in coming:
                executor.offer(coming[tick], chunk(coming[tick]), coming[tick])
            if not now and (request := executor.due()) is not None:
                coming[tick + delay] = request
        taken = executor.take()
        done.append(None if taken is None else (int(taken.action[0]), int(taken.action[1])))
    return done


def test_in_lock_step_every_action_of_every_chunk_is_executed() -> None:
    assert run(ChunkExecutor(H, ExecutionConfig(ahead=0)), 12, 0) == [(c, i) for c in range(3) for i in range(H)]


@pytest.mark.parametrize("ahead", [1, 2], ids=lambda k: f"ahead {k}")
def test_asked_ahead_the_arm_never_starves_and_skips_as_many_actions(ahead: int) -> None:
    executor: ChunkExecutor[int] = ChunkExecutor(H, ExecutionConfig(ahead=ahead))
    assert run(executor, 1, 0) == [(0, 0)]
    rest = run(executor, 15, ahead)
    assert None not in rest and executor.starved == 0
    begun = [now for before, now in zip([(0, 0), *rest], rest, strict=False) if now[0] != before[0]]
    assert begun and all(index == ahead for _, index in begun)


def test_an_answer_that_is_late_starves_the_arm_and_held_ticks_skip_nothing() -> None:
    executor: ChunkExecutor[int] = ChunkExecutor(H, ExecutionConfig(ahead=1))
    assert run(executor, 1, 0) == [(0, 0)]
    # Asked before action 3, answered 5 ticks later: action 3 is done, then four ticks are held.
    assert run(executor, 9, 5) == [(0, 1), (0, 2), (0, 3), None, None, None, None, (1, 1), (1, 2)]
    assert executor.starved == 4


def test_what_began_is_told_once() -> None:
    executor: ChunkExecutor[str] = ChunkExecutor(H, ExecutionConfig(ahead=0))
    request = executor.due()
    assert request is not None and executor.offer(request, chunk(request), "tag")
    assert [taken.began for _ in range(H) if (taken := executor.take())] == ["tag", None, None, None]


@pytest.mark.parametrize("ahead", [4, 5])
def test_a_request_further_ahead_than_the_chunk_is_long_is_refused(ahead: int) -> None:
    with pytest.raises(ValueError, match="ahead must be between 0 and horizon - 1 = 3"):
        ChunkExecutor(H, ExecutionConfig(ahead=ahead))


def test_overlapping_chunks_are_averaged_with_the_weights_of_their_age() -> None:
    executor: ChunkExecutor[int] = ChunkExecutor(H, ExecutionConfig(way="overlap", ahead=3, decay=0.5))

    def answered(value: float) -> None:
        request = executor.due()
        assert request is not None
        executor.offer(request, np.full((H, 2), value, np.float32), int(value))

    answered(1)
    assert executor.take().action[0] == 1
    answered(2)
    older, younger = 1.0, np.exp(-0.5)
    first = executor.take()
    assert (first.began, first.first) == (2, 0)
    assert first.action[0] == pytest.approx((1 * older + 2 * younger) / (older + younger))
    answered(3)
    third = executor.take()
    weights = np.exp(-0.5 * np.arange(3))
    assert third.action[0] == pytest.approx((weights * [1, 2, 3]).sum() / weights.sum())
    executor.interrupt()  # what was planned before a person acted is worth nothing
    answered(4)
    assert executor.take().action[0] == 4


@pytest.mark.parametrize("way", ["rtc", "prefix"])
def test_a_chunk_that_goes_on_from_a_plan_begins_when_it_is_there(way: str) -> None:
    executor: ChunkExecutor[int] = ChunkExecutor(H, ExecutionConfig(way=way, ahead=3))
    assert executor.due() == 0 and len(executor.plan()) == 0
    executor.offer(0, chunk(0), 0)
    executor.take()
    assert executor.due() == 1
    np.testing.assert_array_equal(executor.plan(), chunk(0)[1:])
    executor.take()
    executor.offer(1, chunk(1), 1)
    taken = executor.take()
    # One action was executed since the observation: the new chunk's first is skipped.
    assert (taken.began, taken.first) == (1, 1) and list(taken.action) == [1, 1]


def test_a_chunk_for_a_foreseen_state_begins_after_what_was_committed() -> None:
    executor: ChunkExecutor[int] = ChunkExecutor(H, ExecutionConfig(way="vlash", ahead=3))
    executor.due()
    executor.offer(0, chunk(0), 0)
    executor.take()
    assert executor.due(2) == 1
    np.testing.assert_array_equal(executor.plan(2), chunk(0)[1:3])
    executor.offer(1, chunk(1), 1)
    done = [executor.take() for _ in range(3)]
    assert [tuple(one.action) for one in done] == [(0, 1), (0, 2), (1, 0)], "earlier than expected, it still waits"
    assert (done[2].began, done[2].first) == (1, 0)
    # Nobody knows the delay: all that is left is committed. Then the answer is late, and what was executed is skipped.
    assert executor.due(1) == 2 and len(executor.plan(1)) == 1
    assert [tuple(executor.take().action) for _ in range(2)] == [(1, 1), (1, 2)]
    executor.offer(2, chunk(2), 2)
    assert tuple(executor.take().action) == (2, 1)


def test_nothing_is_planned_where_somebody_else_acted_or_a_number_is_not_finite() -> None:
    executor: ChunkExecutor[int] = ChunkExecutor(H, ExecutionConfig(way="rtc", ahead=3))
    executor.due()
    executor.offer(0, chunk(0), 0)
    executor.take()
    executor.interrupt()
    assert executor.due() == 1 and len(executor.plan()) == 0
    broken = chunk(1)
    broken[2] = np.nan
    executor.offer(1, broken, 1)
    executor.take()
    assert len(executor.plan()) == 0


def test_of_a_wait_nothing_is_asked_before_the_chunk_is_done() -> None:
    executor: ChunkExecutor[int] = ChunkExecutor(H, ExecutionConfig(way="wait"))
    executor.due()
    executor.offer(0, chunk(0), 0)
    for _ in range(H):
        assert executor.due() is None and executor.take() is not None
    assert executor.due() == 1 and not executor.ready


@pytest.mark.parametrize("way", ["overlap", "rtc", "hold"])
def test_what_a_chunk_corrects_while_it_is_computed_is_made_up_for(way: str) -> None:
    """The first entry is a delta, the second absolute: a chunk that takes over leads to where it was meant to."""
    executor: ChunkExecutor[int] = ChunkExecutor(H, ExecutionConfig(way=way, ahead=3), deltas=1)

    def act() -> np.ndarray:
        action = executor.take().action
        executor.executed(action)
        return action

    executor.due()
    executor.offer(0, np.tile(np.float32([0.25, 7]), (H, 1)), 0)
    act()
    assert executor.due() == 1
    act()  # 0.25, while the new chunk would have gone 1
    executor.offer(1, np.tile(np.float32([1, 8]), (H, 1)), 1)
    if way == "hold":
        assert [act()[0] for _ in range(3)] == [0.25, 0.25, 1.0]
    elif way == "rtc":
        np.testing.assert_allclose(executor.plan()[:, 0], [0.25, 0.25])
        assert [tuple(act()) for _ in range(2)] == [(1.75, 8), (1, 8)]
        executor.executed(np.float32([0.5, 0]))  # a limit took or gave something: that, too, is made up for
        assert act()[0] == 0.5
    else:
        # The older leads to 0.75, the younger to 2.25; the arm is at 0.5.
        assert act()[0] == pytest.approx(np.average([0.25, 1.75], weights=[1, np.exp(-0.01)]), abs=1e-6)


def test_where_a_person_moved_the_arm_it_stays() -> None:
    executor: ChunkExecutor[int] = ChunkExecutor(H, ExecutionConfig(way="rtc", ahead=3), deltas=1)
    executor.due()
    executor.offer(0, np.full((H, 2), 0.25, np.float32), 0)
    executor.executed(executor.take().action)
    executor.due()
    for _ in range(2):  # they take over while a chunk is on its way
        executor.take()
        executor.interrupt()
        executor.executed(np.float32([-3, 0]))
    executor.offer(1, np.full((H, 2), 0.5, np.float32), 1)
    assert executor.take().action[0] == 0.5
