"""Learner and edges in processes of their own: killed, restarted, added, cut off; nothing is lost or stored twice."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.harness import Site, accounts, batch, check_metrics, free_port, tiny, wait_for
from tests.waiting import pause

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_kill_9_of_an_edge_and_of_the_learner_loses_nothing(site: Site) -> None:
    config = site.config(tiny())
    learner = site.learner(config)
    address = site.address(learner)
    left, right = (site.edge(config, name, address) for name in ("left", "right"))
    wait_for(lambda: site.updates_since(0, 3) and site.sessions("left"), "three updates", learner, left, right)

    left.kill()
    before, left_behind = site.newest(), site.recorded("left")
    left = site.edge(config, "left", address)
    wait_for(lambda: site.delivered(left_behind), "what the killed edge had recorded", learner, left, right)
    wait_for(lambda: len(site.sessions("left")) == 2, "segments of the edge's new life", learner, left, right)
    wait_for(lambda: site.updates_since(before, 3), "updates after the edge's death", learner, left, right)

    learner.kill()
    before, left_behind = site.newest(), site.recorded("left") + site.recorded("right")
    counts = {name: len(site.stored(name)) for name in ("left", "right")}
    learner = site.learner(config, "--resume", f"learner.bind={address}")
    wait_for(lambda: site.delivered(left_behind), "what was recorded until the death", learner, left, right)
    wait_for(lambda: site.updates_since(before, 5), "updates after the learner's death", learner, left, right)
    wait_for(
        lambda: all(len(site.stored(name)) > count for name, count in counts.items()),
        "segments of both edges at the resumed learner",
        learner, left, right,
    )  # fmt: skip

    left.stop()
    right.stop()
    learner.stop(signal.SIGINT)
    accounts(site, "left", "right")
    check_metrics(site, max_staleness=1)


def test_an_edge_waits_for_its_learner_and_another_joins_while_it_runs(site: Site) -> None:
    config = site.config(tiny())
    address = f"tcp://127.0.0.1:{free_port()}"
    left = site.edge(config, "left", address)
    wait_for(lambda: f"waiting for learner {address}" in left.tail(), "a word on whom it waits for", left)
    learner = site.learner(config, f"learner.bind={address}")
    wait_for(lambda: site.updates_since(-1, 2), "updates from the edge that came first", learner, left)
    assert not site.stored("right")

    right = site.edge(config, "right", address)
    wait_for(lambda: len(site.stored("right")) >= 8, "segments of the edge that came later", learner, left, right)
    before = site.newest()
    wait_for(lambda: site.updates_since(before, 2), "updates from both", learner, left, right)

    left.stop()
    right.stop()
    learner.stop()
    accounts(site, "left", "right")
    check_metrics(site, max_staleness=1)


def test_a_silent_learner_gets_all_that_its_edges_did_meanwhile(site: Site) -> None:
    config = site.config(tiny(batch("left", offline_episodes=24)))
    learner = site.learner(config)
    left = site.edge(config, "left", site.address(learner))
    wait_for(lambda: site.updates_since(0, 2), "updates", learner, left)

    # Paused, it keeps its sockets open: only the missing heartbeats tell the edge.
    pause(learner.pid)
    before, stored, recorded = site.newest(), len(site.stored()), len(site.recorded("left"))
    # What was granted before gives 16 segments at most: 8 episodes of 8 steps.
    wait_for(lambda: len(site.recorded("left")) >= recorded + 40, "episodes at the edge on its own", left)
    assert len(site.stored()) == stored
    left_behind = site.recorded("left")
    learner.send(signal.SIGCONT)
    wait_for(lambda: site.delivered(left_behind), "what was recorded meanwhile", learner, left)
    wait_for(lambda: site.updates_since(before, 3), "updates after the pause", learner, left)

    left.stop()
    learner.stop()
    accounts(site, "left")
    check_metrics(site, max_staleness=1)
