"""The rate limiter: when updates are due, how far edges may be ahead, and that nobody waits for ever."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from robotlearn.errors import ConfigError
from robotlearn.replay.rate_limiter import RateLimiter
from robotlearn.wire.gate import StalenessGate


@pytest.mark.parametrize("starts_after", (0, 1, 500))
@pytest.mark.parametrize(("ratio", "steps_per_update"), ((1.0, 50), (0.25, 64), (0.3, 1), (20.0, 7), (0.7, 7)))
def test_an_update_is_due_once_its_steps_are_there(ratio: float, steps_per_update: int, starts_after: int) -> None:
    limiter = RateLimiter(ratio, steps_per_update, starts_after, max_staleness=1, episode_steps=10)
    per_update = Fraction(steps_per_update) / Fraction(str(ratio))
    for _ in range(2000):
        there = math.floor((limiter.steps - starts_after) / per_update)
        assert limiter.due == (there > limiter.updates) == (limiter.missing <= 0)
        if limiter.due:
            limiter.updates += 1
        else:
            before = limiter.missing
            limiter.steps += 1
            assert limiter.missing == before - 1
    while limiter.due:
        limiter.updates += 1
    assert limiter.updates == max(0, math.floor((limiter.steps - starts_after) / per_update))


def test_what_is_held_is_told() -> None:
    limiter = RateLimiter(0.5, 10, 100, max_staleness=0, episode_steps=10)
    assert limiter.held == 0
    limiter.steps, limiter.updates = 180, 3
    assert limiter.held == 30 / 80
    limiter.steps = 100
    assert limiter.held == 0


def test_how_far_edges_may_be_ahead_is_counted_in_episodes_of_mean_length() -> None:
    limiter = RateLimiter(0.5, 50, 1000, max_staleness=1, episode_steps=100)
    assert limiter.ahead() == (10, 0), "before training begins nobody waits"
    limiter.steps = 1000
    assert limiter.ahead() == (2, 0), "two updates of 100 steps"
    limiter.steps = 1150
    assert limiter.ahead() == (2, 1)
    for _ in range(200):
        limiter.ended(20)
    assert limiter.episode_steps == 20 and limiter.ahead() == (10, 7)
    limiter.updates = 1
    assert limiter.ahead() == (10, 2)
    for _ in range(200):
        limiter.ended(0)
    assert limiter.ahead() == (200, 50), "an episode has at least one step"


@pytest.mark.parametrize(
    ("ratio", "steps_per_update", "starts_after", "staleness"),
    (
        (0.0, 50, 0, 1), (-1.0, 50, 0, 1), (math.nan, 50, 0, 1), (math.inf, 50, 0, 1), (1.0, 0, 0, 1),
        (1.0, 50, -1, 1), (1.0, 50, 0, -1), (1.0, 50, 0, math.inf), (1.0, 50, 0, math.nan), (5e-324, 50, 0, 1),
    ),
)  # fmt: skip
def test_numbers_that_cannot_work_are_refused(
    ratio: float, steps_per_update: int, starts_after: int, staleness: float
) -> None:
    with pytest.raises(ConfigError, match=f"{steps_per_update}.*no update would ever be due, or all at once, or edges"):
        RateLimiter(ratio, steps_per_update, starts_after, max_staleness=staleness, episode_steps=10)


class World:
    """A learner as `ReplayFeed` does it, with its gate, and edges whose episodes come in pieces, in any order."""

    def __init__(self, limiter: RateLimiter, arms: list[int], chance: random.Random, lengths: list[int]) -> None:
        self.limiter, self.chance, self.lengths = limiter, chance, lengths
        self.gate = StalenessGate(1, 0)
        self.arms = {f"edge-{i}": count for i, count in enumerate(arms)}
        for edge, count in self.arms.items():
            self.gate.running(edge, 1, 0)
            self.gate.want(edge, 1, count)
        self.running: list[tuple[str, int, list[int]]] = []
        """Edge, length, and the pieces still to come."""
        self.coming: list[tuple[int, int]] = []
        """Steps of a piece that is stored, and 0 or the length of the episode that it ends."""
        self.pace()

    def pace(self) -> None:
        self.gate.pace(*self.limiter.ahead())

    def grant(self) -> None:
        for edge, _, count, _ in self.gate.poll(0):
            for _ in range(count):
                length = self.chance.choice(self.lengths)
                cut = self.chance.randint(0, length - 1)
                self.running.append((edge, length, [piece for piece in (cut, length - cut) if piece]))

    def record(self) -> None:
        """An edge goes on with one of its episodes."""
        number = self.chance.randrange(len(self.running))
        edge, length, pieces = self.running[number]
        piece = pieces.pop(0)
        self.coming.append((piece, 0 if pieces else length))
        if not pieces:
            self.running.pop(number)
            self.gate.accepted(1)
            self.gate.ended(edge, 1)
            self.gate.want(edge, 1, self.arms[edge] - sum(of == edge for of, _, _ in self.running))
        self.take_in()

    def take_in(self) -> None:
        ended = 0
        while self.coming and not self.limiter.due:
            steps, length = self.coming.pop(0)
            self.limiter.steps += steps
            if length:
                self.limiter.ended(length)
                ended += 1
        self.gate.consumed(ended)
        self.pace()

    def learn(self) -> None:
        self.limiter.updates += 1
        self.pace()
        self.take_in()

    def live(self, turns: int) -> None:
        for _ in range(turns):
            self.grant()
            able = [act for act, can in ((self.record, self.running), (self.learn, self.limiter.due)) if can]
            assert able, "everybody waits for somebody else"
            self.chance.choice(able)()
        # What is there is learnt from; then edges must be let go on.
        while self.limiter.due:
            self.learn()
        assert not self.coming
        self.grant()
        assert self.running


@settings(max_examples=60)
@given(
    ratio=some.sampled_from([0.01, 0.1, 0.25, 0.3, 0.7, 1.0, 3.0, 20.0]),
    steps_per_update=some.sampled_from([1, 3, 7, 50, 640]),
    starts_after=some.sampled_from([0, 1, 10, 1000]),
    staleness=some.integers(0, 3),
    arms=some.lists(some.integers(1, 40), min_size=1, max_size=3),
    lengths=some.lists(some.sampled_from([1, 2, 5, 30, 100, 1000]), min_size=1, max_size=3),
    episode_steps=some.sampled_from([1, 30, 5000]),
    seed=some.integers(0, 2**32),
)
@example(0.01, 1, 0, 0, [1], [1], 5000, 0)
@example(20.0, 1, 0, 0, [40], [1000], 1, 0)
def test_nobody_waits_for_ever_and_the_ratio_is_held(
    ratio: float, steps_per_update: int, starts_after: int, staleness: int, arms: list[int], lengths: list[int],
    episode_steps: int, seed: int,
) -> None:  # fmt: skip
    limiter = RateLimiter(ratio, steps_per_update, starts_after, max_staleness=staleness, episode_steps=episode_steps)
    world = World(limiter, arms, random.Random(seed), lengths)
    world.live(200)
    per_update = steps_per_update / ratio
    done = (limiter.steps - starts_after) / per_update
    assert limiter.updates == 0 > done or limiter.updates <= done + 1e-9 < limiter.updates + 1 + 1e-6
    if limiter.updates > 200:
        assert limiter.held == pytest.approx(ratio, rel=0.01)


@settings(max_examples=30)
@given(
    seed=some.integers(0, 2**32),
    ratio=some.sampled_from([0.4, 0.5, 2.0]),
    staleness=some.integers(0, 3),
    length=some.sampled_from([3, 10, 50]),
)
def test_with_a_slow_learner_edges_are_ahead_by_no_more_than_the_window_and_what_runs(
    seed: int, ratio: float, staleness: int, length: int
) -> None:
    chance, arms, per_update = random.Random(seed), 5, 20 / ratio
    limiter = RateLimiter(ratio, 20, 0, max_staleness=staleness, episode_steps=length)
    world = World(limiter, [arms], chance, [length])
    for _ in range(50):
        while True:
            world.grant()
            if not world.running:
                break
            world.record()
        waiting = limiter.steps + sum(steps for steps, _ in world.coming) - limiter.updates * per_update
        assert (staleness + 1) * per_update <= waiting + arms * length, "no edge was held too early"
        assert waiting < (staleness + 1) * per_update + 2 * length + 1, "nor too late"
        world.learn()
