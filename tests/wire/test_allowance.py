"""A rate that is not exceeded, whatever the sizes; times are given, not measured."""

import itertools
import math
import random

from robotlearn.wire.allowance import Allowance


def test_over_any_time_no_more_is_sent_than_the_rate_a_burst_and_one_message() -> None:
    rng = random.Random(1)
    allowance = Allowance(1000.0)
    now = allowance._at
    sent: list[tuple[float, int]] = []
    for _ in range(2000):
        now += rng.expovariate(5.0)
        while allowance.left(now) > 0:
            size = rng.randrange(1, 3000)
            allowance.spend(size)
            sent.append((now, size))
    times = [at for at, _ in sent]
    total = [0, *itertools.accumulate(size for _, size in sent)]
    for _ in range(2000):
        low, high = sorted(rng.sample(range(len(sent)), 2))
        assert total[high + 1] - total[low] <= 1000 * (times[high] - times[low]) + 250 + 3000 + 3000
    assert total[-1] > 0.9 * 1000 * (times[-1] - times[0]), "it uses what it may"


def test_it_says_when_something_may_be_sent_again() -> None:
    allowance = Allowance(100.0)
    now = allowance._at
    assert allowance.due(now) == math.inf
    allowance.spend(225)  # of 25 that it had
    assert allowance.left(now) == -200 and allowance.due(now) == 2.0
    assert allowance.left(now + 1.5) == -50 and allowance.left(now + 2.5) > 0
    assert allowance.left(now + 1000) == 25, "what is not used is not saved up"


def test_without_a_limit_there_is_none() -> None:
    allowance = Allowance(math.inf)
    allowance.spend(1 << 60)
    assert allowance.left(0.0) == math.inf == allowance.due(0.0)
