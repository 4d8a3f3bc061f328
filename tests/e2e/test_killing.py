"""Learner and edges in processes of their own: killed, restarted, added, cut off; nothing is lost or stored twice."""

from __future__ import annotations

import signal
from collections import Counter

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


def test_kill_9_of_an_edge_in_the_middle_of_a_group_gives_it_up_and_the_run_goes_on(site: Site) -> None:
    """An update takes one group, and nothing may be stale: half a group that stayed would keep the gate shut."""
    # Paused, it may take its learner for gone: what it then began by itself would be stale, and not given up.
    config = tiny(batch("left", offline_episodes=0), learner={"max_staleness": 0})
    config["algorithm"] = {"name": "grpo", "group": 4, "epochs": 1}
    # Good enough for episodes of many lengths.
    config["policy"] |= {"hidden": [64, 64]}
    config |= {"episode_steps": 100, "demonstrations": {"episodes": 16}, "sft": {"steps": 300, "batch_size": 64}}
    path = site.config(config)
    learner = site.learner(path)
    address = site.address(learner)
    left = site.edge(path, "left", address)
    wait_for(lambda: site.updates_since(0, 2), "two updates", learner, left)

    def stopped_within_a_group() -> bool:
        """Whether the learner has some episodes of a group that the edge, paused, has not brought to its end.

        One that only the edge has comes when the next update is done, and is too old then.
        """
        pause(left.pid)
        there = {one.group for one in site.stored("left") if one.last and one.group is not None}
        ended = there | {one.group for one in site.recorded("left") if one.last and one.group is not None}
        counts = Counter(group.id for group in ended)
        if any(counts[group.id] < 4 for group in there):
            return True
        left.send(signal.SIGCONT)
        return False

    wait_for(stopped_within_a_group, "a group of which some episodes have ended", learner, left)
    left.kill()
    before = site.newest()
    left = site.edge(path, "left", address)
    wait_for(lambda: site.updates_since(before, 3), "updates after the edge's death", learner, left)

    left.stop()
    learner.stop()
    accounts(site, "left")
    check_metrics(site, max_staleness=0)
    last = site.rows()[-1]
    assert last["groups_incomplete"] == 1 and 1 <= last["episodes_incomplete"] <= 3
    assert all(row["groups"] == 1 for row in site.rows())


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
