"""A run whose edge has approved weights only, and what a person may ask of it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from robotlearn import checkpoint, cli
from robotlearn.buffer.store import SegmentStore
from robotlearn.config import Config, dump
from robotlearn.edge.batch import BatchEdge
from robotlearn.errors import CheckpointError, RunFolderError
from robotlearn.evaluation import Evaluation
from robotlearn.learner.approval import Approval
from robotlearn.learner.learner import Learner
from robotlearn.learner.orders import Orders
from robotlearn.learner.serving import Serving
from robotlearn.metrics import read_metrics
from robotlearn.run_folder import RunFolder
from tests.learner.running import Running, served, tiny
from tests.waiting import until

ASKING = "learner.approval={{edges: [{}], rehearsal_episodes: 2, observations: 8, max_outside: 1}}"
MANY = "learner.updates=1000"


def rehearsing(monkeypatch: pytest.MonkeyPatch, success: Callable[[int], float]) -> None:
    """Rehearsals end as `success` says for each version; what they measure is tested elsewhere."""

    def evaluate(self: Learner, episodes: int) -> Evaluation:
        share = success(self._version)
        return Evaluation(episodes, round(share * episodes), share, 0.0, 1.0, 0.0, 1.0)

    monkeypatch.setattr(Learner, "_evaluate", evaluate)


def used(folder: RunFolder) -> set[int]:
    """The versions that edges acted with."""
    with SegmentStore(folder.segments) as store:
        return {int(version) for _, segment in store.scan() for version in segment.chunk_version}


def used_in_order(folder: RunFolder) -> list[int]:
    """The versions that edges acted with, by the clock: they take new weights for all their arms at once."""
    found = []
    with SegmentStore(folder.segments) as store:
        for _, segment in store.scan():
            begun = segment.monotonic[segment.chunk_start]
            found += list(zip(begun.tolist(), segment.chunk_version.tolist(), strict=True))
    return [version for _, version in sorted(found)]


def weights(folder: RunFolder, version: int) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder.checkpoints / f"{version:06d}").policy


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def decided(folder: RunFolder, *keys: str) -> list[Any]:
    rows = Orders(folder).decisions()
    return [tuple(row[key] for key in keys) if len(keys) > 1 else row[keys[0]] for row in rows]


class Served:
    """An edge that serves a run until told to stop."""

    def __init__(self, config: Config, folder: RunFolder) -> None:
        until(folder.address.exists, "the address")
        self.edge = BatchEdge(config, config.edges[1], folder.address.read_text(), folder.path.parent / "edge")
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.edge.run, args=(self.stop,))
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        self.thread.join(60)
        self.edge.close()


def test_an_edge_acts_only_with_what_was_approved(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsing(monkeypatch, lambda version: 0.0 if version == 2 else 1.0)
    config = tiny("learner.updates=4", "learner.checkpoint_every=1", ASKING.format("batch"))
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    served(running, config, folder)
    running.end()
    assert decided(folder, "version", "decision")[:3] == [(0, "approved"), (1, "approved"), (2, "rejected")]
    assert 2 not in used(folder) and {0, 1} & used(folder)
    assert [row["updates"] for row in read_metrics(folder.metrics) if "updates" in row] == [1, 2, 3, 4]


def test_weights_that_no_checkpoint_could_be_written_of_are_approved_all_the_same(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsing(monkeypatch, lambda version: 0.0 if version == 3 else 1.0)
    save = checkpoint.save

    def full(saved: checkpoint.Checkpoint, directory: Path) -> Path:
        if saved.version == 2:
            raise CheckpointError("no space left on device")
        return save(saved, directory)

    monkeypatch.setattr(checkpoint, "save", full)
    config = tiny("learner.updates=4", "learner.checkpoint_every=100", ASKING.format("batch, station"))
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    served(running, config, folder)
    running.end()
    assert decided(folder, "version", "of", "decision")[2:5] == [
        (2, 2, "approved"), (3, 3, "rejected"), (4, 1, "rolled back"),
    ]  # fmt: skip


def test_where_nobody_else_collects_a_rejected_version_takes_the_run_back(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsing(monkeypatch, lambda version: 0.0 if version == 2 else 1.0)
    config = tiny(
        "learner.updates=4", "learner.checkpoint_every=1", "learner.keep_checkpoints=20",
        ASKING.format("batch, station"),
    )  # fmt: skip
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    served(running, config, folder)
    running.end()
    assert decided(folder, "version", "of", "decision")[2:4] == [(2, 2, "rejected"), (3, 1, "rolled back")]
    first, rejected, after = (checkpoint.load(folder.checkpoints / f"{version:06d}") for version in (1, 2, 3))
    assert equal(first.policy, after.policy) and equal(first.algorithm, after.algorithm)
    assert not equal(first.algorithm, rejected.algorithm)
    assert 2 not in used(folder)


def test_first_weights_that_nobody_may_use_end_the_run_with_a_reason(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsing(monkeypatch, lambda version: 0.0)
    config = tiny("learner.approval={edges: [batch, station]}")
    running = run(config, RunFolder.create(tmp_path / "run", dump(config), "id"))
    running.thread.join(60)
    with pytest.raises(RunFolderError, match=r"first weights are rejected \(success 0\.0% in rehearsal"):
        running.end()


def test_an_edge_that_rests_for_want_of_approval_says_so(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsing(monkeypatch, lambda version: 0.0)
    config = tiny(MANY, ASKING.format("batch"))
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    there = Served(config, folder)

    def waits_for() -> list[str]:
        return [peer.waits_for for peer in running.learner.view().peers]

    try:
        until(lambda: waits_for() == ["weights that pass learner.approval"], "the edge to say what it waits for")
    finally:
        running.end()
        there.end()


def said(*arguments: object) -> str:
    done = CliRunner().invoke(cli.app, ["weights", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_a_person_pins_and_takes_back_and_it_outlives_the_learner(tmp_path: Path, run: Callable[..., Running]) -> None:
    config = tiny(MANY, "learner.checkpoint_every=1", "learner.keep_checkpoints=2", "learner.max_staleness=inf")
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    there = Served(config, folder)
    until(lambda: folder.highest_version > 4, "some versions")

    version = int(checkpoint.newest(folder.checkpoints).name)
    wanted = weights(folder, version)
    told = re.fullmatch(
        rf"pinned: version (\d+) with the weights of version {version}\n", said("pin", folder.path, version)
    )
    assert told is not None
    pinned = int(told[1])
    until(lambda: there.edge.version == pinned and folder.highest_version > pinned + 5, "training that goes on")
    assert there.edge.version == pinned
    assert equal(there.edge._policy.state_dict(), wanted)
    until(lambda: Orders(folder).served == {"batch": pinned}, "what the edges have to be written down")
    [row] = [row for row in json.loads(said("ls", folder.path, "--json"))["versions"] if row["version"] == pinned]
    assert row["edges"] == ["batch"] and [one["decision"] for one in row["decisions"]] == ["pinned"]
    assert f"pinned (weights of {version}): by a person" in " ".join(said("ls", folder.path).split())

    running.end()
    there.end()
    running = run(config, folder, True)
    there = Served(config, folder)
    try:
        until(lambda: there.edge.version > pinned, "the pinned weights, under a new version")
        assert equal(there.edge._policy.state_dict(), wanted)
        held = f"every edge has the weights of version {version}, until `robotlearn weights unpin"
        assert held in said("ls", folder.path) and json.loads(said("ls", folder.path, "--json"))["pinned"] == version
        assert f"(edges' weights are pinned to version {version})" in running.learner._pinned()
        assert said("unpin", folder.path) == "unpinned\n"
        assert Orders(folder).decisions()[-1]["version"] == version and held not in said("ls", folder.path)
        with pytest.raises(CheckpointError, match="nothing is pinned"):
            said("unpin", folder.path)
        newest = folder.highest_version
        until(lambda: there.edge.version > newest, "newer weights")

        back = int(checkpoint.newest(folder.checkpoints).name)
        with pytest.raises(CheckpointError, match="has no checkpoint of version 99999; it has "):
            said("rollback", folder.path, 99999)
        done = said("rollback", folder.path, back)
        found = re.fullmatch(r"rolled back: version (\d+) with the weights of version (\d+)\n", done)
        assert found is not None and int(found[2]) == back and int(found[1]) > newest
    finally:
        running.end()
        there.end()
    versions = used_in_order(folder)
    assert versions == sorted(versions), "an edge's versions only grow"


def test_a_roll_back_that_a_crash_cut_short_is_ended_by_the_learner_that_comes_again(
    tmp_path: Path, run: Callable[..., Running]
) -> None:
    config = tiny(MANY, "learner.checkpoint_every=1", "learner.keep_checkpoints=9", "learner.max_staleness=0")
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    there = Served(config, folder)
    until(lambda: folder.highest_version > 4, "some versions")
    running.end()
    there.end()
    # What it leaves that is killed when the decision is written down: no weights, no checkpoint, the order.
    orders = Orders(folder)
    back, number = int(checkpoint.list_versions(folder.checkpoints)[0].name), folder.highest_version + 1
    wanted = checkpoint.load(folder.checkpoints / f"{back:06d}")
    folder.reserve_version(number)
    orders.note(number, back, "rolled back", "by a person", order=orders.give("rollback", back))
    orders.close()
    running = run(config, folder, True)
    try:
        until(lambda: folder.highest_version > number, "its first weights")
        until(lambda: orders.waiting() is None, "the order to be done")
    finally:
        running.end()
    again = checkpoint.load(checkpoint.newest(folder.checkpoints) or tmp_path)
    assert again.version == number + 1
    assert equal(again.policy, wanted.policy) and equal(again.algorithm, wanted.algorithm)
    assert decided(folder, "version", "decision") == [(number, "rolled back")], "once"


def test_an_episode_counts_for_weights_that_it_was_begun_with(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, int]] = []
    monkeypatch.setattr(Approval, "heard", lambda self, edge, version, success: heard.append((edge, version)))
    config = tiny("learner.updates=6", "learner.max_staleness=inf", ASKING.format("batch"))
    rehearsing(monkeypatch, lambda version: 1.0)
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    served(running, config, folder)
    running.end()
    episodes: dict[int, set[int]] = {}
    with SegmentStore(folder.segments) as store:
        for _, segment in store.scan():
            episodes.setdefault(segment.episode, set()).update(segment.chunk_version.tolist())
    assert any(len(versions) > 1 for versions in episodes.values()), "weights came in the middle of one"
    one = [("batch", version) for versions in episodes.values() if len(versions) == 1 for version in versions]
    assert heard and set(heard) <= set(one) and all(heard.count(each) <= one.count(each) for each in set(heard))


def test_a_pin_that_is_gone_leaves_the_approved_weights_under_a_version_above_it(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsing(monkeypatch, lambda version: float(version == 0))
    config = tiny(MANY, "learner.checkpoint_every=1", "learner.max_staleness=inf", ASKING.format("batch"))
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    there = Served(config, folder)
    try:
        until(lambda: folder.highest_version > 2, "versions that are rejected")
        approved = weights(folder, 0)
        found = re.search(r"version (\d+) ", said("pin", folder.path, int(checkpoint.newest(folder.checkpoints).name)))
        assert found is not None
        pinned = int(found[1])
        until(lambda: there.edge.version == pinned, "the pinned weights")
        assert said("unpin", folder.path) == "unpinned\n"
        until(lambda: there.edge.version != pinned, "other weights")
        assert there.edge.version > pinned
        assert equal(there.edge._policy.state_dict(), approved)
    finally:
        running.end()
        there.end()
    versions = used_in_order(folder)
    assert versions == sorted(versions), "an edge's versions only grow"


@pytest.mark.slow
def test_what_passed_its_trial_keeps_its_checkpoint(tmp_path: Path, run: Callable[..., Running]) -> None:
    config = tiny(
        "learner.updates=20", "learner.checkpoint_every=1000", "learner.keep_checkpoints=1",
        "learner.max_staleness=inf",
        "learner.approval={edges: [batch], trial_edge: batch, trial_episodes: 20, trial_success: 0, max_drop: 1, "
        "rehearsal_episodes: 0, observations: 0}",
    )  # fmt: skip
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    served(running, config, folder)
    running.end()
    rows = decided(folder, "version", "decision")
    passed = [version for version, decision in rows if decision == "approved" and (version, "trial") in rows]
    assert passed and (folder.checkpoints / f"{passed[-1]:06d}").exists()


@pytest.mark.slow
@pytest.mark.parametrize("more", ["every: 3", "trial_edge: batch, trial_episodes: 9, trial_success: 0"])
def test_where_nobody_else_collects_what_is_published_is_offered_before_all_is_too_old(
    tmp_path: Path, run: Callable[..., Running], more: str
) -> None:
    asking = f"edges: [batch, station], rehearsal_episodes: 0, observations: 0, max_drop: 1, {more}"
    config = tiny("learner.updates=6", "learner.max_staleness=0", f"learner.approval={{{asking}}}")
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    served(running, config, folder)
    running.end()
    assert [row["updates"] for row in read_metrics(folder.metrics) if "updates" in row] == [1, 2, 3, 4, 5, 6]


def damage(folder: RunFolder, version: int) -> None:
    (folder.checkpoints / f"{version:06d}" / "policy.safetensors").write_bytes(b"")


def begun(
    folder: RunFolder, config: Config, run: Callable[..., Running], until_version: int
) -> tuple[Running, Served]:
    running = run(config, folder)
    there = Served(config, folder)
    until(lambda: folder.highest_version >= until_version, "some versions")
    return running, there


ALL_APPROVED = [
    MANY, "learner.checkpoint_every=1", "learner.keep_checkpoints=99", "learner.max_staleness=inf",
    "learner.approval={edges: [batch], rehearsal_episodes: 0, observations: 0, max_drop: 1}",
]  # fmt: skip


def served_again(folder: RunFolder, config: Config, run: Callable[..., Running]) -> dict[str, Any]:
    """The one decision of a learner that comes again."""

    def decisions() -> list[dict[str, Any]]:
        return [row for row in Orders(folder).decisions() if row["why"] == "the learner came again"]

    running = run(config, folder, True)
    until(lambda: bool(decisions()), "a decision")
    running.end()
    [again] = decisions()
    return again


@pytest.mark.slow
def test_a_pin_that_cant_be_kept_leaves_what_was_approved_and_nothing_else(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rehearsing(monkeypatch, lambda version: float(version == 0))
    config = tiny(
        MANY, "learner.checkpoint_every=1", "learner.keep_checkpoints=99", "learner.max_staleness=inf",
        ASKING.format("batch"),
    )  # fmt: skip
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    for running, there in [begun(folder, config, run, 3)]:
        running.end()
        there.end()
    approved, pinned = weights(folder, 0), int(checkpoint.list_versions(folder.checkpoints)[-2].name)
    damage(folder, pinned)
    with monkeypatch.context() as patched:
        patched.setattr(Serving, "_pin", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        Orders(folder).pinned = pinned
        with pytest.raises(OSError, match="No space left"):
            run(config, folder, True).end()
    for _ in range(2):  # what the one before left must not lead it astray
        Orders(folder).pinned = pinned
        before = folder.highest_version
        running = run(config, folder, True)
        there = Served(config, folder)
        try:
            until(lambda: there.edge.version > before, "weights")  # noqa: B023
            assert equal(there.edge._policy.state_dict(), approved)
            assert running.learner._serving.pinned is None and Orders(folder).pinned is None
        finally:
            running.end()
            there.end()
    assert f"version {pinned} was pinned, and is no longer" in caplog.text
    again = [row for row in Orders(folder).decisions() if row["why"] == "the learner came again"]
    assert {row["of"] for row in again} == {0}
    assert not any((folder.checkpoints / f"{row['version']:06d}").exists() for row in again), "the policy was another"


def test_with_the_last_approved_checkpoint_damaged_the_one_before_is_served(
    tmp_path: Path, run: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(*ALL_APPROVED)
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running, there = begun(folder, config, run, 5)
    running.end()
    there.end()
    approved = [version for version, decision in decided(folder, "version", "decision") if decision == "approved"]
    damage(folder, approved[-1])
    again = served_again(folder, config, run)
    assert again["of"] == approved[-2] and f"version {approved[-1]} was approved and can't be served" in caplog.text


def test_what_a_roll_back_left_is_not_served_again(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsing(monkeypatch, lambda version: 0.0)
    config = tiny(*ALL_APPROVED)
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running, there = begun(folder, config, run, 5)
    there.end()
    until(lambda: len(checkpoint.list_versions(folder.checkpoints)) > 4, "checkpoints")
    versions = [int(path.name) for path in checkpoint.list_versions(folder.checkpoints)]
    found = re.search(r"version (\d+) ", said("rollback", folder.path, versions[1]))
    running.end()
    assert found is not None
    damage(folder, int(found[1]))
    damage(folder, versions[1])
    again = served_again(folder, config, run)
    assert again["of"] == versions[0], "not those after the one that it went back to"


def test_what_it_goes_back_to_stays_until_there_is_a_new_checkpoint(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[set[int]] = []
    prune = checkpoint.prune
    monkeypatch.setattr(
        checkpoint, "prune", lambda directory, keep, more=(): needed.append(set(more)) or prune(directory, keep, more)
    )
    monkeypatch.setattr(checkpoint, "best", lambda directory: None)
    config = tiny(MANY, "learner.checkpoint_every=1", "learner.keep_checkpoints=9", "learner.max_staleness=inf")
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running, there = begun(folder, config, run, 4)
    try:
        back = int(checkpoint.list_versions(folder.checkpoints)[1].name)
        said("rollback", folder.path, back)
        until(lambda: any(back in one for one in needed), "a pruning while it goes back")
    finally:
        running.end()
        there.end()
    assert running.learner._serving.needed == set()


def test_a_failed_trial_with_nothing_to_go_back_to_leaves_its_arm_at_rest(
    tmp_path: Path, run: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(
        MANY, "learner.checkpoint_every=1", "learner.keep_checkpoints=99", "learner.max_staleness=inf",
        "learner.approval={edges: [batch], trial_edge: batch, trial_episodes: 8, trial_success: 1, "
        "rehearsal_episodes: 0, observations: 0}",
    )  # fmt: skip
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    until(lambda: (folder.checkpoints / "000000").exists(), "the first checkpoint")
    damage(folder, 0)
    there = Served(config, folder)
    try:
        until(lambda: "there is nothing to go back to" in caplog.text, "the end of its trial")
        assert running.learner._publisher.withheld("batch")
        assert running.thread.is_alive()
    finally:
        running.end()
        there.end()


@pytest.mark.slow
def test_an_arm_that_is_away_costs_its_trial_and_no_training(
    tmp_path: Path, run: Callable[..., Running]
) -> None:
    config = tiny(
        "learner.updates=6", "learner.checkpoint_every=1", "learner.max_staleness=inf",
        "learner.approval={edges: [batch, station], trial_edge: station, trial_episodes: 1, trial_patience_s: 0.2, "
        "rehearsal_episodes: 0, observations: 0}",
    )  # fmt: skip
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    served(running, config, folder)
    running.end()
    decisions = decided(folder, "decision")
    assert "rejected" in decisions and "rolled back" not in decisions
    assert [row["updates"] for row in read_metrics(folder.metrics) if "updates" in row] == [1, 2, 3, 4, 5, 6]
