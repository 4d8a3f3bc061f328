"""ROS 2 bags as demonstrations: a motion that is known comes out as it was, in both storages."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from robotlearn import cli
from robotlearn.datasets.bag_import import BagImported, BagOptions, import_bag
from robotlearn.datasets.errors import DatasetError
from robotlearn.people.demonstrated import demonstrations
from robotlearn.people.recording import about
from tests.datasets.foreign_sets import picture
from tests.datasets.runs import whole
from tests.fakes import small_spec, write_spec

pytest.importorskip("rosbags")
from tests.datasets.bag_maker import Message, compressed, image, numbers, states, trajectory, write

SPEC = small_spec()  # shoulder, elbow, gripper; a camera eye; 20 Hz
NAMES = ("shoulder", "elbow", "gripper")
STORAGES = pytest.mark.parametrize("storage", ["sqlite3", "mcap"])


def pose(seconds: float) -> np.ndarray:
    """Where the arm is measured."""
    return np.array([0.4 * math.sin(seconds), 0.2 * seconds, 0.05 + 0.02 * math.cos(seconds)])


def target(seconds: float) -> np.ndarray:
    """What is commanded: elsewhere than it is measured."""
    return pose(seconds) + np.array([0.03, -0.02, 0.01])


def measured(until: float, every: float = 0.01, start: float = 0.0) -> list[Message]:
    times = start + np.arange(round((until - start) / every) + 1) * every
    return [states("/joint_states", t, dict(zip(NAMES, pose(t), strict=True))) for t in times]


def taken(path: Path, out: Path, **options: object) -> BagImported:
    return import_bag(path, out, SPEC, BagOptions(**options))  # type: ignore[arg-type]


@STORAGES
def test_without_commands_an_action_leads_to_where_the_joints_are_next(tmp_path: Path, storage: str) -> None:
    write(tmp_path / "bag", measured(2.0), storage)
    done = taken(tmp_path / "bag", tmp_path / "demo", task="wave")
    assert (done.added, done.there, done.steps) == (1, 0, 40) and done.silence_s == pytest.approx(0.01)
    [episode] = whole(tmp_path / "demo")
    expected = np.stack([pose(0.05 * tick) for tick in range(41)])
    np.testing.assert_allclose(episode.observations["observation.state"], expected, rtol=1e-6)
    action = episode.steps("action_executed")
    np.testing.assert_allclose(action[:, :2], np.diff(expected[:, :2], axis=0), atol=1e-7)
    np.testing.assert_allclose(action[:, 2], expected[1:, 2], rtol=1e-6)
    assert episode.instruction == "wave" and episode.success and episode.steps("intervention").all()
    assert episode.steps("reward").tolist() == [0.0] * 39 + [1.0]
    np.testing.assert_allclose(np.diff(episode.steps("wall")), 0.05, atol=1e-6)
    assert about(tmp_path / "demo")["control_hz"] == 20.0
    assert len(demonstrations(tmp_path / "demo", "small").actions) == 40


def of_numbers(seconds: float) -> Message:
    return numbers("/commands", seconds, target(seconds))


def of_trajectory(seconds: float) -> Message:
    return trajectory("/commands", seconds, NAMES[::-1], [(0.05, target(seconds)[::-1])])


def of_states(seconds: float) -> Message:
    return states("/commands", seconds, dict(zip(NAMES, target(seconds), strict=True)))


@STORAGES
@pytest.mark.parametrize("command", [of_numbers, of_trajectory, of_states])
def test_commands_become_deltas_from_set_point_to_set_point(
    tmp_path: Path, storage: str, command: Callable[[float], Message]
) -> None:
    """They come once a step, up to 4 ms early or late."""
    rng = np.random.default_rng(0)
    at = 0.5 + 0.05 * np.arange(30) + np.append(0.0, rng.uniform(-0.004, 0.004, 29))
    write(tmp_path / "bag", [*measured(3.0), *(command(t) for t in at)], storage)
    done = taken(tmp_path / "bag", tmp_path / "demo", commands="/commands")
    [episode] = whole(tmp_path / "demo")
    assert done.steps == len(episode) == 30
    first = 0.5 - 0.005  # a tenth of a period before the first command
    ticks = np.floor((first + 0.05 * np.arange(len(episode) + 1)) * 100 + 1e-6) / 100  # states come every 10 ms
    expected = np.stack([pose(tick) for tick in ticks])
    np.testing.assert_allclose(episode.observations["observation.state"], expected, atol=1e-6)
    targets = np.stack([target(t) for t in at])
    action = episode.steps("action_executed")
    np.testing.assert_allclose(expected[0, :2] + np.cumsum(action[:, :2], axis=0), targets[:, :2], atol=1e-5)
    np.testing.assert_allclose(action[:, 2], targets[:, 2], atol=1e-6)


def test_a_trajectory_of_several_points_is_followed_until_another_takes_over(tmp_path: Path) -> None:
    way = trajectory("/commands", 1.0, ("elbow", "shoulder"), [(1.0, (0.5, 0.0)), (2.0, (0.0, 0.2))])
    other = trajectory("/commands", 2.5, ("elbow",), [(0.5, (0.75,))])
    still = [
        states("/joint_states", t, {"shoulder": 0.1, "elbow": 0.0, "gripper": 0.02}) for t in np.arange(0, 4, 0.01)
    ]
    end = trajectory("/commands", 3.4, ("elbow",), [(0.05, (0.75,))])
    write(tmp_path / "bag", [*still, way, other, end], "mcap")
    taken(tmp_path / "bag", tmp_path / "demo", commands="/commands")
    [episode] = whole(tmp_path / "demo")
    at = 1.0 - 0.005 + 0.05 * np.arange(1, len(episode) + 1)
    elbow = np.interp(at, [1.0, 2.0, 2.5, 3.0], [0.0, 0.5, 0.25, 0.75])
    shoulder = np.interp(at, [1.0, 2.0, 3.0], [0.1, 0.0, 0.2])
    action = episode.steps("action_executed")
    np.testing.assert_allclose(np.cumsum(action[:, 1]), elbow, atol=1e-5)
    np.testing.assert_allclose(0.1 + np.cumsum(action[:, 0]), shoulder, atol=1e-5)
    np.testing.assert_allclose(action[:, 2], 0.02, atol=1e-6)  # nobody commands it


@STORAGES
def test_images_are_the_latest_at_or_before_each_tick(tmp_path: Path, storage: str) -> None:
    at = 0.02 + np.arange(16) / 7.5
    raw = [image("/eye", t, picture(n), "bgr8" if n % 2 else "rgb8") for n, t in enumerate(at)]
    packed = [compressed("/packed", t, picture(n + 3)) for n, t in enumerate(at)]
    write(tmp_path / "bag", [*measured(2.0), *raw, *packed], storage)
    ticks = 0.02 + 0.05 * np.arange(40)
    ticks = ticks[ticks <= 2.0]
    which = np.searchsorted(at, ticks + 1e-9, side="right") - 1
    assert len(set(which)) == 15
    for topic, more in (("/eye", 0), ("/packed", 3)):
        out = tmp_path / f"demo{more}"
        taken(tmp_path / "bag", out, images={"eye": topic})
        [episode] = whole(out)
        seen = episode.observations["observation.images.eye"]
        np.testing.assert_array_equal(seen, [picture(n + more) for n in which])
        np.testing.assert_allclose(
            episode.observations["observation.state"][1], pose(0.07), atol=1e-6
        )  # fmt: skip
    taken(tmp_path / "bag", tmp_path / "small", images={"eye": "/eye"}, image_size=(16, 16))
    assert whole(tmp_path / "small")[0].observations["observation.images.eye"].shape == (len(ticks), 16, 16, 3)


def test_silence_splits_a_bag_into_episodes(tmp_path: Path) -> None:
    messages = [*measured(1.0), *measured(4.0, start=3.0), *measured(6.0, start=5.0)]
    write(tmp_path / "bag", messages, "sqlite3")
    done = taken(tmp_path / "bag", tmp_path / "demo", episode_gap=0.5)
    assert (done.added, done.steps) == (3, 60) and done.silence_s < 0.02
    for episode, start in zip(whole(tmp_path / "demo"), (0.0, 3.0, 5.0), strict=True):
        state = episode.observations["observation.state"]
        np.testing.assert_allclose(state[[0, -1]], [pose(start), pose(start + 1)], atol=1e-6)
    whole_bag = taken(tmp_path / "bag", tmp_path / "one")
    assert whole_bag.added == 1 and whole_bag.silence_s == pytest.approx(2.0)
    # What nobody commands in an episode goes where it is measured, whatever was commanded in an earlier one.
    held = [states("/commands", 3.2 + 0.05 * n, {"shoulder": 0.1, "gripper": 0.02}) for n in range(12)]
    first = [of_states(0.2 + 0.05 * n) for n in range(12)]
    write(tmp_path / "partly", [*measured(6.0), *first, *held], "mcap")
    assert taken(tmp_path / "partly", tmp_path / "three", episode_gap=0.5, commands="/commands").added == 2
    second = whole(tmp_path / "three")[1]
    elbow = second.observations["observation.state"][:, 1]
    np.testing.assert_allclose(second.steps("action_executed")[:, 1], np.diff(elbow), atol=1e-6)
    assert not second.steps("action_executed")[1:, 0].any() and np.diff(elbow).max() > 0.005
    # Commands pause, too: then what is measured between is nobody's demonstration.
    commands = [of_numbers(t) for t in [*(0.2 + 0.05 * np.arange(12)), *(3.2 + 0.05 * np.arange(12))]]
    write(tmp_path / "commanded", [*measured(6.0), *commands], "sqlite3")
    done = taken(tmp_path / "commanded", tmp_path / "two", episode_gap=0.5, commands="/commands")
    assert done.added == 2
    for episode, start in zip(whole(tmp_path / "two"), (0.2, 3.2), strict=True):
        action = episode.steps("action_executed")
        assert len(episode) == 12
        np.testing.assert_allclose(action[:, 2], [target(start + 0.05 * n)[2] for n in range(12)], atol=1e-6)
        # Its first step starts where the arm was, not where it was commanded before.
        before = pose(math.floor((start - 0.005) * 100 + 1e-6) / 100)
        np.testing.assert_allclose(action[0, :2], (target(start) - before)[:2], atol=1e-6)


def test_other_names_units_and_messages_with_some_joints_only(tmp_path: Path) -> None:
    messages = []
    for t in np.arange(0, 1.005, 0.01):
        shoulder, elbow, gripper = pose(t)
        messages.append(
            states("/arm", t, {"left_elbow": -math.degrees(elbow), "left_shoulder": math.degrees(shoulder)})
        )
        messages.append(states("/arm", t, {"finger": gripper / 2, "wheel": 7.0}))
    write(tmp_path / "bag", messages, "mcap")
    options = {
        "unit": "deg",
        "joints": {"shoulder": {"joint": "left_shoulder"}, "elbow": {"joint": "left_elbow", "scale": -1.0}},
        "gripper": {"joint": "finger", "scale": 2.0},
    }
    taken(tmp_path / "bag", tmp_path / "demo", joint_states="/arm", ros=options)
    state = whole(tmp_path / "demo")[0].observations["observation.state"]
    np.testing.assert_allclose(state, [pose(0.05 * tick) for tick in range(21)], atol=1e-6)
    # What is called alike but for one text before it needs no options.
    prefixed = [
        states("/joint_states", t, {f"left_{name}": at for name, at in zip(NAMES, pose(t), strict=True)})
        for t in np.arange(0, 1.005, 0.01)
    ]
    write(tmp_path / "prefixed", prefixed, "mcap")
    taken(tmp_path / "prefixed", tmp_path / "other")
    np.testing.assert_allclose(whole(tmp_path / "other")[0].observations["observation.state"], state, atol=1e-6)


def test_started_again_it_goes_on(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(number: int, of: int) -> None:
        if number == 1:
            raise Killed

    write(tmp_path / "bag", [*measured(1.0), *measured(4.0, start=3.0)], "mcap")
    options = BagOptions(episode_gap=0.5)
    with pytest.raises(Killed):
        import_bag(tmp_path / "bag", tmp_path / "demo", SPEC, options, progress=kill)
    assert len(whole(tmp_path / "demo")) == 1
    done = import_bag(tmp_path / "bag", tmp_path / "demo", SPEC, options)
    assert (done.added, done.there) == (1, 1)
    [file] = (tmp_path / "bag").glob("*.mcap")
    assert import_bag(file, tmp_path / "demo", SPEC, options).added == 0, "the file is the same bag"
    assert len(whole(tmp_path / "demo")) == 2
    write(tmp_path / "more", measured(2.0), "mcap")
    assert taken(tmp_path / "more", tmp_path / "demo").added == 1
    with pytest.raises(DatasetError, match=r"imported with .* into another --out"):
        taken(tmp_path / "bag", tmp_path / "demo")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"joint_states": "/joints"},
            r"no topic /joints: --joint-states; of sensor_msgs/msg/JointState it has /joint_st",
        ),
        ({"commands": "/eye"}, "/eye is of sensor_msgs/msg/Image, expected .* another --commands"),
        ({"images": {"ear": "/eye"}}, r"--image ear=/eye: small has no camera 'ear': .*eye"),
        ({"images": {"eye": "/ear"}}, r"no topic /ear: --image eye=TOPIC; .* it has /eye"),
        ({"ros": {"gripper": {"joint": "claw"}}}, r"no joint 'claw' .*--option 'gripper=\{joint: NAME\}'"),
        ({"ros": {"joints": {"elbow": {"joint": "knee"}}}}, r"--option 'joints=\{elbow: \{joint: NAME\}\}'"),
        ({"ros": {"joints": {"elbow": {"scale": 60.0}}}}, "episode 0: elbow goes from .* on small from -1 to 1 rad"),
        ({"commands": "/late"}, "no time in which all of /joint_states, /late speak"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cant_be_taken_is_one_line(tmp_path: Path, options: dict[str, object], said: str) -> None:
    late = numbers("/late", 9.0, (0, 0, 0))
    write(tmp_path / "bag", [*measured(1.0), image("/eye", 0.1, picture(1)), late], "sqlite3")
    with pytest.raises(DatasetError, match=said) as error:
        taken(tmp_path / "bag", tmp_path / "demo", **options)
    assert "\n" not in str(error.value) and not (tmp_path / "demo").exists()


def test_what_is_no_bag_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "bag", measured(1.0), "mcap")
    [file] = (tmp_path / "bag").glob("*.mcap")
    (tmp_path / "cut.mcap").write_bytes(file.read_bytes()[:3000])
    (tmp_path / "notes.txt").touch()
    for name in ("empty", "nowhere", "cut.mcap", "notes.txt"):
        with pytest.raises(DatasetError, match=f"{name} can't be read") as error:
            taken(tmp_path / name, tmp_path / "demo")
        assert "\n" not in str(error.value)


def said_by(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["data", "import-bag", *map(str, arguments)], env={"COLUMNS": "200"})


def test_the_command(tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "small.yaml", SPEC)
    write(tmp_path / "bag", [*measured(1.0), *measured(4.0, start=3.0), of_numbers(0.5), of_numbers(3.5)], "mcap")
    arguments = [tmp_path / "bag", "--out", tmp_path / "demo", "--robot", spec, "--task", "wave", "--hz", "10"]
    done = said_by(*arguments)
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    assert "1 episodes came in; 40 steps, all as successes" in done.stdout and "silent for 2.0 s" in done.stdout
    assert about(tmp_path / "demo")["control_hz"] == 10.0
    assert "0 episodes came in; 1 were there already" in said_by(*arguments).stdout
    wrong = said_by(*arguments, "--image", "eye")
    assert isinstance(wrong.exception, DatasetError) and "--image eye: expected CAMERA=TOPIC" in str(wrong.exception)
