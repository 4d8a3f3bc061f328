"""The order of sending: interventions, what was begun, then the newest episode."""

from robotlearn.buffer.order import Key, SendOrder


def add(order: SendOrder, numbers: range | list[int], episode: int, *, starred: bool = False, last: int = -1) -> None:
    for number in numbers:
        order.add((1, number), (1, episode), starred=starred, last=number == last)


def rest(order: SendOrder) -> list[int]:
    found: list[Key] = []
    while (key := order.next()) is not None:
        found.append(key)
    assert not order and order.next() is None
    return [number for _, number in found]


def test_the_newest_episode_goes_first_and_its_records_in_their_order() -> None:
    order = SendOrder()
    add(order, range(0, 3), episode=10, last=2)
    add(order, range(3, 6), episode=11, last=5)
    assert order and rest(order) == [3, 4, 5, 0, 1, 2]


def test_an_episode_that_was_begun_is_finished_before_a_newer_one() -> None:
    order = SendOrder()
    add(order, [0, 1], episode=10)
    assert order.next() == (1, 0)
    add(order, [2, 3], episode=11)
    add(order, [4], episode=10, last=4)
    assert rest(order) == [1, 4, 2, 3]
    add(order, [5], episode=10)  # an episode of that number again: the former one was over
    add(order, [6], episode=12)
    assert rest(order) == [6, 5]


def test_an_intervention_goes_first_and_takes_its_episode_with_it() -> None:
    order = SendOrder()
    add(order, [0], episode=10)
    assert order.next() == (1, 0)
    add(order, [1], episode=10)
    add(order, [2], episode=11)
    add(order, [3], episode=11, starred=True)
    add(order, [4], episode=11)  # the person let go
    add(order, [5], episode=12)
    assert rest(order) == [2, 3, 4, 1, 5]


def test_what_is_put_back_goes_before_all_others_in_its_order() -> None:
    order = SendOrder()
    add(order, range(0, 4), episode=10)
    add(order, [4], episode=11, starred=True)
    taken = [order.next(), order.next(), order.next()]
    order.put_back(key for key in reversed(taken) if key is not None)
    assert rest(order) == [0, 1, 4, 2, 3]


def test_what_was_begun_is_known_after_everything_is_ordered_anew() -> None:
    order = SendOrder()
    add(order, [0, 1], episode=10)
    order.next()
    order.clear()
    assert not order
    add(order, [1], episode=10)  # begun before
    add(order, [2], episode=11)
    order.add((1, 3), (1, 12), starred=False, last=True, sent=True)  # handed out before, by a former process perhaps
    add(order, [4], episode=13)
    assert rest(order) == [1, 3, 4, 2]
