"""Leases: one holder at a time, tokens that only grow, and what is over stays over."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pytest

from hal.errors import LeaseError
from hal.lease import Leases
from tests.waiting import until


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path / "token")


def test_one_holder_at_a_time(leases: Leases) -> None:
    assert leases.holder is None
    one = leases.acquire("one", 30.0)
    assert (leases.holder, one.holder, one.ttl) == ("one", "one", 30.0)
    with pytest.raises(LeaseError, match=r"one has the lease, for (30\.0|2\d\.\d) s more"):
        leases.acquire("two", 30.0)
    leases.check(one.token)
    leases.release(one.token)
    assert leases.holder is None
    two = leases.acquire("two", 30.0)
    assert two.token > one.token
    leases.release(one.token)  # long over: two keeps its own
    assert leases.valid(two.token)


def test_who_lost_it_is_refused_and_counted(leases: Leases) -> None:
    one = leases.acquire("one", 30.0)
    two = leases.acquire("two", 30.0, take=True)
    for token in (one.token, None, two.token + 1):
        assert not leases.valid(token)
        with pytest.raises(LeaseError, match="is over: two has it"):
            leases.check(token)
    with pytest.raises(LeaseError):
        leases.renew(one.token)  # no command: not counted
    assert leases.refused == 3
    leases.check(two.token)


def test_it_ends_when_it_is_not_renewed(leases: Leases) -> None:
    one = leases.acquire("one", 0.2)
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        leases.renew(one.token)
    assert leases.valid(one.token)
    until(lambda: not leases.valid(one.token), "its end")
    with pytest.raises(LeaseError, match=r"one was not renewed within 0\.2 s"):
        leases.check(one.token)
    with pytest.raises(LeaseError):
        leases.renew(one.token)  # over is over
    assert leases.acquire("two", 0.2).token > one.token


@pytest.mark.parametrize("ttl", [0.0, 0.05, 61.0, -1.0, float("nan"), float("inf")])
def test_a_ttl_that_makes_no_sense(leases: Leases, ttl: float) -> None:
    with pytest.raises(LeaseError, match=r"between 0\.1 and 60 s"):
        leases.acquire("one", ttl)
    assert leases.holder is None


@pytest.mark.parametrize("content", [None, "", "nonsense", "7"])
def test_tokens_grow_over_restarts_whatever_the_file_holds(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    first = Leases(file).acquire("one", 30.0).token
    if content is not None:
        file.write_text(content)
    else:
        file.unlink()
    # Lost or damaged, it is the clock that is ahead of every token granted before, at less than one a millisecond.
    end = time.time() + 0.01
    while time.time() < end:
        pass
    assert Leases(file).acquire("two", 30.0).token > first


def test_tokens_grow_faster_than_the_clock(tmp_path: Path) -> None:
    tokens = []
    for _ in range(5):
        leases = Leases(tmp_path / "token")
        tokens += [leases.acquire("one", 30.0, take=True).token for _ in range(10)]
    assert tokens == sorted(set(tokens))


def test_a_lease_that_can_not_be_written_down_is_not_granted(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "nowhere" / "token")
    with pytest.raises(OSError):
        leases.acquire("one", 30.0)
    assert leases.holder is None


def test_of_many_who_want_it_one_gets_it(leases: Leases) -> None:
    got, start = [], threading.Barrier(8)

    def want(name: str) -> None:
        start.wait()
        with contextlib.suppress(LeaseError):
            got.append(leases.acquire(name, 30.0))

    threads = [threading.Thread(target=want, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert leases.valid(got[0].token)
