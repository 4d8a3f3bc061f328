"""A run that is resumed elsewhere, later, smaller, or with other edges goes on as if nothing had been."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from robotlearn import checkpoint
from robotlearn.buffer.spool import Spool
from robotlearn.buffer.store import SegmentStore
from robotlearn.buffer.verify import verify
from robotlearn.config import load_config
from robotlearn.edge.batch import BatchEdge
from robotlearn.learner import learner as learner_module
from robotlearn.run_folder import RunFolder
from tests.buffer.faults import FullFiles
from tests.commands.test_data_stored import said
from tests.learner.running import Running, served, tiny
from tests.learner.test_learner import episodes, resumed, saved_run
from tests.waiting import until

YEAR = 365 * 86400.0


def assert_ended(folder: RunFolder, edge: Path, updates: int, episodes: int) -> None:
    """All updates were done and saved; what the edge takes for stored is, besides the episodes there were before."""
    newest = checkpoint.load(checkpoint.newest(folder.checkpoints))
    assert newest.facts["updates"] == updates
    found = verify(folder.segments)
    assert found.wrong == []
    with Spool(edge / "spool", edge="batch") as spool:
        told = spool.counts()
    assert 0 < told.acknowledged <= found.segments - episodes <= told.recorded
    assert told.evicted == told.rejected == told.refused == 0


def test_a_run_folder_that_was_moved(tmp_path: Path, run: Callable[..., Running]) -> None:
    config = tiny("learner.max_staleness=inf")
    before = saved_run(tmp_path / "run", config, episodes(config, 4))
    (tmp_path / "disk").mkdir()
    shutil.move(before.path, tmp_path / "disk" / "renamed")
    folder = RunFolder.open(tmp_path / "disk" / "renamed")
    running = run(load_config(folder.config), folder, resume=True)
    served(running, config, folder)
    assert "4 episodes wait in the log" in running.end()
    assert_ended(folder, tmp_path / "disk" / "edge", 3, 4)
    assert not before.path.exists(), "nothing is written to where it was"


def test_a_clock_that_jumps_by_years(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backwards between two runs, and both ways while the second one goes on."""
    config = tiny("learner.max_staleness=inf")
    folder = saved_run(tmp_path / "run", config, episodes(config, 4))
    now, jumps = time.time, itertools.cycle((-1, 1, 0, -2))
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps) * YEAR)
    running = run(config, folder, resume=True)
    begun = time.monotonic()
    served(running, config, folder)
    assert "4 episodes wait in the log" in running.end()
    assert_ended(folder, tmp_path / "edge", 3, 4)
    newest = checkpoint.load(checkpoint.newest(folder.checkpoints))
    assert newest.facts["seconds"] < 3.0 + time.monotonic() - begun, "what is measured is measured by another clock"


def test_another_number_of_edges(tmp_path: Path, run: Callable[..., Running]) -> None:
    folder = saved_run(tmp_path / "run", tiny(), episodes(tiny(), 4))
    edge = "{{name: {0}, kind: batch, arms: 2, segment_steps: 8}}"
    config = load_config(folder.config, [f"edges=[{','.join(edge.format(name) for name in 'abc')}]"])
    running = run(config, folder, resume=True)
    until(folder.address.exists, "the address")
    stop = threading.Event()
    edges = [BatchEdge(config, one, folder.address.read_text(), tmp_path / one.name) for one in config.edges]
    threads = [threading.Thread(target=one.run, args=(stop,)) for one in edges]
    for thread in threads:
        thread.start()
    running.thread.join(60)
    stop.set()
    for thread, one in zip(threads, edges, strict=True):
        thread.join(20)
        one.close()
    running.stop.clear()
    running.end()
    assert checkpoint.load(checkpoint.newest(folder.checkpoints)).facts["updates"] == 3
    groups = json.loads(said("stats", folder.path, "--json").stdout)["groups"]
    assert {group["edge"] for group in groups} > {"a", "b", "c"}, "and the one that was there before"
    assert verify(folder.segments).wrong == []


def test_a_smaller_disk(tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("learner.max_staleness=inf")
    folder = saved_run(tmp_path / "run", config, episodes(config, 1))
    files = FullFiles(room=3000)
    monkeypatch.setattr(learner_module, "SegmentStore", partial(SegmentStore, files=files))
    running = run(config, folder, resume=True)
    serving = threading.Thread(target=served, args=(running, config, folder))
    serving.start()
    try:
        until(lambda: running.learner.view().waits_for.startswith("space: "), "a word on the full disk")
        assert running.thread.is_alive() and "No space left" in running.learner.view().waits_for
    finally:
        files.room = 1 << 40
        serving.join(60)
    running.end()
    assert_ended(folder, tmp_path / "edge", 3, 1)


def test_a_run_that_was_pruned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny("learner.max_staleness=inf")
    folder = saved_run(tmp_path / "run", config, episodes(config, 12))
    first = resumed(config, folder)
    waiting = sorted(first._feed._pool.positions())
    first._feed._pool.take(6)  # learnt from: the newest, without a bound on staleness the rest is skipped
    first._close()
    told = json.loads(said("prune", folder.path, "--keep", "0", "--json").stdout)
    assert told["episodes"] == 12 == len(waiting)
    again = resumed(config, folder)
    again._close()
    assert len(again._feed._pool) == 0 and "lost" not in caplog.text


def test_what_a_pruned_run_has_yet_to_learn_from_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny("learner.max_staleness=inf")
    folder = saved_run(tmp_path / "run", config, episodes(config, 6))
    assert json.loads(said("prune", folder.path, "--keep", "0", "--json").stdout)["needed"] == 6
    again = resumed(config, folder)
    again._close()
    assert len(again._feed._pool) == 6 and "lost" not in caplog.text
