"""`robotlearn train smoke`, the shipped config, as a user runs it, and what it leaves."""

from __future__ import annotations

import json

import imageio.v3 as imageio
import pytest
from safetensors.numpy import load_file

from robotlearn import gl
from robotlearn.checkpoint import list_versions
from robotlearn.config.load import load_config
from tests.e2e.harness import Site, accounts, check_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEYS = {
    "time",
    "version",
    "success",
    "staleness_mean",
    "staleness_max",
    "segments_recorded",
    "segments_stored",
    "segments_evicted",
    "segments_rejected",
}


def test_smoke_leaves_a_whole_run_that_can_be_measured(site: Site) -> None:
    can_draw = bool(gl.available())
    train = site.start("train", "train", "smoke", "--run", site.run, draw=can_draw)
    assert train.ended() == 0, train.tail()
    site.gone()

    settings = load_config(site.run / "config.yaml").learner
    rows = site.rows()
    assert [row["updates"] for row in rows] == list(range(1, settings.updates + 1))
    assert all(row.keys() >= KEYS for row in rows)
    check_metrics(site, settings.max_staleness)
    assert list((site.run / "tensorboard").glob("events.out.tfevents.*"))
    assert (site.run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "<video" in (site.run / "report.html").read_text() or not can_draw
    for path in list_versions(site.run / "checkpoints"):
        assert json.loads((path / "checkpoint.json").read_text())["version"] == int(path.name)
        assert load_file(path / "policy.safetensors")
    assert int(path.name) == site.newest()
    assert [_frames(video) > 10 for video in sorted((site.run / "videos").iterdir())] == 2 * can_draw * [True]
    found = accounts(site, "station", "batch")
    assert found.stored["station"] and found.stored["batch"]

    video = site.folder / "eval.mp4"
    film = ["--video", video] if can_draw else []
    measured = site.start("eval", "eval", site.run, "--episodes", 20, "--json", *film, draw=can_draw)
    assert measured.ended() == 0, measured.tail()
    (line,) = measured.lines
    result = json.loads(line)
    assert result["episodes"] == 20 and result["version"] == site.newest()
    assert 0 <= result["low"] <= result["success"] == result["successes"] / 20 <= result["high"] <= 1
    if can_draw:
        assert _frames(video) > 10


def _frames(video: object) -> int:
    frames = imageio.imread(video)  # type: ignore[call-overload]
    assert frames.ndim == 4 and frames.shape[-1] == 3 and frames.std() > 1
    return len(frames)
