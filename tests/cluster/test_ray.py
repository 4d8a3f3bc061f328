"""`robotlearn train --ray` on a real Ray: placed where the resources are, nothing lost whatever is killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.cluster.conftest import ClusterSite
from tests.e2e.harness import Program, accounts, batch, check_metrics, paced, tiny, wait_for

ELSEWHERE = "127.0.0.2"
"""Another machine, as far as addresses tell."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _train(site: ClusterSite, config: object, run: Path, *more: object) -> Program:
    return site.start(f"train-{run.name}", "train", config, "--ray", site.ray or "local", "--run", run, *more)


def _says(program: Program, *words: str) -> bool:
    return any(all(word in line for word in words) for line in program.lines)


def test_what_is_killed_on_a_cluster_is_started_again_and_nothing_is_lost(site: ClusterSite) -> None:
    site.node(num_cpus=2)
    site.node(num_cpus=2, resources={"robot:panda": 8}, node_ip_address=ELSEWHERE)
    config = site.config(tiny())
    train = _train(site, config, site.run)
    wait_for(lambda: site.updates_since(0, 3) and site.sessions("left") and site.sessions("right"), "updates", train)
    for name in ("left", "right"):  # the robots are on the second node, the learner is beside the driver
        assert (site.state(name) / "edge.log").exists() and not (site.run / "edges" / name).exists()
    assert "learner.key=public-" in Path(f"/proc/{site.actor('edge', 'left')[1]}/cmdline").read_text(), "encrypted"

    actor, child = site.actor("edge", "left")
    os.kill(actor, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{child}").exists(), "the end of the child of a killed actor", train)
    wait_for(lambda: len(site.sessions("left")) == 2, "segments of the edge's new life", train)
    assert _says(train, "the Ray actor of edge left died")

    address = (site.run / "address").read_text()
    sessions = site.sessions("left") | site.sessions("right")
    actor, child = site.actor("learner")
    os.kill(actor, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{child}").exists(), "the end of the learner", train)
    before = site.newest()
    wait_for(lambda: site.updates_since(before, 5), "updates of a learner that was resumed", train)
    assert (site.run / "address").read_text() == address
    assert site.sessions("left") | site.sessions("right") == sessions, "the edges work on"

    assert not _says(train, "raylet"), "Ray's own pages about what died"

    train.stop(signal.SIGINT)
    site.gone()
    accounts(site, "left", "right")
    check_metrics(site, max_staleness=1)

    done = site.rows()[-1]["updates"]
    train = _train(site, config, site.run, "--resume", f"learner.updates={done + 2}")
    assert train.ended() == 0, train.tail()
    site.gone()
    assert site.rows()[-1]["updates"] == done + 2
    accounts(site, "left", "right")
    check_metrics(site, max_staleness=1)


def test_a_wrong_token_is_refused_in_one_line(site: ClusterSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.node(num_cpus=1)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)
    train = _train(site, site.config(tiny()), site.run)
    assert train.ended() == 2
    assert len(train.lines) == 2 and _says(train, f"robotlearn: no Ray cluster can be used at {site.ray}", "auth_token")


def test_a_run_waits_for_arms_that_another_has_and_gets_them_when_that_is_killed(site: ClusterSite) -> None:
    site.node(num_cpus=8, resources={"robot:panda": 4})
    too_many = _train(site, site.config(tiny(), "two.yaml"), site.folder / "never")
    assert too_many.ended() == 2
    assert _says(too_many, "missing 4 x robot:panda", f"--address={site.ray}", json.dumps({"robot:panda": 4}))
    assert not (site.folder / "never").exists()

    config = site.config(tiny(batch("left")))
    first = _train(site, config, site.folder / "first")
    wait_for(lambda: site.processes("edge", "left"), "the edge of the first run", first)
    second = _train(site, config, site.run)
    wait_for(
        lambda: _says(second, "waiting for 4 x robot:panda", f"the run {site.folder / 'first'} holds 4 x robot:panda"),
        "what the second run waits for",
        first,
        second,
    )
    first.kill()  # its actors end with it, and their children with them
    wait_for(lambda: site.rows() and site.stored("left"), "updates of the second run", second)
    assert not site.processes("-m", str(site.folder / "first"))
    second.stop(signal.SIGINT)
    site.gone()
    site.state = lambda name: site.run / "edges" / name  # type: ignore[method-assign]  # one node: beside the learner
    accounts(site, "left")


def test_a_local_ray_ends_with_its_run(site: ClusterSite) -> None:
    train = _train(site, site.config(tiny(paced("station"), learner={"episodes_per_update": 1})), site.run)
    wait_for(lambda: site.stored("station"), "a segment of the arm", train)
    assert site.processes("arm") and site.processes("policy-server")
    train.stop(signal.SIGINT)
    wait_for(lambda: not site.processes(), "the end of all processes, Ray's too")
    site.state = lambda name: site.run / "edges" / name  # type: ignore[method-assign]
    accounts(site, "station")


def test_an_edge_moves_when_its_node_is_lost(site: ClusterSite) -> None:
    site.node(num_cpus=1)
    site.node(num_cpus=1, resources={"robot:panda": 4}, node_ip_address=ELSEWHERE)
    train = _train(site, site.config(tiny(batch("left"))), site.run)
    wait_for(lambda: len(site.sessions("left")) == 1, "segments of the edge", train)
    site.lose_node()
    wait_for(lambda: _says(train, "edge left waits for a node with 4 x robot:panda"), "the word of it", train)
    site.node(num_cpus=1, resources={"robot:panda": 4}, node_ip_address=ELSEWHERE)
    wait_for(lambda: len(site.sessions("left")) == 2, "segments of the edge's new life", train)
    train.stop(signal.SIGINT)
    site.gone()
    accounts(site, "left")
