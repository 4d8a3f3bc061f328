"""Metrics: every line is JSON, whatever was measured and wherever a crash cut the file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from robotlearn.metrics import MetricsLog, draw_curve, read_metrics
from robotlearn.run_folder import RunFolder


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
