"""What is written behind training is what was there when it was asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from robotlearn import checkpoint
from robotlearn.checkpoint import Checkpoint
from robotlearn.config import dump
from robotlearn.errors import CheckpointError
from robotlearn.learner.checkpoint_writer import CheckpointWriter
from robotlearn.metrics import read_metrics
from robotlearn.run_folder import RunFolder
from tests.learner.running import Running, served, tiny
from tests.waiting import until


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[CheckpointWriter]:
    made = CheckpointWriter(tmp_path)
    yield made
    made.close()


class Held:
    """Writing waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()
        save = checkpoint.save

        def held(saved: Checkpoint, directory: Path) -> Path:
            if saved.version == version:
                self.begun.set()
                self.let_go.wait(60)
            return save(saved, directory)

        monkeypatch.setattr(checkpoint, "save", held)


def test_what_changes_while_it_is_written_is_not_in_it(
    tmp_path: Path, writer: CheckpointWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch, 1)
    weights, moments = torch.arange(6.0).view(2, 3), torch.ones(4, dtype=torch.float64)
    live = Checkpoint(1, {"weights": weights, "turned": weights.T}, {"moments": moments}, {"updates": 1})
    writer.begin(live)
    assert held.begun.wait(60) and not writer.done
    weights += 100
    moments += 100
    held.let_go.set()
    until(lambda: writer.done, "the checkpoint")
    writer.wait()
    saved = checkpoint.load(tmp_path / "000001")
    torch.testing.assert_close(saved.policy["weights"], torch.arange(6.0).view(2, 3), rtol=0, atol=0)
    torch.testing.assert_close(saved.policy["turned"], torch.arange(6.0).view(2, 3).T, rtol=0, atol=0)
    assert saved.algorithm["moments"].tolist() == [1.0] * 4 and saved.facts == {"updates": 1}


def test_the_next_one_waits_for_it_and_has_its_memory(tmp_path: Path, writer: CheckpointWriter) -> None:
    weights = torch.zeros(3)
    places = set()
    for version in (1, 2):
        writer.begin(Checkpoint(version, {"weights": weights}))
        places.add(writer._policy["weights"].data_ptr())
        weights += 1
    writer.begin(Checkpoint(3, {"weights": torch.full((5,), 9.0), "more": torch.ones(1)}))
    writer.wait()
    loaded = [checkpoint.load(path).policy["weights"].tolist() for path in checkpoint.list_versions(tmp_path)]
    assert loaded == [[0.0] * 3, [1.0] * 3, [9.0] * 5] and len(places) == 1


def test_its_memory_is_not_taken_before_it_is_written(
    tmp_path: Path, writer: CheckpointWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch, 1)
    writer.begin(Checkpoint(1, {"weights": torch.zeros(3)}))
    assert held.begun.wait(60)
    second = threading.Thread(target=writer.begin, args=(Checkpoint(2, {"weights": torch.ones(3)}),))
    second.start()
    second.join(0.2)
    assert second.is_alive(), "it waits"
    held.let_go.set()
    second.join(60)
    writer.wait()
    assert checkpoint.load(tmp_path / "000001").policy["weights"].tolist() == [0.0] * 3


def test_a_write_that_fails_is_told_once_and_the_next_one_is_written(
    tmp_path: Path, writer: CheckpointWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        writer.begin(Checkpoint(1, {"weights": torch.zeros(3)}))
        with pytest.raises(CheckpointError, match=r"checkpoint 1 can't be written .*No space left"):
            writer.wait()
    writer.wait()
    writer.begin(Checkpoint(2, {"weights": torch.zeros(3)}))
    writer.wait()
    assert [path.name for path in checkpoint.list_versions(tmp_path)] == ["000002"]


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch, 2)
    config = tiny("learner.updates=6", "learner.checkpoint_every=2", "learner.keep_checkpoints=9")
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    serving = threading.Thread(target=served, args=(running, config, folder))
    serving.start()
    try:
        assert held.begun.wait(60)
        until(lambda: folder.highest_version == 3, "the next update")
        assert [path.name for path in checkpoint.list_versions(folder.checkpoints)] == ["000000"]
    finally:
        held.let_go.set()
        serving.join(60)
    running.end()
    names = [path.name for path in checkpoint.list_versions(folder.checkpoints)]
    assert names == ["000000", "000002", "000004", "000006"]
    facts = [checkpoint.describe(path).facts["updates"] for path in checkpoint.list_versions(folder.checkpoints)]
    assert facts == [0, 2, 4, 6], "as they were when it was copied"
    assert [row["updates"] for row in read_metrics(folder.metrics) if "updates" in row] == [1, 2, 3, 4, 5, 6]


def test_what_could_not_be_written_is_tried_again_at_the_end(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save, failed = checkpoint.save, []

    def full_once(saved: Checkpoint, directory: Path) -> Path:
        if saved.version == 3 and not failed:
            failed.append(saved.version)
            raise CheckpointError("checkpoint 3 can't be written: no space left on device")
        return save(saved, directory)

    monkeypatch.setattr(checkpoint, "save", full_once)
    config = tiny("learner.updates=3", "learner.checkpoint_every=3")
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    served(running, config, folder)
    running.end()
    assert failed and "can't be written: no space left on device; training goes on" in caplog.text
    assert checkpoint.newest(folder.checkpoints).name == "000003"


def test_whatever_keeps_it_from_being_written_it_is_tried_again_at_the_end(
    tmp_path: Path, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    save, failed = checkpoint.save, []

    def fail_once(saved: Checkpoint, directory: Path) -> Path:
        if saved.version == 2 and not failed:
            failed.append(saved.version)
            raise MemoryError
        return save(saved, directory)

    monkeypatch.setattr(checkpoint, "save", fail_once)
    config = tiny("learner.updates=9", "learner.checkpoint_every=2")
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = run(config, folder)
    serving = threading.Thread(target=served, args=(running, config, folder))
    serving.start()
    running.thread.join(60)
    with pytest.raises(MemoryError):
        running.end()
    serving.join(60)
    assert failed and int(checkpoint.newest(folder.checkpoints).name) >= 2
