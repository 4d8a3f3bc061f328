"""A run as a LeRobotDataset, read by LeRobot itself, and back: equal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from hal import load_spec
from robotlearn import cli
from robotlearn.buffer.store import SegmentStore
from robotlearn.datasets import labels, sidecar
from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.export import Wanted, export
from robotlearn.datasets.frames import chunks_of_steps
from robotlearn.datasets.importing import import_dataset
from robotlearn.datasets.stored import Episode
from robotlearn.people.demonstrated import demonstrations, episodes
from robotlearn.people.recording import about
from robotlearn.wire import record
from tests.datasets.runs import STEPS, assert_equal, make_run, whole
from tests.fakes import small_spec
from tests.wire.make import make_segment

pytest.importorskip("lerobot")
pytestmark = pytest.mark.timeout(300)  # LeRobot is loaded, once


def said(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["data", *map(str, arguments)], env={"COLUMNS": "200"})


def done(*arguments: object) -> str:
    result = said(*arguments)
    assert result.exit_code == 0, f"{result.output}{result.exception!r}"
    return result.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("sets") / "dataset"
    told = done("export", run, "--out", folder)
    assert f"{folder}: a LeRobotDataset of 4 episodes, {4 * STEPS} frames" in told and "3 of them failed" in told
    assert not list(folder.parent.glob("dataset.*"))
    yield folder


def lerobot(folder: Path) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("dataset", root=folder)


def rows(dataset: Any, key: str, episode: Episode, start: int) -> np.ndarray:
    return np.stack([np.asarray(dataset[start + step][key]) for step in range(len(episode))])


def test_lerobot_reads_what_was_stored(run: Path, exported: Path) -> None:
    dataset, stored = lerobot(exported), whole(run)
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (4, 4 * STEPS, 10)
    assert [one.success for one in stored] == [True, False, False, False]
    for index, episode in enumerate(stored):
        start = index * STEPS
        seen = {key: values[:-1] for key, values in episode.observations.items()}
        for key, values in {
            **seen,
            "action": episode.steps("action_executed"),
            "proposed_action": episode.steps("action_proposed"),
            "intervention": episode.steps("intervention"),
            "held": episode.steps("held"),
            "next.reward": episode.steps("reward"),
            "next.terminated": episode.steps("terminated"),
            "next.truncated": episode.steps("truncated"),
            "next.success": episode.steps("success"),
            "next.done": np.arange(STEPS) == STEPS - 1,
            "policy_version": np.repeat([0, 1, 2], 4)[:STEPS],
        }.items():
            np.testing.assert_array_equal(rows(dataset, key, episode, start), values, err_msg=key)
        assert dataset[start]["task"] == episode.instruction
    assert stored[1].steps("intervention").sum() == 2 and stored[2].steps("held").sum() == 1


def test_log_prob_is_of_the_very_action(run: Path, exported: Path) -> None:
    dataset, stored = lerobot(exported), whole(run)
    for index, episode in enumerate(stored):
        expected = []
        for part in episode.parts:
            for chunk, count in enumerate(part.chunk_executed):
                expected += [part.chunk_log_prob[chunk, :, action].sum() for action in range(count)]
        np.testing.assert_allclose(rows(dataset, "log_prob", episode, index * STEPS), expected, rtol=1e-6)
        assert np.abs(expected).min() > 0 and len(np.unique(expected)) == STEPS


def test_a_chunk_may_begin_in_its_middle_and_steps_may_have_none() -> None:
    first = np.array([1, 2], np.int32)
    segment = make_segment(
        steps=7, chunk_first=first, chunk_start=first * 3 - 2, chunk_executed=np.array([3, 2], np.int32)
    )
    version, log_prob = chunks_of_steps(Episode((segment,)))
    one, two = segment.chunk_log_prob.sum(axis=1)
    assert version.tolist() == [-1, 3, 3, 3, 3, 3, -1] and version.dtype == np.int64
    np.testing.assert_allclose(log_prob, [0, *one[1:4], *two[2:4], 0])
    assert log_prob.dtype == np.float32


def test_a_policy_of_lerobot_is_shown_nothing_that_it_should_not_see(exported: Path) -> None:
    from lerobot.utils.feature_utils import dataset_to_policy_features

    found = dataset_to_policy_features(lerobot(exported).meta.features)
    seen = {"observation.state", "observation.tracking_error", "observation.environment_state"}
    assert set(found) == {*seen, "action"}


def test_imported_again_the_segments_are_equal(run: Path, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "back"
    assert "4 episodes came in, 1 of them successes" in done("import", exported, "--out", out, "--robot", "panda")
    back = whole(out)
    assert len(back) == 4
    for one, other in zip(whole(run), back, strict=True):
        assert_equal(one, other)
    copy = shutil.copytree(exported, tmp_path / "copy")
    shutil.rmtree(copy / "data")  # what is there already is not even read
    again = done("import", copy, "--out", out, "--robot", "panda")
    assert "0 episodes came in" in again and "4 were there already" in again
    assert len(whole(out)) == 4 and about(out)["task"] == "reach"
    shown = demonstrations(out, "panda")
    np.testing.assert_array_equal(shown.actions, whole(run)[0].steps("action_executed"))


def test_an_import_that_was_killed_goes_on(run: Path, exported: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(number: int, of: int) -> None:
        if number == 2:
            raise Killed

    with pytest.raises(Killed):
        import_dataset(str(exported), tmp_path / "back", load_spec("panda"), progress=kill)
    assert len(whole(tmp_path / "back")) == 2
    done_ = import_dataset(str(exported), tmp_path / "back", load_spec("panda"))
    assert (done_.added, done_.there, done_.whole) == (2, 2, True)
    for one, other in zip(whole(run), whole(tmp_path / "back"), strict=True):
        assert_equal(one, other)


def test_a_recording_comes_back_as_it_was(run: Path, exported: Path, tmp_path: Path) -> None:
    import_dataset(str(exported), tmp_path / "first", load_spec("panda"))
    done("export", tmp_path / "first", "--out", tmp_path / "dataset", "--only", "failures")
    import_dataset(str(tmp_path / "dataset"), tmp_path / "second", load_spec("panda"))
    first, second = ((tmp_path / name / "recording.json").read_text() for name in ("first", "second"))
    assert json.loads(first) == json.loads(second)
    assert [one.success for one in episodes(tmp_path / "second")] == [False] * 3
    for one, other in zip(whole(run)[1:], whole(tmp_path / "second"), strict=True):
        assert_equal(one, other)


def test_labels_become_features(run: Path, tmp_path: Path) -> None:
    stored = whole(run)
    edge, session, episode = stored[1].key
    values = np.array([[0.5, 1.0], [2.0, -3.0]])
    written = labels.Labels([edge] * 2, [session] * 2, [episode] * 2, [labels.WHOLE, 3], values)
    assert labels.write(run / "segments", "advantage", written) == 1
    done("export", run, "--out", tmp_path / "dataset", "--labels", "advantage@1", "--only", "interventions")
    dataset = lerobot(tmp_path / "dataset")
    expected = np.tile(np.float32([0.5, 1.0]), (STEPS, 1))
    expected[3] = [2.0, -3.0]
    assert dataset.num_episodes == 1
    np.testing.assert_array_equal(rows(dataset, "label.advantage", stored[1], 0), expected)
    assert rows(dataset, "label.advantage.given", stored[1], 0).all()


def test_a_frame_that_was_changed_is_no_episode_of_ours(exported: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    table = pq.read_table(copy / sidecar.PATH)
    pq.write_table(table.slice(1), copy / sidecar.PATH)
    with pytest.raises(DatasetError, match=r"segment 0 has 4 steps from 4 on.*without that file"):
        import_dataset(str(copy), tmp_path / "back", load_spec("panda"))
    (copy / sidecar.PATH).unlink()
    done_ = import_dataset(str(copy), tmp_path / "frames", load_spec("panda"))
    assert (done_.added, done_.successes, done_.whole) == (4, 1, False)


@pytest.mark.renders
def test_images_come_back_to_the_pixel_and_videos_nearly(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", cameras=("front",), arms=2)
    stored, key = whole(run), "observation.images.front"
    assert stored[0].observations[key].shape == (STEPS + 1, 32, 40, 3) and np.ptp(stored[0].observations[key]) > 50
    for video in ([], ["--video"]):
        folder, out = tmp_path / f"dataset{len(video)}", tmp_path / f"back{len(video)}"
        done("export", run, "--out", folder, *video)
        dataset = lerobot(folder)
        import_dataset(str(folder), out, load_spec("panda"))
        for index, (one, other) in enumerate(zip(stored, whole(out), strict=True)):
            assert_equal(one, other, but=key if video else "")
            theirs = rows(dataset, key, one, index * STEPS)
            theirs = (theirs.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)
            np.testing.assert_array_equal(theirs, other.observations[key][:-1])
            np.testing.assert_array_equal(one.observations[key][-1], other.observations[key][-1])
            difference = np.abs(one.observations[key].astype(int) - other.observations[key])
            assert difference.mean() < (8 if video else 1e-9)
            assert bool(video) == difference.any()


def test_one_number_per_frame_is_a_number_or_a_row_of_one(tmp_path: Path) -> None:
    """LeRobot keeps both alike; the sidecar knows which it was."""
    spec = small_spec(joints=small_spec().joints[:1], gripper=None)
    segment = make_segment(embodiment="small", last=True)
    for name in ("action_proposed", "action_executed"):
        setattr(segment, name, np.ascontiguousarray(getattr(segment, name)[:, :1]))
    segment.observations |= {
        "observation.state": np.linspace(0, 0.5, 7, dtype=np.float32)[:, None],
        "observation.environment_state": np.arange(7, dtype=np.float32),
        "observation.count": np.arange(7, dtype=np.int64),
    }
    with SegmentStore(tmp_path / "segments") as store:
        [outcome] = store.append([record.encode(segment, session=7, sequence=0)])
        assert outcome.kind == "stored", outcome.reason
    export(tmp_path, str(tmp_path / "dataset"), Wanted(), spec=spec)
    import_dataset(str(tmp_path / "dataset"), tmp_path / "back", spec)
    [one], [other] = whole(tmp_path), whole(tmp_path / "back")
    assert_equal(one, other)
    (tmp_path / "dataset" / sidecar.PATH).unlink()
    import_dataset(str(tmp_path / "dataset"), tmp_path / "frames", spec)
    [frames] = whole(tmp_path / "frames")
    np.testing.assert_array_equal(
        frames.observations["observation.state"][:-1], one.observations["observation.state"][:-1]
    )
    np.testing.assert_array_equal(frames.steps("action_executed"), one.steps("action_executed"))


def test_a_sidecar_from_before_there_were_groups_is_read(run: Path, exported: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    folder = shutil.copytree(exported, tmp_path / "set")
    path = folder / sidecar.PATH
    metadata = pq.read_schema(path).metadata
    pq.write_table(pq.read_table(path).drop_columns(["group"]).replace_schema_metadata(metadata), path)
    done("import", folder, "--out", tmp_path / "back", "--robot", "panda")
    back = whole(tmp_path / "back")
    assert len(back) == 4 and all(part.group is None for one in back for part in one.parts)
    assert [one.parts[0].group is not None for one in whole(run)] == [True, True, False, False]
