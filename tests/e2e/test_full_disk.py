"""Whoever is started on a full disk says so in one line, with the status of what may be over the next time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.disk import Disk
from tests.e2e.harness import Site, accounts, batch, check_metrics, tiny, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Disk.allowed(), reason="mounting a disk that can be full takes root"),
]


@pytest.fixture
def disk(site: Site) -> Iterator[Disk]:
    made = Disk(site.run, 256 << 20)
    try:
        yield made
    finally:
        site.close()
        made.close()


def test_a_learner_that_starts_on_a_full_disk_goes_on_once_there_is_space(site: Site, disk: Disk) -> None:
    config = site.config(tiny(batch("left")))
    learner = site.learner(config)
    address = site.address(learner)
    left = site.edge(config, "left", address)  # on the same disk
    wait_for(lambda: site.updates_since(0, 3), "updates", learner, left)

    learner.kill()
    disk.fill()
    again = site.learner(config, "--resume", f"learner.bind={address}")
    assert again.ended() == 1, "not 2: `train` starts it again, until there is space"
    assert "No space left on device" in again.lines[-1] and "Traceback" not in again.tail()
    disk.free()
    before = site.newest()
    learner = site.learner(config, "--resume", f"learner.bind={address}")
    wait_for(lambda: site.updates_since(before, 3), "updates once there is space", learner, left)

    disk.fill()
    full = "can't store segments", "recording stops"
    said = lambda: any(text in program.tail() for text in full for program in (learner, left))  # noqa: E731
    wait_for(said, "a word on the full disk", learner, left)
    disk.free()
    before = site.newest()
    wait_for(lambda: site.updates_since(before, 3), "updates once there is space again", learner, left)
    left.stop()
    learner.stop()
    accounts(site, "left")
    check_metrics(site, max_staleness=1)
