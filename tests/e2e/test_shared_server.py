"""Two arms of one machine behind one policy server, and its keeper killed."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Site, paced, tiny, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_arms_share_a_policy_server_and_go_on_when_its_keeper_is_killed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(site.temporary))
    edges = [paced(name, server="both", explore=True) for name in ("left", "right")]
    config = site.config(tiny(*edges, learner={"episodes_per_update": 2}))
    learner = site.learner(config)
    address = site.address(learner)
    left = site.edge(config, "left", address)
    wait_for(lambda: site.stored("left"), "an episode of the first", learner, left)
    right = site.edge(config, "right", address)
    wait_for(lambda: site.stored("right"), "an episode of the second", learner, left, right)
    assert len(site.processes("policy-server")) == 1 and len(site.processes("robotlearn", "arm")) == 2

    (served,) = site.processes("policy-server")
    left.kill()
    version = site.newest()
    wait_for(
        lambda: site.updates_since(version, 2) and served not in site.processes("policy-server"),
        "updates from the second alone, behind another server", learner, right,
    )  # fmt: skip
    assert len(site.processes("policy-server")) == 1

    left = site.edge(config, "left", address)
    sessions = site.sessions("left")
    wait_for(lambda: site.sessions("left") > sessions, "the first to come again", learner, left, right)
    assert len(site.processes("policy-server")) == 1
    for program in (left, right, learner):
        program.stop()
    site.gone()
