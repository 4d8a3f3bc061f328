"""The chunk executor, tick by tick, against every order in which answers can come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    executor: ChunkExecutor[int] = ChunkExecutor(horizon, ahead)
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
    assert run(ChunkExecutor(H, 0), 12, 0) == [(c, i) for c in range(3) for i in range(H)]


@pytest.mark.parametrize("ahead", [1, 2], ids=lambda k: f"ahead {k}")
def test_asked_ahead_the_arm_never_starves_and_skips_as_many_actions(ahead: int) -> None:
    executor: ChunkExecutor[int] = ChunkExecutor(H, ahead)
    assert run(executor, 1, 0) == [(0, 0)]
    rest = run(executor, 15, ahead)
    assert None not in rest and executor.starved == 0
    begun = [now for before, now in zip([(0, 0), *rest], rest, strict=False) if now[0] != before[0]]
    assert begun and all(index == ahead for _, index in begun)


def test_an_answer_that_is_late_starves_the_arm_and_held_ticks_skip_nothing() -> None:
    executor: ChunkExecutor[int] = ChunkExecutor(H, 1)
    assert run(executor, 1, 0) == [(0, 0)]
    # Asked before action 3, answered 5 ticks later: action 3 is done, then four ticks are held.
    assert run(executor, 9, 5) == [(0, 1), (0, 2), (0, 3), None, None, None, None, (1, 1), (1, 2)]
    assert executor.starved == 4


def test_what_began_is_told_once() -> None:
    executor: ChunkExecutor[str] = ChunkExecutor(H, 0)
    request = executor.due()
    assert request is not None and executor.offer(request, chunk(request), "tag")
    assert [taken.began for _ in range(H) if (taken := executor.take())] == ["tag", None, None, None]


@pytest.mark.parametrize("ahead", [-1, 4, 5])
def test_a_request_further_ahead_than_the_chunk_is_long_is_refused(ahead: int) -> None:
    with pytest.raises(ValueError, match="ahead must be between 0 and horizon - 1 = 3"):
        ChunkExecutor(H, ahead)
