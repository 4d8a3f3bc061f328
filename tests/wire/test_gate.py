"""The staleness gate, by scenario."""

import math
import random

import pytest

from robotlearn.errors import ConfigError
from robotlearn.wire.gate import StalenessGate


def granted(gate: StalenessGate, version: int = 0) -> dict[str, int]:
    return {grant.edge: grant.episodes for grant in gate.poll(version)}


def gate_with(edges: dict[str, int], episodes: int = 4, staleness: float = 0, **options: int) -> StalenessGate:
    gate = StalenessGate(episodes, staleness, **options)
    for edge, wanted in edges.items():
        gate.running(edge, 1, 0)
        gate.want(edge, 1, wanted)
    return gate


@pytest.mark.parametrize("staleness", [0, 1, 4])
def test_burst_grants_just_what_the_bound_allows(staleness: int) -> None:
    gate = gate_with({"a": 1000}, staleness=staleness)
    assert granted(gate) == {"a": 4 * (staleness + 1)}
    assert granted(gate) == {}
    assert gate.outstanding == gate.bound == gate.running_at("a") and gate.wanted_by("a") == 1000 - gate.bound


def test_fewer_wanted_than_allowed_leaves_the_rest_to_others() -> None:
    gate = gate_with({"a": 1, "b": 100}, episodes=8)
    assert granted(gate) == {"a": 1, "b": 7}


def test_edges_are_served_round_robin_over_polls() -> None:
    gate = gate_with({"a": 100, "b": 100, "c": 100}, episodes=4)
    total = dict.fromkeys("abc", 0)
    for _ in range(30):
        for edge, count in granted(gate).items():
            total[edge] += count
            gate.accepted(count)
            gate.ended(edge, 1, count)
        gate.consumed(4)
        for edge in "abc":
            gate.want(edge, 1, 100)
    assert sum(total.values()) == 120 and max(total.values()) - min(total.values()) <= 1


def test_slow_consumer_stops_all_starts_until_it_consumes() -> None:
    gate = gate_with({"a": 100}, staleness=1)
    assert granted(gate) == {"a": 8}
    gate.accepted(8)
    gate.ended("a", 1, 8)
    assert gate.pending == 8 and granted(gate) == {}
    gate.consumed(4)
    assert granted(gate, version=1) == {"a": 4}
    assert granted(gate, version=1) == {}


def test_skipped_as_stale_makes_room_else_the_learner_would_starve() -> None:
    gate = gate_with({"a": 100})
    granted(gate)
    gate.accepted(4)
    gate.ended("a", 1, 4)
    gate.skipped(3)
    assert granted(gate) == {"a": 3}


def test_dead_edge_frees_what_it_was_running() -> None:
    gate = gate_with({"a": 100, "b": 100})
    assert granted(gate) == {"a": 2, "b": 2}
    assert gate.freed("a") == 2 and gate.freed("a") == 0
    assert granted(gate) == {"b": 2}
    assert gate.running_at("a") == 0


def test_restarted_edge_counts_what_it_says_not_what_its_past_ran() -> None:
    gate = gate_with({"a": 100})
    granted(gate)
    gate.running("a", 2, 1)
    gate.want("a", 1, 50)  # late messages of the past
    gate.ended("a", 1, 3)
    assert granted(gate) == {} and gate.running_at("a") == 1
    gate.want("a", 2, 50)
    assert granted(gate) == {"a": 3}


def test_restarted_learner_restores_what_waits_and_hears_what_runs() -> None:
    gate = StalenessGate(4, 1)
    gate.restore(pending=5)
    gate.running("a", 1, 2)
    gate.want("a", 1, 100)
    assert granted(gate, version=7) == {"a": 1}


def test_ended_without_a_stored_segment_makes_room() -> None:
    gate = gate_with({"a": 100})
    granted(gate)
    gate.ended("a", 1, 2)
    assert granted(gate) == {"a": 2}


def test_wanting_nothing_any_more_takes_back_the_wish() -> None:
    gate = gate_with({"a": 100})
    gate.want("a", 1, 0)
    assert granted(gate) == {}


def test_grants_carry_the_version_and_the_session() -> None:
    [grant] = gate_with({"a": 3}).poll(17)
    assert (grant.edge, grant.session, grant.episodes, grant.version) == ("a", 1, 3, 17)


def test_without_a_bound_on_staleness_the_bound_is_max_pending() -> None:
    gate = gate_with({"a": 100}, staleness=math.inf, max_pending=10)
    assert granted(gate) == {"a": 10}


def test_groups_are_granted_whole_and_never_shared_out() -> None:
    """Without that both would wait for ever, with a part of a group each."""
    gate = gate_with({"a": 8, "b": 12, "c": 3}, episodes=16, group=4)
    assert granted(gate) == {"a": 8, "b": 8}
    gate.ended("a", 1, 3)
    assert granted(gate) == {}, "room for less than a group"
    gate.ended("b", 1, 1)
    assert granted(gate) == {"b": 4}
    gate.want("a", 1, 8)
    gate.ended("a", 1, 4)
    assert granted(gate) == {"a": 4}


def test_whole_groups_round_robin() -> None:
    gate = gate_with({"a": 100, "b": 100, "c": 100}, episodes=8, group=4)
    total = dict.fromkeys("abc", 0)
    for _ in range(30):
        for edge, count in granted(gate).items():
            assert count % 4 == 0
            total[edge] += count
            gate.accepted(count)
            gate.ended(edge, 1, count)
        gate.consumed(8)
    assert sum(total.values()) == 240 and max(total.values()) - min(total.values()) <= 4


def test_a_bound_that_is_no_number_of_groups_is_refused() -> None:
    with pytest.raises(ConfigError, match="10 episodes run, which is not a number of whole groups of 4"):
        StalenessGate(10, 0, group=4)


def test_an_edge_is_known_from_its_word_until_it_is_gone() -> None:
    gate = gate_with({"a": 0})
    assert gate.knows("a") and not gate.knows("b")
    gate.freed("a")
    assert not gate.knows("a")


def test_a_change_is_told_so_that_somebody_polls() -> None:
    told: list[str] = []
    gate = StalenessGate(4, 0)
    gate.changed = lambda: told.append("")
    for change in (
        lambda: gate.running("a", 1, 0), lambda: gate.want("a", 1, 1), lambda: gate.ended("a", 1),
        lambda: gate.consumed(1), lambda: gate.skipped(1), lambda: gate.restore(0), lambda: gate.freed("a"),
    ):  # fmt: skip
        before = len(told)
        change()
        assert len(told) == before + 1


@pytest.mark.parametrize(
    ("episodes", "staleness", "options", "said"),
    [
        (0, 0, {}, "at least one episode"),
        (4, -1, {}, "max_staleness is -1"),
        (4, 0.5, {}, "max_staleness is 0.5"),
        (4, math.nan, {}, "max_staleness is nan"),
        (4, math.inf, {}, "needs a max_pending"),
        (8, 2, {"max_pending": 7}, "no update would ever happen"),
    ],
)
def test_what_would_never_work_is_refused(episodes: int, staleness: float, options: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        StalenessGate(episodes, staleness, **options)


@pytest.mark.parametrize("staleness", [0, 1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_used_in_the_order_of_grants_no_sample_is_staler_than_the_bound(staleness: int, seed: int) -> None:
    rng = random.Random(seed)
    per_update, version, used = 5, 0, 0
    gate = StalenessGate(per_update, staleness)
    for edge in "abc":
        gate.running(edge, 1, 0)
    order: list[int] = []  # version at the grant, in the order of grants
    running: list[str] = []
    for _ in range(3000):
        event = rng.randrange(4)
        if event == 0:
            gate.want(rng.choice("abc"), 1, rng.randrange(10))
        elif event == 1 and running:
            gate.accepted()
            gate.ended(running.pop(rng.randrange(len(running))), 1)
        elif event == 2 and gate.pending >= per_update:
            for granted_at in order[used : used + per_update]:
                assert 0 <= version - granted_at <= staleness
            used += per_update
            version += 1
            gate.consumed(per_update)
        for grant in gate.poll(version):
            order += [version] * grant.episodes
            running += [grant.edge] * grant.episodes
        # The rule as AReaL writes it, in absolute counts.
        accepted = used + gate.pending
        assert accepted + len(running) <= (staleness + version + 1) * per_update
    assert version > 20


def test_an_episode_skipped_before_it_was_accepted_does_not_wait_for_ever() -> None:
    gate = StalenessGate(4, 0)
    gate.skipped(1)
    gate.accepted(1)
    assert gate.pending == 0
    gate.running("edge", 1, 0)
    gate.want("edge", 1, 4)
    assert [grant.episodes for grant in gate.poll(0)] == [4]
