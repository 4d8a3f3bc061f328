"""What an arm asks and does while its next chunk is computed, over a simulated arm in real time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hal import RobotSpec, load_spec
from robotlearn.config import load_config
from robotlearn.edge import local
from robotlearn.edge.arm import run_arm
from robotlearn.errors import ConfigError
from tests.edge.test_arm import EPISODE_STEPS, Bench, D, H, chunk
from tests.waiting import until

STATE, SEEN = "observation.state", "observation.environment_state"
Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Bench] = []
    spec = RobotSpec.model_validate(load_spec("panda").model_dump() | {"control_hz": 25.0, "watchdog_s": 2.0})

    def build(**execution: Any) -> Bench:
        made.append(Bench(tmp_path, spec, 0, execution=execution))
        return made[-1]

    yield build
    for bench in made:
        bench.close()


def turning(request: int) -> local.ChunkAnswer:
    """The first joint turns, each chunk at a speed of its own."""
    actions = np.zeros((H, D), np.float32)
    actions[:, 0] = 0.01 + 0.001 * (request % 3) + 1e-4 * np.arange(H)
    actions[:, -1] = 0.08
    return chunk(request, actions=actions)


def ticks(bench: Bench, count: int) -> None:
    """Until the arm's own loop did so many."""
    now = bench.control.done
    until(lambda: bench.control.done >= now + count, "the arm to go on")


def later(bench: Bench, steps: float) -> Callable[[local.ChunkRequest], list[local.ChunkAnswer]]:
    """Answers so many control steps after a request in an episode."""
    per_step = bench.env.robot.spec.ticks

    def answer(request: local.ChunkRequest) -> list[local.ChunkAnswer]:
        if request.request:
            ticks(bench, round(steps * per_step))
        return [turning(request.request)]

    return answer


def test_a_request_carries_what_the_running_chunk_has_left_and_the_measured_delay(make: Make) -> None:
    bench = make(way="rtc", ahead=3)
    bench.answer = later(bench, 1.5)
    _, lines = bench.run_episode()
    answers = {one.request: turning(one.request).actions.array() for one in bench.requests}
    first, *others = bench.requests
    assert first.plan is None and first.delay == 0
    begun = {line.chunk.request: line for line in lines if line.chunk is not None}
    for before, request in zip(begun, [*begun][1:], strict=False):
        asked = next(one for one in others if one.request == request)
        plan, line = asked.plan.array(), begun[request]
        assert 1 <= len(plan) <= 3 and 0 <= asked.delay <= len(plan)
        np.testing.assert_array_equal(plan[1:], answers[before][-len(plan) :][1:])
        # The first leads to where that chunk was meant to: what others did while it was computed is made up for.
        np.testing.assert_allclose(plan[0], answers[before][-len(plan)], atol=0.01)
        # The new chunk takes over where the plan is: as many of its actions are skipped as were executed since.
        assert line.first == sum(one.from_chunk for one in lines[line.step - line.lag : line.step])
    assert others[0].delay == len(others[0].plan.array()), "not measured yet: all of it is kept"
    assert bench.loop._delay.steps in (2, 3)
    until(lambda: bench.receive() or bench.states[-1].delay == bench.loop._delay.steps, "the delay to be reported")


def test_the_policy_is_shown_the_state_in_which_its_chunk_begins(make: Make) -> None:
    bench = make(way="vlash", ahead=3)
    bench.answer = later(bench, 1.5)
    begin, lines = bench.run_episode()
    seen = [begin.observations, *(line.observations for line in lines)]
    gains = []
    for line in lines:
        if line.chunk is None or not line.lag or not all(one.from_chunk for one in lines[: line.step]):
            continue
        asked = next(one for one in bench.requests if one.request == line.chunk.request)
        shown, then, when = (
            fields[STATE].array() for fields in (asked.observations, seen[line.step - line.lag], seen[line.step])
        )
        assert line.first == 0
        gains.append((abs(shown - when)[0], abs(then - when)[0]))
        assert shown[0] > then[0] and not np.array_equal(asked.observations[SEEN], seen[line.step - line.lag][SEEN])
    assert len(gains) > 3
    foreseen, old = np.median(gains, 0)
    assert foreseen < 0.3 * old, f"{foreseen:.4f} rad off, where the state that was seen is {old:.4f} off"


def test_where_chunks_overlap_their_mean_is_executed(make: Make) -> None:
    bench = make(way="overlap", ahead=2, decay=0.0)
    _, lines = bench.run_episode()
    starts = {line.chunk.request: line.step - line.first for line in lines if line.chunk is not None}
    answers = {request: chunk(request).actions.array() for request in starts}
    assert len(starts) > 5 and all(line.from_chunk for line in lines)
    came = np.cumsum([np.zeros(D), *(line.executed.array() for line in lines)], 0)
    running: list[int] = []
    for line in lines:
        running += [line.chunk.request] if line.chunk is not None else []
        there = [one for one in running if line.step - starts[one] < H]
        # Each leads from where the arm was meant to be when its observation was made.
        leads = [came[starts[one]] + answers[one][: line.step - starts[one] + 1].sum(0) for one in there]
        expected = np.mean(leads, 0) - came[line.step]
        expected[-1] = answers[running[-1]][0, -1]  # the gripper's width is absolute
        np.testing.assert_allclose(line.proposed.array(), expected, atol=1e-6)


def test_an_arm_that_waits_stands_still_and_its_episode_with_it(make: Make) -> None:
    bench = make(way="wait")
    bench.answer = later(bench, 3)
    moved: list[float] = []
    waits = bench.loop._wait_for_chunk

    def watched(observations: Any, stop: threading.Event) -> bool:
        before = bench.env.set_point.copy()
        there = waits(observations, stop)
        moved.append(float(np.abs(bench.env.set_point - before).max()))
        return there

    bench.loop._wait_for_chunk = watched  # type: ignore[method-assign]
    _, lines = bench.run_episode()
    assert len(lines) == EPISODE_STEPS and all(line.from_chunk and not line.held for line in lines)
    begun = [line for line in lines if line.chunk is not None]
    assert [line.step for line in begun] == list(range(0, EPISODE_STEPS, H))
    assert all(line.first == 0 and line.lag == 0 for line in begun)
    assert len(moved) == len(begun) and not any(moved)
    until(lambda: bench.receive() or bench.states[-1].episode == 1, "the arm to report")
    assert not bench.states[-1].starved


def test_a_stop_is_not_ended_by_the_rest_of_a_wait(make: Make) -> None:
    bench = make(way="wait")
    bench.answer = lambda request: [turning(request.request)]
    ask, once = bench.loop._ask, threading.Event()

    def stopped_meanwhile(observations: Any) -> None:
        ask(observations)
        if bench.loop._step == 2 * H and not bench.loop._executor.ready and not once.is_set():
            once.set()
            with bench.control._ticked:
                bench.control._stopped = "joint1 is blocked"

    bench.loop._ask = stopped_meanwhile  # type: ignore[method-assign]
    _, lines = bench.run_episode()
    assert len(lines) == 2 * H + 1 and lines[-1].truncated and "joint1 is blocked" in lines[-1].stopped


def test_a_policy_that_takes_longer_than_a_second_is_not_asked_for_ever(make: Make) -> None:
    bench = make(way="wait")
    bench.env._referee.episode_steps = 2 * H
    bench.answer = later(bench, 1.3 * 25)
    bench.loop._delay._waits.clear()
    _, lines = bench.run_episode()
    assert len(lines) == 2 * H
    assert bench.loop._delay.longest_s > 1.0


def test_a_real_arm_does_not_wait() -> None:
    config = load_config("so101-reach", ["edges.0.execution={way: wait}"])
    with pytest.raises(ConfigError, match=r"edges\.0\.execution\.way: wait is for simulated arms"):
        run_arm(config, "left", server="ipc://none", station="ipc://none", stop=threading.Event())
