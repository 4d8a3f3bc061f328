"""The pool of episodes: put together from segments in any order, each taken once, what is too stale left out."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from robotlearn.buffer.log_files import Position
from robotlearn.learner.episodes import EpisodePool, Stored, Waiting
from robotlearn.wire.segment import Group, Segment

H, N, D = 4, 2, 3


def segment(
    first_step: int = 0,
    steps: int = 4,
    *,
    episode: int = 1,
    last: bool = True,
    version: int = 0,
    edge: str = "edge",
    group: Group | None = None,
) -> Segment:
    end = np.zeros(steps, bool)
    end[-1] = last
    no = np.zeros(steps, bool)
    made = Segment(
        edge=edge,
        session=1,
        sequence=0,
        robot=f"{edge}/arm",
        embodiment="panda",
        task="reach",
        episode=episode,
        first_step=first_step,
        monotonic=np.arange(steps, dtype=np.float64),
        wall=np.arange(steps, dtype=np.float64),
        observations={"observation.state": np.full((steps + 1, 2), first_step, np.float32)},
        action_proposed=np.zeros((steps, D), np.float32),
        action_executed=np.zeros((steps, D), np.float32),
        intervention=no,
        held=no,
        reward=np.zeros(steps, np.float32),
        terminated=no,
        truncated=end,
        success=no,
        chunk_version=np.array([version], np.int64),
        chunk_start=np.zeros(1, np.int32),
        chunk_first=np.zeros(1, np.int32),
        chunk_executed=np.array([min(H, steps)], np.int32),
        chunk_lag=np.zeros(1, np.int32),
        chunk_path=np.full((1, N + 1, H, D), first_step, np.float32),
        chunk_stochastic=np.ones((1, N), bool),
        chunk_log_prob=np.zeros((1, N, H), np.float32),
        group=group,
    )
    made.validate()
    return made


def at(offset: int) -> Position:
    return Position(0, offset, 64)


def stored(*segments: Segment, start: int = 0) -> list[Stored]:
    return [(one, at(64 * (start + i))) for i, one in enumerate(segments)]


def parts(episode: int = 1, versions: tuple[int, ...] = (0, 0, 0)) -> list[Segment]:
    """An episode in three segments, of 4, 8 and 4 steps."""
    shape = [(0, 4, False), (4, 8, False), (12, 4, True)]
    return [
        segment(first, steps, last=last, episode=episode, version=version)
        for (first, steps, last), version in zip(shape, versions, strict=True)
    ]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_segments_come_in_any_order(order: tuple[int, ...]) -> None:
    pool = EpisodePool(0)
    three = stored(*parts())
    assert [len(pool.add([three[i]])) for i in order] == [0, 0, 1]
    (waiting,), skipped = pool.take(1)
    assert skipped == 0 and len(waiting.episode) == 16
    np.testing.assert_array_equal(waiting.episode.start, [0, 4, 12])
    assert sorted(waiting.positions) == [at(0), at(64), at(128)]
    assert len(pool) == 0 and not pool.positions()


def test_episodes_of_two_edges_with_one_number_are_two() -> None:
    pool = EpisodePool(0)
    pool.add(stored(segment(edge="left", last=False), segment(edge="right", last=False)))
    assert [one.edge for one in pool.add(stored(segment(4, edge="right")))] == ["right"]
    assert [one.edge for one in pool.add(stored(segment(4, edge="left")))] == ["left"]


def test_too_few_are_not_taken() -> None:
    pool = EpisodePool(0)
    pool.add(stored(segment()))
    with pytest.raises(ValueError, match="2 episodes asked for, 1 are ready"):
        pool.take(2)
    assert len(pool) == 1


def test_under_a_bound_the_stalest_come_first_and_what_is_beyond_is_skipped() -> None:
    pool = EpisodePool(2)
    # An episode is as stale as its oldest chunk.
    pool.add(stored(*parts(3, (5, 5, 5)), *parts(1, (2, 3, 4)), *parts(2, (3, 3, 3))))
    assert pool.drop_stale(5) == 1
    assert pool.skipped_stale == 1
    taken, _ = pool.take(2)
    assert [(one.oldest_version, one.newest_version) for one in taken] == [(3, 3), (5, 5)]


def test_without_a_bound_the_newest_are_taken_and_the_rest_is_skipped() -> None:
    pool = EpisodePool(math.inf)
    pool.add(stored(*(segment(episode=i, version=i) for i in range(5))))
    assert pool.drop_stale(100) == 0
    taken, skipped = pool.take(2)
    assert [one.oldest_version for one in taken] == [3, 4]
    assert skipped == 3 == pool.skipped_stale
    assert len(pool) == 0


def test_the_work_of_another_runs_weights_is_skipped() -> None:
    """An edge that was cut off from another run's learner brings versions that this one has never made."""
    pool = EpisodePool(math.inf)
    pool.add(stored(segment(episode=1, version=57), segment(episode=2, version=1)))
    assert pool.drop_stale(1) == 1
    assert [one.oldest_version for one in pool.take(1)[0]] == [1]


def test_positions_are_those_of_all_that_is_held_in_the_logs_order() -> None:
    pool = EpisodePool(0)
    one, two = parts(1), parts(2)
    pool.add([(one[2], at(640)), (two[0], at(64)), (one[0], at(128)), (segment(episode=3), at(0)), (one[1], at(256))])
    assert pool.positions() == [at(0), at(64), at(128), at(256), at(640)]
    pool.take(2)
    assert pool.positions() == [at(64)], "what is taken is no longer held; what is unfinished is"


def test_an_episode_whose_middle_never_comes_is_dropped_after_a_while() -> None:
    pool = EpisodePool(0)
    one, two = parts(1), parts(2)
    pool.add(stored(one[0], one[2], two[0]))
    assert pool.drop_unfinished(patience_s=3600) == 0
    assert pool.drop_unfinished(patience_s=-1) == 1, "one has ended, and the learner's gate counts it"
    assert pool.dropped_unfinished == 1
    assert pool.positions() == [at(128)], "the one that has not ended may still go on"


def test_unfinished_episodes_beyond_the_bound_are_dropped_the_longest_untouched_first() -> None:
    pool = EpisodePool(0, max_parts=2)
    first, second, third = (parts(i) for i in range(3))
    pool.add(stored(first[0], second[0], third[0], first[1]))
    assert pool.drop_unfinished() == 0
    assert pool.dropped_unfinished == 1
    assert len(pool.add(stored(first[2]))) == 1
    assert len(pool.add(stored(third[1], third[2]))) == 1


def test_an_edge_whose_segments_do_not_fit_together_harms_only_itself() -> None:
    pool = EpisodePool(0)
    # The numbers of steps add up, and yet step 0 to 3 are there twice and 4 to 7 are missing.
    pool.add(stored(segment(0, last=False), segment(0, last=False), segment(8), segment(episode=2)))
    assert len(pool) == 1
    assert pool.drop_unfinished() == 1, "it had ended, and the learner's gate counts it"
    assert pool.drop_unfinished() == 0
    assert pool.dropped_unfinished == 1


# ---- groups


def member(group: int, number: int, version: int = 0, size: int = 3, edge: str = "edge") -> Segment:
    """An episode of a group of three."""
    one = Group(group, number, size)
    return segment(episode=100 * group + number, version=version, group=one, edge=edge)


def grouped(max_staleness: float, *members: Segment) -> EpisodePool:
    pool = EpisodePool(max_staleness, group=3)
    pool.add(stored(*members))
    return pool


def names(taken: list[Waiting]) -> list[tuple[int, int]]:
    return [(one.episode.group.id, one.episode.group.member) for one in taken if one.episode.group is not None]


def test_only_whole_groups_can_be_taken() -> None:
    pool = grouped(0, member(1, 0), member(2, 2), member(1, 2), member(2, 0))
    assert (len(pool), pool.apart) == (0, 4)
    assert len(pool.add(stored(member(1, 1)))) == 1, "an episode is complete though its group may not be"
    assert (len(pool), pool.apart) == (3, 2)
    taken, skipped = pool.take(3)
    assert names(taken) == [(1, 0), (1, 1), (1, 2)] and skipped == 0
    assert (len(pool), pool.apart) == (0, 2)
    for count in (2, 3):
        with pytest.raises(ValueError, match=f"{count} episodes asked for, 0 are ready in groups of 3"):
            pool.take(count)


def test_equal_numbers_of_two_edges_are_two_groups() -> None:
    pool = grouped(0, member(1, 0), member(1, 1), member(1, 2, edge="other"))
    assert (len(pool), pool.apart) == (0, 3)


def test_the_group_with_the_stalest_episode_is_taken_first_and_without_a_bound_the_newest() -> None:
    members = [member(group, i, version=version) for group, version in ((1, 3), (2, 1), (3, 2)) for i in range(3)]
    pool = grouped(9, *members)
    assert {one.oldest_version for one in pool.take(6)[0]} == {1, 2}
    pool = grouped(math.inf, *members, member(4, 0, version=4))
    taken, skipped = pool.take(3)
    assert {one.oldest_version for one in taken} == {2} and skipped == 6
    assert (len(pool), pool.apart) == (0, 1)


def test_a_group_is_skipped_as_stale_whole_complete_or_not() -> None:
    pool = grouped(1, *(member(1, i, version=1) for i in range(3)), member(2, 0, version=1), member(3, 1, version=2))
    assert pool.drop_stale(2) == 0
    assert pool.drop_stale(3) == 4 == pool.skipped_stale
    assert (len(pool), pool.apart) == (0, 1)


def test_what_a_checkpoint_keeps_of_incomplete_groups() -> None:
    pool = EpisodePool(0, group=3)
    pool.add([(member(1, 0), at(640)), (member(1, 1), at(64)), (segment(last=False, group=Group(1, 2, 3)), at(128))])
    assert pool.positions() == [at(64), at(128), at(640)]


def test_an_incomplete_group_is_given_up_once_its_edge_has_been_quiet_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = grouped(0, member(1, 0), member(1, 1), member(2, 0, edge="other"))
    clock = [1000.0]
    monkeypatch.setattr("robotlearn.learner.episodes.time.monotonic", lambda: clock[0])
    patience = {"edge": math.inf, "other": 60.0}

    def look(seconds: float) -> int:
        clock[0] += seconds
        return pool.drop_incomplete(patience.__getitem__)

    assert look(0) == look(59) == 0
    patience["edge"] = 5.0  # it has ended what it ran: from now on it is quiet
    assert look(2) == 1, "the other edge was away for a minute"
    assert look(4.9) == 0
    pool.add(stored(segment(last=False, episode=7)))
    assert look(1) == 0, "something came from it"
    assert look(4.9) == 0
    assert look(0.2) == 2
    assert (pool.groups_incomplete, pool.dropped_incomplete, pool.apart) == (2, 3, 0)
    pool.add(stored(member(1, 2)))
    assert (len(pool), pool.apart) == (0, 1), "who comes late is alone"
    assert look(0) == 0
    assert look(5) == 1


def test_incomplete_groups_beyond_the_bound_are_dropped_the_oldest_first() -> None:
    pool = EpisodePool(0, max_parts=2, group=3)
    pool.add(stored(member(1, 0), member(2, 0), member(3, 0), member(1, 1)))
    assert pool.drop_incomplete(lambda edge: math.inf) == 2 == pool.dropped_incomplete
    assert pool.drop_incomplete(lambda edge: math.inf) == 0
    pool.add(stored(member(2, 1), member(3, 1), member(2, 2), member(3, 2)))
    assert len(pool) == 6


def test_a_group_that_began_under_several_versions_is_dropped() -> None:
    pool = grouped(9, member(1, 0, version=3), member(1, 1, version=3), member(1, 2, version=4))
    assert (len(pool), pool.apart, pool.groups_incomplete) == (0, 0, 1)
    assert pool.drop_unfinished() == 3, "they had ended, and the learner's gate counts them"


@pytest.mark.parametrize("odd", [member(1, 0), segment(episode=9)], ids=["its place is taken", "of no group"])
def test_an_episode_that_fits_in_no_group_is_dropped(odd: Segment) -> None:
    pool = grouped(9, member(1, 0), member(1, 1))
    pool.add(stored(odd))
    assert pool.dropped_incomplete == 1 == pool.drop_unfinished()
    pool.add(stored(member(1, 2)))
    assert len(pool) == 3
