"""Metrics: every line is JSON, whatever was measured and wherever a crash cut the file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robotlearn.metrics import MetricsLog, draw_curve, read_metrics
from robotlearn.run_folder import RunFolder
from tests.disk import Disk


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", "seed: 0\n", "id")


def row(updates: int, **more: object) -> dict[str, object]:
    return {
        "version": updates,
        "updates": updates,
        "env_steps": 100 * updates,
        "success": 0.5,
        "staleness_mean": 0.5,
        "staleness_max": 1,
        **more,
    }


def test_rows_come_back_and_a_resumed_run_goes_on(folder: RunFolder) -> None:
    for update in (1, 2):
        log = MetricsLog(folder)
        log.write(row(update))
        log.close()
    rows = read_metrics(folder.metrics)
    assert [one["updates"] for one in rows] == [1, 2]
    assert all(one["time"] > 1e9 for one in rows)
    assert list(folder.tensorboard.glob("events*"))


def test_what_json_has_no_number_for_is_null(folder: RunFolder) -> None:
    log = MetricsLog(folder)
    log.write(row(1, kl=math.nan, ratio_max=math.inf))
    log.close()
    (line,) = folder.metrics.read_text().splitlines()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["kl"] is None and found["ratio_max"] is None and found["success"] == 0.5


def test_a_line_that_a_crash_cut_short_costs_no_other(folder: RunFolder) -> None:
    folder.metrics.write_text('{"version": 1}\n{"version": 2, "suc')
    log = MetricsLog(folder)
    log.write(row(3))
    log.close()
    assert [one["version"] for one in read_metrics(folder.metrics)] == [1, 3]


def test_the_curve_needs_an_update(folder: RunFolder) -> None:
    assert draw_curve(folder, "title") is None
    log = MetricsLog(folder)
    log.write({"version": 0, "env_steps": 0, "eval_success": 0.4, "eval_low": 0.3, "eval_high": 0.5})
    assert draw_curve(folder, "title") is None
    log.write(row(1))
    log.close()
    assert draw_curve(folder, "title") == folder.curve
    assert folder.curve.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not Disk.allowed(), reason="mounting a disk that can be full takes root")
def test_what_a_full_disk_has_no_room_for_is_written_later(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "run", 1 << 20)
    try:
        folder = RunFolder.create(disk.path, "seed: 0\n", "id")
        log = MetricsLog(folder)
        log.write(row(1))
        disk.fill()
        for update in range(2, 100):  # the pages that are begun have room for some
            log.write(row(update))
        assert len(read_metrics(folder.metrics)) < 99
        disk.free()
        log.write(row(100))
        log.close()
        assert [one["version"] for one in read_metrics(folder.metrics)] == list(range(1, 101))
        assert [event.step for event in scalars(folder, "success")] == list(range(1, 101))
    finally:
        disk.close()


def test_tensorboard_reads_what_was_written(folder: RunFolder) -> None:
    for update in (1, 2):
        log = MetricsLog(folder)
        log.write(row(update, kl=update / 4, name="not a number"))
        log.close()
    read = scalars(folder, "kl")
    assert [(event.step, event.value) for event in read] == [(1, 0.25), (2, 0.5)]
    assert read[0].wall_time == pytest.approx(read_metrics(folder.metrics)[0]["time"])


def scalars(folder: RunFolder, tag: str) -> list[Any]:
    board = EventAccumulator(str(folder.tensorboard))
    board.Reload()
    return list(board.Scalars(tag))
