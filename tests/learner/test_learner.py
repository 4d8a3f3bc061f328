"""The learner with a batch edge on a thread: what a run leaves behind, and that resuming takes each segment once."""

from __future__ import annotations

import io
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
from rich.console import Console
from typer.testing import CliRunner

from envs import EnvOptions
from robotlearn import checkpoint, cli
from robotlearn.algorithms.optimizer import Optimizer
from robotlearn.algorithms.registry import make_algorithm
from robotlearn.buffer import index as index_module
from robotlearn.buffer.index import SegmentIndex
from robotlearn.buffer.log_files import LogReader
from robotlearn.buffer.spool import Spool
from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import cells_of
from robotlearn.checkpoint import Checkpoint
from robotlearn.config import Config, dump
from robotlearn.contract import contract
from robotlearn.display import Display
from robotlearn.edge.rollout import BatchRollout
from robotlearn.errors import LogError, RunFolderError
from robotlearn.inputs import Inputs
from robotlearn.learner.accounts import Accounts
from robotlearn.learner.episodes import Waiting
from robotlearn.learner.learner import Learner
from robotlearn.metrics import read_metrics
from robotlearn.policy import build_policy, to_arrays
from robotlearn.run_folder import RunFolder
from robotlearn.wire import record
from robotlearn.wire.segment import Segment
from robotlearn.wire.uplink import Uplink
from tests.learner.running import Running, served, tiny
from tests.waiting import until


def test_a_run_from_its_start_to_its_end(tmp_path: Path, run: Callable[..., Running]) -> None:
    config = tiny("learner.eval_every=1")
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    edge = served(running, config, folder)
    text = running.end()
    assert "end: version 3" in text and "listens at tcp://127.0.0.1:" in text

    rows = read_metrics(folder.metrics)
    keys = {"time", "version", "success", "return", "staleness_mean", "staleness_max", "samples_per_s", "steps_held"}
    keys |= {f"segments_{name}" for name in ("recorded", "stored", "evicted", "rejected", "refused", "pending")}
    assert all(keys <= row.keys() for row in rows), "in every line, of an update or of an evaluation"
    updates = [row for row in rows if "updates" in row]
    assert [row["updates"] for row in updates] == [1, 2, 3]
    assert [row["version"] for row in updates] == [1, 2, 3], "one publish is one version"
    assert all(
        row["staleness_max"] <= 2 and row["segments_evicted"] == row["segments_rejected"] == 0 for row in updates
    )
    assert [row["version"] for row in rows if "eval_success" in row] == [1, 2, 3], "the last one once"
    assert [path.name for path in checkpoint.list_versions(folder.checkpoints)] == ["000002", "000003"]
    assert folder.highest_version == 3 and folder.curve.exists() and not folder.address.exists()
    assert "after 3 updates" in folder.report.read_text() and 'class="state complete"' in folder.report.read_text()
    counts = edge._spool.counts()
    store = SegmentStore(folder.segments)
    assert counts.recorded == counts.acknowledged + counts.pending
    assert store.stored >= counts.acknowledged
    store.close()
    with SegmentIndex(folder.segments, LogReader(folder.segments / "records"), keep=False) as index:
        assert len(index) == store.stored, "without a look at the files"

    with pytest.raises(
        RunFolderError, match=r"is complete: 3 updates are done and measured; .* larger learner\.updates"
    ):
        Learner(config, folder, resume=True)
    more = Learner(tiny("learner.updates=4"), folder, resume=True)
    more._server.close()
    more._store.close()


def test_without_room_for_its_index_a_run_goes_on_and_has_one_later(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connect, tried = index_module._connect, []

    def full_at_first(path: Path | str) -> sqlite3.Connection:
        tried.append(path)
        if len(tried) < 2:
            raise sqlite3.OperationalError("database or disk is full")
        return connect(path)

    monkeypatch.setattr(index_module, "_connect", full_at_first)
    config = tiny()
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    served(running, config, folder)
    running.end()
    assert "index.sqlite can't be made: database or disk is full" in caplog.text
    assert (folder.segments / "index.sqlite").exists()


def test_the_best_checkpoint_is_kept(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    row_of = Accounts.row_of

    def rated(self: Accounts, taken: Sequence[Waiting], version: int) -> dict[str, float]:
        return row_of(self, taken, version) | {"success": {0: 0.5, 1: 0.9}.get(version, 0.1)}

    monkeypatch.setattr(Accounts, "row_of", rated)
    config = tiny("learner.updates=9", "learner.checkpoint_every=1", "learner.keep_checkpoints=1")
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    served(running, config, folder)
    running.end()
    assert [path.name for path in checkpoint.list_versions(folder.checkpoints)] == ["000002", "000009"]
    shown = CliRunner().invoke(cli.app, ["weights", "ls", str(folder.path)]).stdout.splitlines()
    assert [line.split()[0] for line in shown if "yes, the best" in line] == ["2"]


def test_a_run_that_its_success_ended_is_complete_and_one_that_was_not_measured_then_only_measures(
    tmp_path: Path, run: Callable[..., Running]
) -> None:
    whole = tiny("learner.updates=9", "learner.stop_success=1", "learner.checkpoint_every=1")
    # Reached by a policy that knows nothing; from a file it would be refused.
    config = whole.model_copy(update={"learner": whole.learner.model_copy(update={"stop_success": 0.0})})
    folder = RunFolder.create(tmp_path / "run", dump(whole), "id")
    running = run(config, folder)
    served(running, config, folder)
    assert "end: version 5" in running.end(), "the mean of five updates, whatever was allowed"

    with pytest.raises(RunFolderError, match=r"complete: 5 updates .* another learner\.stop_success it goes on"):
        resumed(config, folder)
    more = resumed(whole, folder)
    assert not more._finished()
    more._close()

    rows = folder.metrics.read_text().splitlines(keepends=True)
    folder.metrics.write_text("".join(rows[:-1]))
    unmeasured = resumed(config, folder)
    assert unmeasured._finished()
    unmeasured._close()


def test_without_updates_a_run_is_imitation_and_its_measurement(tmp_path: Path, run: Callable[..., Running]) -> None:
    config = tiny("learner.updates=0", "edges=[]")
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    running.thread.join(60)
    assert "end: version 0" in running.end()
    assert [row["version"] for row in read_metrics(folder.metrics) if row.get("eval_success") is not None] == [0]
    assert checkpoint.newest(folder.checkpoints).name == "000000"
    with pytest.raises(RunFolderError, match="complete: 0 updates are done and measured"):
        resumed(config, folder)


def test_a_run_stopped_while_it_is_taught_leaves_nothing_half_and_can_be_resumed(
    tmp_path: Path, run: Callable[..., Running]
) -> None:
    config = tiny("sft.steps=1000000")
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    until(lambda: "imitating" in running.learner.view().phase, "imitation to begin")
    assert "stopped before the first version" in running.end()
    assert not checkpoint.list_versions(folder.checkpoints) and not folder.address.exists()

    running = run(tiny(), folder, resume=True)
    until(lambda: checkpoint.list_versions(folder.checkpoints), "the first version of the run that begins again")
    running.end()
    assert folder.highest_version == 0


def episodes(config: Config, count: int) -> list[Segment]:
    """Whole episodes of one segment each."""
    made: list[Segment] = []
    inputs, cell = Inputs(config), cells_of(config)[0]
    rollout = BatchRollout(
        build_policy(config, inputs), inputs, cell, edge="batch", arms=count, threads=1, segment_steps=32, seed=0,
        emit=made.extend, options=EnvOptions(episode_steps=4),
    )  # fmt: skip
    rollout.start(count)
    while rollout.running:
        rollout.advance(5)
    rollout.close()
    assert len(made) == count
    return made


def saved_run(path: Path, config: Config, stored: list[Segment], **facts: object) -> RunFolder:
    """A run whose learner died after version 5, with these segments stored after its checkpoint."""
    folder = RunFolder.create(path, dump(config), "id")
    folder.reserve_version(7)
    with SegmentStore(folder.segments) as store:
        start = store.end
        store.append([record.encode(one, session=1, sequence=i) for i, one in enumerate(stored)])
    policy = build_policy(config, Inputs(config))
    algorithm = make_algorithm("ppo", policy, config.algorithm, config.seed)
    plain = {"updates": 1, "env_steps": 100, "seconds": 3.0, "unused": [], "end": list(start)}
    checkpoint.save(
        Checkpoint(5, policy.state_dict(), algorithm.state_dict(), plain | facts, dict(contract(config))),
        folder.checkpoints,
    )
    return folder


def resumed(config: Config, folder: RunFolder) -> Learner:
    """A learner that has gone on from the newest checkpoint, its server not started and its loop not begun."""
    learning = Learner(config, folder, resume=True)
    learning._stop, learning._display = threading.Event(), Display(learning.view, Console(file=io.StringIO()))
    assert learning._checkpoint is not None
    learning._go_on(learning._checkpoint)
    return learning


def test_resumed_it_takes_each_segment_once_though_edges_send_meanwhile(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("learner.episodes_per_update=100", "learner.max_staleness=inf", "learner.updates=9")
    segments = episodes(config, 8)
    folder = saved_run(tmp_path / "run", config, segments[:4])
    # The edge's segments come while the learner reads its log: so early that they would be there twice, if both looked.
    spool = Spool(tmp_path / "spool", edge="batch")
    sent = threading.Event()
    scan = SegmentStore.scan

    def slow_scan(self: SegmentStore, *arguments: object) -> Iterator:
        sent.wait(0.5)
        yield from scan(self, *arguments)

    monkeypatch.setattr(SegmentStore, "scan", slow_scan)
    for one in segments[4:]:
        spool.record(one)
    learning = Learner(config, folder, resume=True)
    monkeypatch.setattr("tests.learner.running.Learner", lambda *_, **__: learning)
    uplink = Uplink(learning.address, spool, edge="batch", contract=contract(config))
    uplink.start()
    running = run(config, folder, True)
    until(lambda: spool.pending == 0, "the edge's segments to be stored")
    sent.set()
    until(lambda: learning._feed is not None and len(learning._feed._pool) >= 8, "eight episodes in the pool")
    until(lambda: learning._phase == "collecting", "the loop to go on")
    uplink.close()
    spool.close()
    running.end()
    assert len(learning._feed._pool) == 8 == learning._feed._pool.completed
    assert learning._version == 8, "above every version that was ever announced"
    assert learning._accounts.env_steps == 100 + 8 * 4

    again = checkpoint.load(checkpoint.newest(folder.checkpoints))
    assert again.version == 8 and len(again.facts["unused"]) == 8 == len({tuple(p) for p in again.facts["unused"]})
    monkeypatch.undo()
    monkeypatch.setattr(Learner, "_film", lambda self: None)
    once_more = run(config, folder, True)
    until(lambda: once_more.learner._phase == "collecting", "the resumed learner to collect")
    assert "8 episodes wait in the log" in once_more.end()


def test_what_was_stored_and_not_yet_looked_at_is_not_lost_by_a_checkpoint(tmp_path: Path) -> None:
    config = tiny("learner.max_staleness=inf")
    segments = episodes(config, 3)
    folder = saved_run(tmp_path / "run", config, segments[:1])
    learning = resumed(config, folder)
    # As the intake's thread does: stored, and not yet taken by the loop when the checkpoint is written.
    learning._store.append([record.encode(one, session=2, sequence=i) for i, one in enumerate(segments[1:])])
    learning._save()
    learning._close()
    again = resumed(config, folder)
    assert len(again._feed._pool) == 3
    again._close()


def test_published_weights_stay_until_they_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("learner.max_staleness=inf", "algorithm.critic_warmup=0")
    learning = resumed(config, saved_run(tmp_path / "run", config, episodes(config, 4)))
    complete: list[bool] = []
    descend = Optimizer._descend

    def watched(self: Optimizer) -> None:
        if self.name == "policy":
            complete.append(learning._publisher._newest.complete)  # type: ignore[union-attr]
        descend(self)

    monkeypatch.setattr(Optimizer, "_descend", watched)
    assert not learning._publisher._newest.complete, "the server, which would copy, is not started"  # type: ignore[union-attr]
    learning._update(learning._feed)
    learning._close()
    assert complete and all(complete)


def test_episodes_of_no_use_end_neither_the_run_nor_its_resume(tmp_path: Path) -> None:
    config = tiny("learner.max_staleness=inf")
    useless = [replace(one, chunk_lag=one.chunk_lag + 100) for one in episodes(config, 4)]
    folder = saved_run(tmp_path / "run", config, useless)
    learning = resumed(config, folder)
    try:
        version = learning._version
        learning._update(learning._feed)
        assert (learning._feed._unusable, learning._version, len(learning._feed._pool)) == (4, version, 0)
    finally:
        learning._close()
    assert not checkpoint.load(checkpoint.newest(folder.checkpoints)).facts["unused"], "a resume does without them"


def test_images_that_cant_be_decoded_cost_their_episode_and_nothing_else(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny("learner.max_staleness=inf")
    config = tiny(
        "learner.max_staleness=inf", "learner.episodes_per_update=100", "observations.cameras=[front]",
        "observations.image_size=[32,32]", "edges.1.images=lossless",
    )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 16, (5, 32, 32, 3), np.uint8)
    segments = [
        replace(
            one,
            observations=one.observations | {"observation.images.front": images},
            encodings=config.edges[1].encodings(),
        )
        for one in episodes(plain, 6)
    ]
    encode = record.encode

    def spoilt(segment: Segment, **name: int) -> bytearray:
        """The record with an image that isn't one, of an edge that tells a right checksum."""
        data = encode(segment, **name)
        if segment.episode in (segments[1].episode, segments[4].episode):
            data[-9100:] = b"\xff" * 9100
            data[8:16] = xxhash.xxh3_64_intdigest(memoryview(data)[16:]).to_bytes(8, "little")
        return data

    monkeypatch.setattr("robotlearn.buffer.spool.records.encode", spoilt)
    monkeypatch.setattr(record, "encode", spoilt)
    folder = saved_run(tmp_path / "run", config, segments[:3])
    running = run(config, folder, True)
    until(lambda: running.learner._phase == "collecting", "the learner to collect")
    spool = Spool(tmp_path / "spool", edge="batch")
    for one in segments[3:]:
        spool.record(one)
    uplink = Uplink(running.learner.address, spool, edge="batch", contract=contract(config))
    uplink.start()
    until(
        lambda: running.learner._feed is not None and len(running.learner._feed._pool) == 4,
        "the four good ones of six episodes",
    )
    assert running.learner._accounts.row()["segments_undecodable"] == 2
    until(lambda: spool.counts().acknowledged == 3, "the answers")
    assert spool.counts().rejected == 0
    assert running.learner._gate._pending == 4, "the gate waits for none that never comes"
    uplink.close()
    spool.close()
    running.end()


def test_a_page_that_cannot_be_written_costs_the_run_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny("learner.max_staleness=inf")
    folder = saved_run(tmp_path / "run", config, episodes(config, 4))
    learning = resumed(config, folder)
    learning._update(learning._feed)
    folder.report.mkdir()  # something else is in its place
    learning._close()
    assert "no picture of the run" in caplog.text and folder.curve.exists()
    assert checkpoint.load(checkpoint.newest(folder.checkpoints)).facts["updates"] == 2


def test_a_version_file_that_is_older_than_the_checkpoint_lets_no_version_fall(tmp_path: Path) -> None:
    config = tiny("learner.max_staleness=inf")
    folder = saved_run(tmp_path / "run", config, [])
    folder.reserve_version(1)
    learning = resumed(config, folder)
    assert learning._version == 6
    learning._close()


def test_a_resume_that_fails_leaves_no_checkpoint_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SegmentStore, start: object = None) -> None:
        raise LogError("the disk is gone")

    config = tiny("learner.max_staleness=inf")
    folder = saved_run(tmp_path / "run", config, [])
    learning = Learner(config, folder, resume=True)
    monkeypatch.setattr(SegmentStore, "scan", broken)
    with pytest.raises(LogError, match="the disk is gone"):
        learning.run(threading.Event(), Display(learning.view, Console(file=io.StringIO())))
    assert [path.name for path in checkpoint.list_versions(folder.checkpoints)] == ["000005"]
    assert folder.highest_version == 7


def test_a_damaged_record_is_stepped_over_at_a_resume(
    tmp_path: Path, run: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny("learner.max_staleness=inf")
    running = run(config, saved_run(tmp_path / "run", config, [], unused=[[0, 4096, 64]]), resume=True)
    until(lambda: running.learner.view().version > 5, "it to go on")
    assert "resumed from version 5" in running.end()
    assert "lost to damage" in caplog.text


def test_a_damaged_checkpoint_costs_only_what_was_learnt_since_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny("learner.max_staleness=inf")
    folder = saved_run(tmp_path / "run", config, episodes(config, 3))
    whole = checkpoint.load(checkpoint.newest(folder.checkpoints))
    with SegmentStore(folder.segments) as store:
        later = whole.facts | {"updates": 2, "end": list(store.end)}
    path = checkpoint.save(replace(whole, version=6, facts=later), folder.checkpoints)
    (path / "policy.safetensors").write_bytes(b"")
    learning = resumed(config, folder)
    try:
        assert f"{path / 'policy.safetensors'} is damaged" in caplog.text
        assert learning._updates == 1 and learning._version == 8, "above every version that was announced"
        assert len(learning._feed._pool) == 3, "all that was stored since"
    finally:
        learning._close()
    assert (folder.checkpoints / "damaged-000006").is_dir()


def test_weights_of_a_resumed_run_are_those_that_were_saved(tmp_path: Path) -> None:
    config = tiny()
    folder = saved_run(tmp_path / "run", config, [])
    saved = checkpoint.load(checkpoint.newest(folder.checkpoints))
    learning = resumed(config, folder)
    for name, array in to_arrays(learning._policy).items():
        assert (array == saved.policy[name].numpy()).all(), name
    learning._close()


def test_a_resume_that_is_refused_leaves_the_runs_config_as_it_was(tmp_path: Path) -> None:
    config = tiny("learner.updates=1")
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    with folder:
        running = Running(config, folder)
        served(running, config, folder)
        running.end()
    before = folder.config.read_bytes()
    resume = ["learner", str(folder.config), "--run", str(folder.path), "--resume", "learner.updates=2"]
    refused = CliRunner().invoke(cli.app, [*resume, "algorithm.value_hidden=[16]"])
    assert isinstance(refused.exception, RunFolderError)
    said = str(refused.exception)
    assert "can't go on: what was learnt doesn't fit" in said and "algorithm.value_hidden" in said, said
    assert "network." in said and "\n" not in said and len(said) < 600
    assert folder.config.read_bytes() == before
