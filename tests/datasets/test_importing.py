"""Datasets of others as demonstrations: what becomes of names, units, actions, rates, ends; and what can't be taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hal import load_spec
from robotlearn.cells import cells_of
from robotlearn.config import load_config
from robotlearn.datasets.actions import absolute_of, deltas_of, from_unit
from robotlearn.datasets.conversion import Conversion
from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.importing import Imported, import_dataset
from robotlearn.datasets.reading import LeRobotFolder
from robotlearn.demonstrations_check import check_demonstrations
from robotlearn.inputs import Inputs
from robotlearn.learner import start
from robotlearn.people.demonstrated import demonstrations
from robotlearn.people.errors import RecordingError
from robotlearn.policy import build_policy
from tests.datasets.foreign_sets import make_foreign, picture
from tests.datasets.runs import whole

pytest.importorskip("lerobot")
pytestmark = pytest.mark.timeout(300)  # LeRobot is loaded, once
SPEC = load_spec("so101")


def motion(steps: int, seed: int = 0) -> np.ndarray:
    """(T, 6) states in rad and m, a slow way of a SO-101."""
    rng = np.random.default_rng(seed)
    states = SPEC.home + np.cumsum(rng.normal(0, 0.03, (steps, 6)), axis=0)
    states[:, 5] = np.linspace(0.02, 0.05, steps)
    return states.astype(np.float32)


WAYS = [motion(70, 1), motion(9, 2)]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In rad and m, at the robot's rate."""
    return make_foreign(tmp_path_factory.mktemp("foreign") / "set", WAYS)


def taken(where: Path, out: Path, **options: object) -> Imported:
    return import_dataset(str(where), out, SPEC, Conversion(**options))  # type: ignore[arg-type]


def test_absolute_set_points_become_deltas_and_every_episode_a_success(foreign: Path, tmp_path: Path) -> None:
    done = taken(foreign, tmp_path / "demo")
    assert (done.added, done.successes, done.there, done.whole, done.left_out) == (2, 2, 0, False, ())
    for way, episode in zip(WAYS, whole(tmp_path / "demo"), strict=True):
        state = episode.observations["observation.state"]
        np.testing.assert_array_equal(state[:-1], way)
        np.testing.assert_array_equal(state[-1], way[-1])  # what came after isn't known
        targets = np.append(way[1:], way[-1:], axis=0).astype(np.float64)
        action = episode.steps("action_executed")
        np.testing.assert_allclose(way[0, :5] + np.cumsum(action[:, :5], axis=0), targets[:, :5], atol=1e-5)
        np.testing.assert_allclose(action[:, 5], targets[:, 5])
        np.testing.assert_array_equal(action, episode.steps("action_proposed"))
        np.testing.assert_array_equal(episode.steps("reward"), np.arange(len(way)) == len(way) - 1)
        assert episode.steps("terminated")[-1] and not episode.steps("truncated").any()
        assert episode.steps("intervention").all() and not episode.steps("held").any()
    assert [episode.instruction for episode in whole(tmp_path / "demo")] == ["task 0", "task 1"]


def test_a_run_takes_them(tmp_path: Path) -> None:
    make_foreign(tmp_path / "set", WAYS, camera="observation.images.front")
    taken(tmp_path / "set", tmp_path / "demo")
    overrides = [
        "robot=so101", "task=reach", "observations.environment_state=false", "policy.hidden=[8]", "sft.steps=5",
        "observations.cameras=[front]", "observations.image_size=[32,48]",
        "start.success_band=null", f"demonstrations.path={tmp_path / 'demo'}",
    ]  # fmt: skip
    config = load_config("smoke", overrides)
    check_demonstrations(config)
    inputs = Inputs(config)
    taught = start.teach(build_policy(config, inputs), config, cells_of(config), inputs, lambda *_: None)
    assert (taught.demonstrations, taught.steps) == (2, 5)
    assert demonstrations(tmp_path / "demo", "so101").episode_ends.tolist() == [70, 79]


def test_degrees_and_lerobots_own_values(tmp_path: Path) -> None:
    degrees = [np.concatenate([np.rad2deg(way[:, :5]), way[:, 5:]], axis=1) for way in WAYS]
    assert SPEC.lerobot is not None
    scale, offset = np.broadcast_to(SPEC.lerobot.scale, 6), np.broadcast_to(SPEC.lerobot.offset, 6)
    for unit, values in (("deg", degrees), ("lerobot", [(way - offset) / scale for way in WAYS])):
        make_foreign(tmp_path / unit / "set", values)
        taken(tmp_path / unit / "set", tmp_path / unit / "demo", unit=unit)
        for way, episode in zip(WAYS, whole(tmp_path / unit / "demo"), strict=True):
            np.testing.assert_allclose(episode.observations["observation.state"][:-1], way, atol=1e-5)
            np.testing.assert_allclose(
                episode.steps("action_executed")[:-1, :5], np.diff(way[:, :5], axis=0), atol=1e-5
            )
            np.testing.assert_allclose(episode.steps("action_executed")[:-1, 5], way[1:, 5], atol=1e-6)


def test_frames_of_a_faster_dataset_are_put_together(tmp_path: Path) -> None:
    make_foreign(tmp_path / "set", WAYS, fps=30, camera="observation.images.front", video=False)
    with pytest.raises(
        DatasetError, match=r"30 frames/s; so101 has a control_hz of 10: --every 3, or --robot .*hz: 30"
    ):
        taken(tmp_path / "set", tmp_path / "demo")
    taken(tmp_path / "set", tmp_path / "demo", every=3)
    for number, (way, episode) in enumerate(zip(WAYS, whole(tmp_path / "demo"), strict=True)):
        starts = np.arange(0, len(way), 3)
        assert len(episode) == len(starts)
        np.testing.assert_array_equal(episode.observations["observation.state"][:-1], way[starts])
        targets = way[np.minimum(starts + 3, len(way) - 1)].astype(np.float64)
        action = episode.steps("action_executed")
        np.testing.assert_allclose(way[0, :5] + np.cumsum(action[:, :5], axis=0), targets[:, :5], atol=1e-5)
        np.testing.assert_allclose(action[:, 5], targets[:, 5], atol=1e-6)
        seen = episode.observations["observation.images.front"]
        expected = [picture(100 * number + step) for step in [*starts, len(way) - 1]]
        np.testing.assert_array_equal(seen, expected)


def test_differences_have_no_offset_but_the_gripper() -> None:
    assert SPEC.lerobot is not None
    block = SPEC.lerobot.model_copy(update={"scale": (0.5,), "offset": (0.25,)})
    spec = SPEC.model_copy(update={"lerobot": block})
    given = np.ones((2, 6))
    assert from_unit(given, spec, "lerobot").tolist() == [[0.75] * 6] * 2
    assert from_unit(given, spec, "lerobot", deltas=True).tolist() == [[0.5] * 5 + [0.75]] * 2
    way = np.array(WAYS[0], np.float64)
    np.testing.assert_allclose(absolute_of(deltas_of(way, way[3], spec), way[3], spec), way, atol=1e-12)
    with pytest.raises(DatasetError, match="panda has no block `lerobot`"):
        from_unit(np.ones((1, 8)), load_spec("panda"), "lerobot")


def test_deltas_of_a_faster_dataset_add_up(tmp_path: Path) -> None:
    """Read as deltas, which they aren't, so that it shows."""
    small = [way * np.float32(0.01) for way in WAYS]
    make_foreign(tmp_path / "set", small, fps=20)
    taken(tmp_path / "set", tmp_path / "demo", every=2, actions="deltas")
    for way, episode in zip(small, whole(tmp_path / "demo"), strict=True):
        deltas = np.append(way[1:], way[-1:], axis=0)
        starts = np.arange(0, len(way), 2)
        action = episode.steps("action_executed")
        np.testing.assert_allclose(action[:, :5], np.add.reduceat(deltas[:, :5], starts), atol=1e-6)
        np.testing.assert_allclose(action[:, 5], deltas[np.minimum(starts + 1, len(way) - 1), 5], atol=1e-7)


def test_images_that_are_described_channels_first(tmp_path: Path) -> None:
    make_foreign(tmp_path / "set", [WAYS[1]], camera="observation.images.front", video=False)
    path = tmp_path / "set" / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"]["observation.images.front"] |= {"shape": [3, 32, 48], "names": ["channels", "height", "width"]}
    path.write_text(json.dumps(info))
    taken(tmp_path / "set", tmp_path / "demo")
    seen = whole(tmp_path / "demo")[0].observations["observation.images.front"]
    np.testing.assert_array_equal(seen[:-1], [picture(step) for step in range(len(WAYS[1]))])


def test_videos_renamed_and_scaled(tmp_path: Path) -> None:
    make_foreign(tmp_path / "set", WAYS, camera="observation.images.top", state="observation.joints")
    rename = {"observation.images.top": "observation.images.front", "observation.joints": "observation.state"}
    taken(tmp_path / "set", tmp_path / "demo", rename=rename)
    taken(tmp_path / "set", tmp_path / "small", rename=rename, image_size=(16, 24))
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    theirs = LeRobotDataset("set", root=tmp_path / "set")
    start = 0
    for number, (large, small) in enumerate(zip(whole(tmp_path / "demo"), whole(tmp_path / "small"), strict=True)):
        seen = large.observations["observation.images.front"]
        for step in range(len(large)):
            frame = (theirs[start + step]["observation.images.top"].numpy() * 255).round().transpose(1, 2, 0)
            np.testing.assert_array_equal(seen[step], frame.astype(np.uint8))
            assert np.abs(seen[step].astype(int) - picture(100 * number + step)).mean() < 6
        start += len(large)
        assert small.observations["observation.images.front"].shape == (len(small) + 1, 16, 24, 3)
    without = taken(tmp_path / "set", tmp_path / "blind", rename={**rename, "observation.images.top": ""})
    assert without.left_out == ("observation.images.top",)
    assert set(whole(tmp_path / "blind")[0].observations) == {"observation.state"}


def test_ends_and_rewards_are_taken_from_a_dataset_that_has_some(tmp_path: Path) -> None:
    ways = [motion(6, seed) for seed in range(3)]
    ends = [np.arange(6) == 5, np.arange(6) == 9, np.arange(6) == 5]
    rewards = [np.linspace(0, 1, 6, dtype=np.float32), np.zeros(6, np.float32), np.ones(6, np.float32)]
    make_foreign(tmp_path / "done", ways, next__done=ends, next__reward=rewards)
    assert taken(tmp_path / "done", tmp_path / "one").successes == 2
    found = whole(tmp_path / "one")
    assert [one.success for one in found] == [True, False, True]
    assert [bool(one.steps("truncated")[-1]) for one in found] == [False, True, False]
    for one, reward in zip(found, rewards, strict=True):
        np.testing.assert_array_equal(one.steps("reward"), reward)
    successes = [np.arange(6) == 9, np.arange(6) == 5, np.arange(6) == 2]
    make_foreign(tmp_path / "success", ways, next__success=successes)
    taken(tmp_path / "success", tmp_path / "two")
    assert [one.success for one in whole(tmp_path / "two")] == [False, True, True]
    assert [one.steps("reward").sum() for one in whole(tmp_path / "two")] == [0.0, 1.0, 1.0]


def test_started_again_it_goes_on_and_with_other_options_it_says_no(foreign: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(number: int, of: int) -> None:
        if number == 1:
            raise Killed

    with pytest.raises(Killed):
        import_dataset(str(foreign), tmp_path / "demo", SPEC, progress=kill)
    assert len(whole(tmp_path / "demo")) == 1
    done = taken(foreign, tmp_path / "demo")
    assert (done.added, done.there) == (1, 1)
    copy = shutil.copytree(foreign, tmp_path / "elsewhere")
    shutil.rmtree(copy / "data")  # what is there already is not even read
    assert (taken(copy, tmp_path / "demo").added, len(whole(tmp_path / "demo"))) == (0, 2)
    with pytest.raises(DatasetError, match=r"imported with .* into another --out"):
        taken(foreign, tmp_path / "demo", actions="deltas")
    with pytest.raises(RecordingError, match="choose another --out"):
        import_dataset(str(foreign), tmp_path / "demo", SPEC.model_copy(update={"name": "other"}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rename": {"observation.stat": "x"}}, r"no 'observation.stat': did you mean 'observation.state'"),
        (
            {"rename": {"observation.state": ""}},
            r"has no observation.state: --rename FROM=.*it has observation.state, action",
        ),
        ({"rename": {"observation.state": "action"}}, r"observation.state, action would all be action: --rename KEY="),
        ({"every": 2}, r"10 frames/s, 5 steps/s with --every 2; so101 has a control_hz of 10: --robot .*hz: 5"),
        ({"unit": "deg"}, None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cant_be_taken_is_one_line_with_the_option_that_mends_it(
    foreign: Path, tmp_path: Path, options: dict[str, object], said: str | None
) -> None:
    if said is None:  # degrees that are taken for rad are seen, the other way round they can't be
        make_foreign(tmp_path / "degrees", [np.rad2deg(WAYS[1])])
        with pytest.raises(DatasetError, match=r"episode 0: .* with --unit si, on so101 from .*another --unit"):
            taken(tmp_path / "degrees", tmp_path / "demo")
        return
    with pytest.raises(DatasetError, match=said) as error:
        taken(foreign, tmp_path / "demo", **options)
    assert "\n" not in str(error.value) and not (tmp_path / "demo").exists()


def test_a_tracking_error_is_taken_in_rad_and_m_by_joint_alone(tmp_path: Path) -> None:
    behind = np.full(WAYS[1].shape, 0.01, np.float32)
    make_foreign(tmp_path / "rad", [WAYS[1]], observation__tracking_error=[behind])
    taken(tmp_path / "rad", tmp_path / "demo")
    np.testing.assert_array_equal(whole(tmp_path / "demo")[0].observations["observation.tracking_error"][:-1], behind)
    make_foreign(tmp_path / "deg", [np.rad2deg(WAYS[1])], observation__tracking_error=[behind])
    with pytest.raises(DatasetError, match=r"observation.tracking_error is not converted from unit deg: --rename .*="):
        taken(tmp_path / "deg", tmp_path / "other", unit="deg")
    make_foreign(tmp_path / "three", [WAYS[1]], observation__tracking_error=[behind[:, :3]])
    with pytest.raises(DatasetError, match=r"observation.tracking_error has shape \(3,\) .*so101 has 6"):
        taken(tmp_path / "three", tmp_path / "other")


def test_another_robot_another_camera_another_folder(foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"observation.state has shape \(6,\) \(shoulder_pan.*panda has 8"):
        import_dataset(str(foreign), tmp_path / "demo", load_spec("panda"))
    make_foreign(tmp_path / "set", [WAYS[1]], camera="observation.image", video=False)
    with pytest.raises(DatasetError, match=r"observation.image is of no camera of so101.*--rename observation.image="):
        taken(tmp_path / "set", tmp_path / "demo")
    with pytest.raises(DatasetError, match=r"no such folder, and no such dataset in LeRobot's cache: hf download"):
        import_dataset("nobody/nothing", tmp_path / "demo", SPEC)
    with pytest.raises(DatasetError, match=r"is no LeRobotDataset: there is no meta/info.json"):
        import_dataset(str(tmp_path), tmp_path / "demo", SPEC)


def test_a_repository_in_lerobots_cache(foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "home"))
    shutil.copytree(foreign, tmp_path / "home" / "me" / "set")
    snapshot = tmp_path / "home" / "hub" / "datasets--you--set" / "snapshots" / "0123"
    shutil.copytree(foreign, snapshot)
    assert LeRobotFolder("me/set").folder == tmp_path / "home" / "me" / "set"
    assert LeRobotFolder("repo:you/set").folder == snapshot
    assert import_dataset("you/set", tmp_path / "demo", SPEC).added == 2


def test_damage_is_one_line(foreign: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    copy = shutil.copytree(foreign, tmp_path / "copy")
    info = (copy / "meta" / "info.json").read_text()
    for wrong, said in (
        (info.replace('"v3.0"', '"v2.1"'), "version v2.1, this reads v3.0"),
        (info.replace('"total_episodes": 2', '"total_episodes": 3'), "should have 3 episodes, 2 are there"),
        (info[:-20], "damaged"),
        (info.replace('"fps"', '"spf"'), "damaged"),
    ):
        (copy / "meta" / "info.json").write_text(wrong)
        with pytest.raises(DatasetError, match=said):
            taken(copy, tmp_path / "demo")
    (copy / "meta" / "info.json").write_text(info)
    [episodes] = copy.glob("meta/episodes/*/*.parquet")
    shutil.copy(episodes, tmp_path / "episodes.parquet")
    pq.write_table(pq.read_table(episodes).drop_columns(["length"]), episodes)
    with pytest.raises(DatasetError, match="lacks the columns length"):
        taken(copy, tmp_path / "demo")
    shutil.copy(tmp_path / "episodes.parquet", episodes)
    [data] = copy.glob("data/*/*.parquet")
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(DatasetError, match="can't be read"):
        taken(copy, tmp_path / "again")
