"""Decisions about weights on a disk that is full, or after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from robotlearn.learner.orders import Orders
from robotlearn.run_folder import RunFolder
from tests.disk import Disk


@pytest.mark.skipif(not Disk.allowed(), reason="mounting a disk that can be full takes root")
def test_a_full_disk_ends_nothing_and_what_was_decided_is_written_once_there_is_space(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "run", 1 << 20)
    try:
        folder = RunFolder.create(disk.path, "seed: 0\n", "id")
        orders = Orders(folder)
        orders.served = {"a": 1}
        disk.fill()
        for version in range(200):  # the pages that are begun have room for some
            orders.note(version, version, "approved", "")
        orders.served = {f"edge-{number}": 2 for number in range(1000)}
        assert orders.served == {"a": 1} and len(orders.decisions()) < 200
        disk.free()
        orders.note(200, 200, "approved", "")
        orders.close()
        assert [row["version"] for row in Orders(folder).decisions()] == list(range(201))
    finally:
        disk.close()


def test_an_order_waits_until_it_is_done(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "seed: 0\n", "id")
    number = Orders(folder).give("rollback", 3)
    orders = Orders(folder)  # a learner that is killed before it is done finds it again
    for _ in range(2):
        order = orders.waiting()
        assert order is not None and (order.id, order.what, order.version) == (number, "rollback", 3)
    orders.done()
    assert orders.waiting() is None
    for wrong in (b"{}", b'{"what": "\xff"}', b"[" * 100_000):
        (folder.path / "order.json").write_bytes(wrong)
        assert orders.waiting() is None and not (folder.path / "order.json").exists()


def test_the_decision_after_one_that_a_crash_cut_short_is_read(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "seed: 0\n", "id")
    (folder.path / "weights.jsonl").write_text('{"version": 3, "deci')
    orders = Orders(folder)
    orders.note(4, 4, "approved", "")
    orders.close()
    assert [row["version"] for row in orders.decisions()] == [4]
