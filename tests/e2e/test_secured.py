"""A learner that other machines reach, and edges with keys: one is put out in the middle of the run, and comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from robotlearn.wire.keys import Keys
from tests.e2e.harness import Site, accounts, batch, free_port, tiny, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_learner_and_its_edges_on_other_machines(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOTLEARN_KEYS", str(tmp_path / "keys"))
    keys = Keys()
    own = {name: keys.new(name).public for name in ("learner", "left", "right")}
    for name in ("left", "right"):
        keys.allow(name, own[name], ["edge"])
    config = site.config(tiny(batch("left"), batch("right"), learner={"key": str(own["learner"])}))
    address = f"tcp://127.0.0.1:{free_port()}"
    learner = site.learner(config, f"learner.bind={address.replace('127.0.0.1', '0.0.0.0')}")
    left, right = (site.edge(config, name, address) for name in ("left", "right"))
    wait_for(lambda: site.updates_since(0, 2), "updates", learner, left, right)

    keys.revoke("right")
    assert right.ended() == 2
    assert "learner tcp://127.0.0.1" in right.lines[-1] and "refuses this edge: key:" in right.lines[-1]
    before = site.newest()
    wait_for(lambda: site.updates_since(before, 2), "updates from who may", learner, left)

    keys.allow("right", own["right"], ["edge"])
    right = site.edge(config, "right", address)
    wait_for(lambda: len(site.sessions("right")) == 2, "segments of who may again", learner, left, right)
    (keys.path / "left.secret").unlink()
    again = site.edge(config, "left", address, "--state", site.folder / "elsewhere")
    assert again.ended() == 2 and "robotlearn keys new left" in again.lines[-1]

    left.stop()
    right.stop()
    learner.stop()
    accounts(site, "left", "right")
