"""Which episodes an export takes, what it refuses before LeRobot is loaded, and what a kill leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from hal import load_spec
from robotlearn import cli
from robotlearn.buffer.index import SegmentIndex
from robotlearn.buffer.store import SegmentStore
from robotlearn.datasets import export as exporting
from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.export import Wanted, export
from robotlearn.datasets.stored import StoredEpisodes, store_folder
from robotlearn.errors import LogError
from robotlearn.wire import record
from robotlearn.wire.segment import Segment
from tests.datasets.runs import make_run, whole
from tests.fakes import write_spec
from tests.wire.make import make_segment


def store_all(folder: Path, segments: list[Segment]) -> Path:
    with SegmentStore(folder) as store:
        for sequence, segment in enumerate(segments, store.stored):
            [outcome] = store.append([record.encode(segment, session=7, sequence=sequence)])
            assert outcome.kind == "stored", outcome.reason
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A success in two pieces, stored out of order of their steps' episodes; a failure; a half; another model."""
    return store_all(
        tmp_path / "segments",
        [
            make_segment(episode=1, version=2),
            make_segment(episode=2, last=True, success=np.zeros(6, bool), task="push"),
            make_segment(episode=1, first_step=6, last=True, starred=True),
            make_segment(episode=3),
            make_segment(edge="b", robot="left", embodiment="so101", episode=1, last=True),
        ],
    )


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({}, [("edge-a", 2), ("edge-a", 1), ("b", 1)]),
        ({"only": "successes"}, [("edge-a", 1), ("b", 1)]),
        ({"only": "failures"}, [("edge-a", 2)]),
        ({"only": "interventions"}, [("edge-a", 1)]),
        ({"robot": "left"}, [("b", 1)]),
        ({"robot": "panda"}, [("edge-a", 2), ("edge-a", 1)]),
        ({"task": "pus"}, [("edge-a", 2)]),
    ],
    ids=str,
)
def test_whole_episodes_are_chosen(store: Path, chosen: dict[str, str], found: list[tuple[str, int]]) -> None:
    with StoredEpisodes(store.parent) as stored:
        entries = stored.entries(**chosen)  # type: ignore[arg-type]
        assert [(one.edge, one.episode) for one in entries] == found
        for entry in entries:
            episode = stored.read(entry)
            assert len(episode) == entry.steps and episode.key[0] == entry.edge
            assert [part.first_step for part in episode.parts] == [0, 6][: entry.segments] and episode.parts[-1].last


def test_a_learner_may_go_on_and_nothing_is_changed(store: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in store.rglob("*"))
    with StoredEpisodes(store) as stored:
        assert len(stored.entries()) == 3
    assert sorted((path, path.stat().st_mtime_ns) for path in store.rglob("*")) == before
    with SegmentStore(store) as learner, SegmentIndex(store, learner.records, keep=True) as index:
        index.update()
        with StoredEpisodes(store) as stored:
            learner.append([record.encode(make_segment(episode=9, last=True), session=7, sequence=99)])
            assert len(stored.entries()) == 3, "as it was when it was opened"
            assert len(stored.read(stored.entries()[1])) == 12
        with StoredEpisodes(store) as stored:
            assert len(stored.entries()) == 4


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(), "episodes of panda and of so101, and a dataset is of one robot: choose with --robot"),
        (Wanted(robot="panda"), "don't have the 8 entries of panda"),
        (Wanted(robot="ur5e"), "holds no such episode that is whole"),
        (Wanted(robot="so101", labels=("advantage",)), "no labels 'advantage'"),
    ],
    ids=str,
)
def test_what_cant_be_is_refused_before_lerobot_is_loaded(
    store: Path, tmp_path: Path, wanted: Wanted, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lerobot.datasets.lerobot_dataset", None)  # importing it would fail
    with pytest.raises(DatasetError, match=said):
        export(store.parent, str(tmp_path / "dataset"), wanted)
    assert not (tmp_path / "dataset").exists() and not list(tmp_path.glob("dataset.*"))


def test_observations_of_different_shapes_are_refused(tmp_path: Path) -> None:
    other = make_segment(episode=2, last=True, task="push")
    other.observations["observation.environment_state"] = np.zeros((7, 4), np.float32)
    store_all(tmp_path / "segments", [make_segment(episode=1, last=True), other])
    with pytest.raises(DatasetError, match="a dataset has one shape of each: choose with --task"):
        export(tmp_path, str(tmp_path / "dataset"), Wanted())


def test_a_robot_that_nobody_knows_is_asked_for(tmp_path: Path) -> None:
    store_all(tmp_path / "segments", [make_segment(embodiment="mine", last=True)])
    with pytest.raises(DatasetError, match="no spec of mine is known here: give its YAML file with --robot"):
        export(tmp_path, str(tmp_path / "dataset"), Wanted())
    mine = write_spec(tmp_path / "mine.yaml", load_spec("so101"), name="mine")
    with pytest.raises(DatasetError, match="don't have the 6 entries of mine"):
        export(tmp_path, str(tmp_path / "dataset"), Wanted(robot=str(mine)))


def said(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["data", *map(str, arguments)], env={"COLUMNS": "200"})


def test_the_command_writes_over_nothing_else_and_finds_no_store(store: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    wrong = said("export", store, "--out", tmp_path / "thesis").exception
    assert isinstance(wrong, DatasetError) and "exists and is no LeRobotDataset: choose another --out" in str(wrong)
    nowhere = said("export", tmp_path / "nowhere", "--out", tmp_path / "dataset").exception
    assert isinstance(nowhere, LogError) and "holds no stored segments" in str(nowhere)
    assert store_folder(tmp_path) == store == store_folder(store)


@pytest.mark.timeout(300)
def test_what_is_gone_meanwhile_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lerobot")
    run, read = make_run(tmp_path / "run"), StoredEpisodes.read
    broken = whole(run)[2].key

    def fails(self: StoredEpisodes, entry: object) -> object:
        if tuple(entry[:3]) == tuple(broken):  # type: ignore[index]
            raise LogError("gone")
        return read(self, entry)  # type: ignore[arg-type]

    monkeypatch.setattr(exporting.StoredEpisodes, "read", fails)
    found = export(run, str(tmp_path / "dataset"), Wanted())
    assert (found.episodes, found.gone) == (3, 1)


KILLED = """
import os, signal, sys
from pathlib import Path
from robotlearn.datasets.export import Wanted, export
def kill(done, of):
    if done == int(sys.argv[3]):
        print("killed", flush=True)
        os.kill(os.getpid(), int(sys.argv[4]))
export(Path(sys.argv[1]), sys.argv[2], Wanted(), progress=kill)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill_9_leaves_the_dataset_that_was_there(tmp_path: Path) -> None:
    pytest.importorskip("lerobot")
    run, out = make_run(tmp_path / "run"), tmp_path / "dataset"
    export(run, str(out), Wanted("successes"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    command = [sys.executable, "-c", KILLED, str(run), str(out), "2", str(int(signal.SIGKILL))]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL and done.stdout == "killed\n", done.stderr
    assert "Map" not in done.stderr, "LeRobot's progress bars, one for each episode"
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.glob("dataset.*")] == ["dataset.new"]
    assert export(run, str(out), Wanted()).episodes == 4
    assert not list(tmp_path.glob("dataset.*"))


@pytest.mark.timeout(300)
def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("lerobot")
    run = make_run(tmp_path / "run")

    def fail(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(run, str(tmp_path / "dataset"), Wanted(), progress=fail)
    assert not list(tmp_path.glob("dataset*"))
