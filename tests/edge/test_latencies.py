"""What is told of latencies, by the size of a batch."""

import pytest

from robotlearn.edge.latencies import Latencies, described


def test_quantiles_are_of_each_size_and_of_the_last_ones() -> None:
    latencies = Latencies()
    assert latencies.by_size() == {} and described({}) == ""
    for _ in range(1000):  # long ago
        latencies.add(1, 5.0)
    for index in range(512):
        latencies.add(1, 0.010 if index % 64 else 0.050)
    latencies.add(4, 0.020)
    found = latencies.by_size()
    assert list(found) == [1, 4]
    assert (found[1].batches, found[1].p50_ms, found[1].p99_ms) == pytest.approx((512, 10.0, 50.0))
    assert described({1: found[1]}) == "inference 10.0 ms (p99 50.0)"
    assert described(found) == "inference 1: 10.0 ms (p99 50.0), 4: 20.0 ms (p99 20.0)"
    assert described({4: found[4]}) == "inference 4: 20.0 ms (p99 20.0)"
