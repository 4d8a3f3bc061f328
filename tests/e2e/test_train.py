"""`robotlearn train`: its processes live and end together, and what dies alone is started again."""

from __future__ import annotations

import os
import signal

import pytest

from robotlearn.checkpoint import list_versions
from tests.e2e.harness import Program, Site, accounts, batch, check_metrics, paced, tiny, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _train(site: Site, config: object, *more: object) -> Program:
    return site.start("train", "train", config, "--run", site.run, *more)


def test_ctrl_c_ends_every_process_and_the_run_goes_on_from_there(site: Site) -> None:
    config = site.config(tiny(batch("left"), paced("station"), learner={"checkpoint_every": 10**6}))
    train = _train(site, config)
    wait_for(lambda: site.updates_since(0, 3) and site.stored("station"), "three updates and both edges", train)
    for part in ("learner", "edge", "arm", "policy-server"):
        assert site.processes(part), part
    train.stop(signal.SIGINT)
    site.gone()
    assert not list(site.temporary.glob("robotlearn-*")), "temporary files are left"
    assert [int(path.name) for path in list_versions(site.run / "checkpoints")][-1] == site.newest()
    assert not (site.run / "address").exists()
    accounts(site, "left", "station")
    check_metrics(site, max_staleness=1)

    done = site.rows()[-1]["updates"]
    train = _train(site, config, "--resume", f"learner.updates={done + 2}")
    assert train.ended() == 0, train.tail()
    site.gone()
    assert site.rows()[-1]["updates"] == done + 2
    accounts(site, "left", "station")
    check_metrics(site, max_staleness=1)


def test_kill_9_of_the_parent_ends_every_process(site: Site) -> None:
    train = _train(site, site.config(tiny(paced("station"), learner={"episodes_per_update": 1})))
    wait_for(lambda: site.stored("station"), "a segment of the arm", train)
    for part in ("learner", "edge", "arm", "policy-server"):
        assert site.processes(part), part
    train.kill()
    site.gone()
    accounts(site, "station")


def test_train_starts_again_what_dies(site: Site) -> None:
    train = _train(site, site.config(tiny()))
    wait_for(lambda: site.updates_since(0, 3) and site.sessions("left"), "three updates", train)
    (edge,) = site.processes("edge", "left")
    os.kill(edge, signal.SIGKILL)
    wait_for(lambda: len(site.sessions("left")) == 2, "segments of the edge's new life", train)
    address = (site.run / "address").read_text()

    (learner,) = site.processes("learner")
    os.kill(learner, signal.SIGKILL)
    before = site.newest()
    sessions = site.sessions("left") | site.sessions("right")
    wait_for(lambda: site.updates_since(before, 5), "updates of a learner that was resumed", train)
    assert (site.run / "address").read_text() == address
    assert site.sessions("left") | site.sessions("right") == sessions, "the edges work on"

    train.stop(signal.SIGINT)
    site.gone()
    accounts(site, "left", "right")
    check_metrics(site, max_staleness=1)


def test_what_an_edges_user_must_mend_is_the_last_line(site: Site) -> None:
    person = {"device": "gamepad", "options": {"path": "/dev/none"}}
    train = _train(site, site.config(tiny(paced("station", person=person))))
    assert train.ended() == 2, train.tail()
    assert "edge station can't work: gamepad /dev/none: No such file or directory" in train.lines[-1]
    site.gone()


def test_keys_without_a_terminal_are_refused_before_anything_starts(site: Site) -> None:
    person = {"device": "keyboard", "options": {"terminal": "/dev/none"}}
    train = _train(site, site.config(tiny(paced("station", person=person))))
    assert train.ended() == 2, train.tail()
    assert train.lines[-1].startswith("robotlearn: edges.0.person.options.terminal: keyboard: terminal /dev/none")
    assert not site.run.exists()
