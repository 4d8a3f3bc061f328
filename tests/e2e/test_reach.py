"""An edge whose way to the learner is long: through ssh, over a link that is worse than it need be; by its config."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest

from tests.e2e.harness import Site, accounts, batch, check_metrics, paced, tiny, wait_for
from tests.wire.sshd import Sshd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_run_through_ssh_and_over_a_bad_link_loses_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sshd = Sshd(tmp_path / "sshd")
    shim = tmp_path / "bin/ssh"  # ssh as its user has set it up, which can't be done in another home
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {shlex.join(sshd.options)} "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    bad = {"delay_ms": 40, "jitter_ms": 10, "mbit": 20, "drop_every_s": 3}
    config = site.config(
        tiny(
            batch("left", tunnel=sshd.through, link=bad), paced("arm", link=bad),
            learner={"episodes_per_update": 2, "max_staleness": 4},
        )
    )  # fmt: skip
    learner = site.learner(config)
    left, arm = (site.edge(config, name, site.address(learner)) for name in ("left", "arm"))
    all_of_them = learner, left, arm
    wait_for(lambda: site.updates_since(0, 3) and site.stored("left") and site.stored("arm"), "updates", *all_of_them)
    assert any("through ssh to ssh://" in line and "over a link made worse (delay_ms 40" in line for line in left.lines)
    sshd.kill()
    behind = site.recorded("left")
    sshd.start()
    wait_for(lambda: site.delivered(behind), "what was recorded meanwhile", *all_of_them)
    left.stop()
    arm.stop()
    learner.stop()
    sshd.kill()
    accounts(site, "left", "arm")
    check_metrics(site, max_staleness=4)
