"""The measured delay: the longest of the last eight, and never a spike that won't come again."""

from __future__ import annotations

from robotlearn.edge.delay import OF_LATE, Delay


class Asking:
    def __init__(self) -> None:
        self.delay, self.request, self.step = Delay(), 0, 0

    def wait(self, steps: int, *, server: int = 1, version: int = 0, with_plan: bool = False) -> int | None:
        self.request += 1
        self.delay.asked(self.request, with_plan, self.step, 0.0)
        self.step += steps
        self.delay.answered(self.request, server, version, self.step, 0.1 * steps)
        return self.delay.steps


def test_it_is_the_longest_of_the_last_eight() -> None:
    asking = Asking()
    assert asking.wait(1) is None
    assert [asking.wait(steps) for steps in (2, 4, 3)] == [2, 4, 4]
    assert [asking.wait(1) for _ in range(OF_LATE)] == [4] * (OF_LATE - 2) + [3, 1]


def test_the_first_answer_of_each_kind_of_a_server_does_not_count() -> None:
    asking = Asking()
    assert asking.wait(40) is None
    assert asking.wait(2) == 2
    assert asking.wait(30, with_plan=True) == 2, "guidance is computed for the first time"
    assert asking.wait(3, with_plan=True) == 3
    assert asking.wait(50, server=2) == 3, "a server that was started again warms up again"
    assert asking.wait(30, server=2, with_plan=True) == 3
    assert asking.wait(4, server=2, with_plan=True) == 4


def test_the_first_answer_with_new_weights_counts_only_where_all_are_such() -> None:
    asking = Asking()
    asking.wait(9)
    assert asking.wait(2) == 2
    assert asking.wait(20, version=1) == 2
    assert asking.wait(3, version=1) == 3
    assert asking.wait(20, version=2) == 3
    assert asking.wait(5, version=3) == 5, "each answer brings new weights: that is how long it takes"


def test_what_was_asked_before_a_restart_or_never_is_no_measure() -> None:
    asking = Asking()
    asking.wait(1), asking.wait(1)
    asking.delay.asked(9, False, 5, 0.0)
    asking.delay.restart()
    asking.delay.answered(9, 1, 0, 9, 0.1)
    asking.delay.answered(10, 1, 0, 9, 0.1)
    assert asking.delay.steps == 1


def test_the_longest_wait_is_known_whether_it_counts_or_not() -> None:
    asking = Asking()
    asking.wait(40)
    assert asking.delay.steps is None and asking.delay.longest_s == 4.0
