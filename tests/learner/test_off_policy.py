"""A learner that replays what is stored, with a batch edge on a thread: from its start to its end, and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from robotlearn import checkpoint
from robotlearn.buffer.log_files import LogReader, Position
from robotlearn.config import Config, dump
from robotlearn.learner.replay_feed import ReplayFeed
from robotlearn.metrics import read_metrics
from robotlearn.replay.demonstrations import EDGE
from robotlearn.run_folder import RunFolder
from robotlearn.wire import record as records
from tests.learner.running import Running, served, tiny

REPLAY = [
    "policy={kind: squashed_gaussian, hidden: [8], horizon: 3}", "start.success_band=null", "learner.max_staleness=1",
    "replay={batch_size: 16, update_to_data: 0.25, steps_per_update: 8, starts_after: 60}", "episode_steps=20",
    "learner.episodes_per_update=256",
]  # fmt: skip
SAC = [*REPLAY, "algorithm={name: sac, critic_hidden: [8]}", "demonstrations.episodes=0"]
RLPD = [*REPLAY, "algorithm={name: rlpd, critics: 4, critic_hidden: [8]}", "demonstrations.episodes=2"]
CAMERA = ["observations.cameras=[front]", "observations.image_size=[32, 32]"]


def steps_in(log: Path, until: Position | None = None) -> int:
    """Of all records, or of those that begin before a position."""
    found = LogReader(log).scan()
    return sum(records.peek(record).steps for at, record in found if until is None or at[:2] < until[:2])


def check(folder: RunFolder, config: Config, updates: int) -> None:
    """What a run that has done so many updates leaves: it took in the steps that it needed, each once."""
    rows = read_metrics(folder.metrics)
    learnt = [row for row in rows if "updates" in row]
    assert [row["updates"] for row in learnt] == list(range(1, updates + 1))
    settings = config.replay
    for number, row in enumerate(learnt, 1):
        due = settings.starts_after + number * settings.steps_per_update / settings.update_to_data
        taken = row["replay/steps"] - shown_steps(folder)
        assert due <= taken < due + 9, "so many as the update needs, to the end of a segment of three chunks"
        assert row["update_to_data"] <= settings.update_to_data
        assert row["episodes_lost"] == 0 and row["replay/drawable"] > 0 and row["optimiser_steps_per_s"] > 0
        assert row["loss/critic"] is not None and row["skipped_steps"] == 0
    assert any(row.get("staleness_mean") is not None for row in learnt)

    newest = checkpoint.load(checkpoint.newest(folder.checkpoints))
    facts, end = newest.facts, Position(*newest.facts["end"])
    assert facts["updates"] == facts["blocks"] == updates
    log = folder.segments / "records"
    assert facts["env_steps"] == steps_in(log, end), "no step is counted twice, or not at all"
    assert end[:2] in [(at.file, at.offset + at.length) for at, _ in LogReader(log).scan()], "where a record ends"
    assert [row["version"] for row in rows if "eval_success" in row][-1:] == [newest.version]


def shown_steps(folder: RunFolder) -> int:
    shown = folder.path / "demonstrations" / "records"
    return steps_in(shown) if shown.is_dir() else 0


@pytest.mark.parametrize("overrides", (SAC, RLPD), ids=("sac", "rlpd"))
def test_a_run_from_its_start_to_its_end_and_on(
    tmp_path: Path, run: Callable[..., Running], overrides: list[str]
) -> None:
    config = tiny(*overrides)
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    served(running, config, folder)
    assert "end: version 3" in running.end()
    check(folder, config, 3)
    if overrides is RLPD:
        shown = [records.peek(record) for _, record in LogReader(tmp_path / "run/demonstrations/records").scan()]
        assert [(each.edge, each.episode, each.last, each.success) for each in shown] == [
            (EDGE, 0, True, True), (EDGE, 1, True, True)
        ]  # fmt: skip
        row = next(row for row in read_metrics(folder.metrics) if "updates" in row)
        assert row["replay/part_1"] == shown_steps(folder) == row["replay/drawable"] - row["replay/part_0"]

    more = tiny(*overrides, "learner.updates=5")
    resumed = run(more, folder, resume=True)
    served(resumed, more, folder)
    said = resumed.end()
    assert "resumed from version 3 as version 4: 3 updates done" in said and "end: version 6" in said
    check(folder, more, 5)
    assert isinstance(resumed.learner._feed, ReplayFeed)
    assert resumed.learner._feed.row()["replay/steps"] == resumed.learner._feed.env_steps + shown_steps(folder)


@pytest.mark.slow
@pytest.mark.renders
def test_with_a_camera(tmp_path: Path, run: Callable[..., Running]) -> None:
    config = tiny(*SAC, *CAMERA)
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    served(running, config, folder)
    running.end()
    check(folder, config, 3)
    row = [row for row in read_metrics(folder.metrics) if "updates" in row][-1]
    assert row["replay/hits"] == 1 and row["replay/image_mb"] > 0
    more = tiny(*SAC, *CAMERA, "learner.updates=5")
    resumed = run(more, folder, resume=True)
    served(resumed, more, folder)
    resumed.end()
    check(folder, more, 5)
