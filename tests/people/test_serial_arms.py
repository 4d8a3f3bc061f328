"""`robotlearn teleop` and `record` whole, with LeRobot's drivers on emulated SO-101 arms: a follower and its leader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hal import load_spec
from robotlearn.people.demonstrated import episodes
from tests.people.emulated import ArmProcess
from tests.people.test_devices import picture, screen
from tests.people.test_record import RECORD, begin, fails_once
from tests.people.typing_person import Typist

__all__ = ["screen"]  # a fixture
Start = Callable[..., Typist]
SPEC = load_spec("so101")

pytest.importorskip("lerobot")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def arms(tmp_path: Path, runtime: Path) -> Iterator[tuple[ArmProcess, ArmProcess]]:
    follower, leader = ArmProcess(tmp_path, "left"), ArmProcess(tmp_path, "hand")
    yield follower, leader
    for arm in (follower, leader):
        arm.close()


def told(flag: str, options: dict[str, str]) -> list[str]:
    return [word for key, value in options.items() for word in (flag, f"{key}={value}")]


def near(arm: ArmProcess, pose: np.ndarray) -> bool:
    return bool(np.allclose(arm.pose, pose, atol=0.06))


def test_record_in_a_virtual_scene(typist: Start, tmp_path: Path, arms: tuple[ArmProcess, ArmProcess]) -> None:
    datasets = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    follower, _ = arms
    out, folder = tmp_path / "demo", tmp_path / "dataset"
    command = [*RECORD, "--driver", "lerobot", "--name", "left"]
    command += [*told("--option", follower.options), "--speed", "0.5", "--episodes", "2", "--out", str(out)]
    at = typist(*command, "--dataset", str(folder))
    fails_once(at)
    for kept in (1, 2):
        begin(at, "a")
        mark = len(at.screen)
        at.press("y")
        at.sees("steps: success", mark)
        at.sees(f"{kept} of 2" if kept == 1 else f"{out}: successes 2, failures 1, discarded 1", mark)
    at.sees("a LeRobotDataset of 2 episodes")
    assert at.ends() == 0 and at.mode == at.before
    failure, *shown = episodes(out)
    assert not failure.success and [episode.success for episode in shown] == [True, True]
    for episode in (failure, *shown):
        state = episode.observations["observation.state"]
        assert state.shape == (len(episode) + 1, 6) and len(episode) >= 3
        # What was executed is what the arm then did, but for its servos' lag of some 0.15 s.
        sent = episode.executed[:, :5].sum(axis=0)
        most = np.abs(sent).argmax()
        assert 0.4 < (state[-1] - state[0])[most] / sent[most] < 1.1
        assert np.abs(episode.proposed[0, :5]).max() > 0
    dataset = datasets.LeRobotDataset("dataset", root=folder)
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (2, sum(map(len, shown)), 10)
    rows = [dataset[index] for index in range(dataset.num_frames)]
    assert [int(row["episode_index"]) for row in rows] == [0] * len(shown[0]) + [1] * len(shown[1])
    np.testing.assert_array_equal([row["action"] for row in rows], np.concatenate([each.executed for each in shown]))
    for key in ("observation.state", "observation.environment_state"):
        logged = np.concatenate([each.observations[key][:-1] for each in shown])
        np.testing.assert_array_equal([row[key] for row in rows], logged)
    assert rows[0]["task"] == shown[0].instruction


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_the_way_to_a_start_can_be_broken_off(
    typist: Start, tmp_path: Path, arms: tuple[ArmProcess, ArmProcess], key: str
) -> None:
    follower, _ = arms
    far = SPEC.home + np.array([1.5, 0, 0, 0, 0, 0])
    follower.put(far)
    command = [*RECORD, "--driver", "lerobot", "--name", "left"]
    at = typist(*command, *told("--option", follower.options), "--out", str(tmp_path / "demo"))
    at.until(lambda: "goes to its start" in at.screen and follower.pose[0] < far[0] - 0.1, "the arm to be on its way")
    at.press(key)
    at.sees("successes 0, failures 0, discarded 0")
    assert at.ends() == 0 and follower.pose[0] > SPEC.home[0] + 0.7


def test_the_window_shows_a_real_arms_twin_and_the_virtual_ball(
    typist: Start, tmp_path: Path, arms: tuple[ArmProcess, ArmProcess], screen: tuple[str, Path]
) -> None:
    display, file = screen
    follower, _ = arms
    command = [*RECORD, "--driver", "lerobot", "--name", "left", "--view"]
    options = [*told("--option", follower.options), "--out", str(tmp_path / "demo"), "--speed", "0.5"]
    at = typist(*command, *options, display=display)
    at.sees("move to begin")

    def green() -> int:
        red, is_green, blue = np.moveaxis(picture(file).astype(int), -1, 0)
        return int(((is_green > 1.5 * red) & (is_green > 1.5 * blue) & (is_green > 60)).sum())

    at.until(lambda: green() > 20, "the ball")
    before = picture(file)
    at.hold("a", lambda: np.mean(picture(file) != before) > 0.002, "the arm to move in it")
    at.press("q")
    assert at.ends() == 0 and "Traceback" not in at.screen


def test_a_leader_drives_its_follower(typist: Start, arms: tuple[ArmProcess, ArmProcess]) -> None:
    follower, leader = arms
    wanted = SPEC.home + np.array([0.4, 0.1, -0.2, -0.3, 0.3, -0.03])
    at = typist(
        *["teleop", "so101", "--driver", "lerobot", "--name", "left", *told("--option", follower.options)],
        *["--device", "leader", "--leader", "so101_leader", *told("--leader-option", leader.options)],
    )
    at.sees("waits for you")
    leader.put(wanted)  # only now is it without torque
    before = follower.pose
    at.stays("waits for you")
    assert near(follower, before)
    at.press("e")
    at.sees("creeps to the leader")
    at.until(lambda: near(follower, wanted), "the follower to reach its leader")
    at.sees("driven")
    wanted = SPEC.home + np.array([-0.3, 0.0, 0.1, 0.0, 0.0, 0.0])
    leader.put(wanted)
    at.until(lambda: near(follower, wanted), "the follower to go with its leader")
    at.press(" ")
    at.sees("e-stop by keyboard: type CLEAR")
    leader.put(SPEC.home)
    at.stays("E-STOP |")
    assert near(follower, wanted)
    mark = len(at.screen)
    at.press("CLEAR")
    at.sees("waits for you", mark)
    at.press("e")
    at.until(lambda: near(follower, SPEC.home), "the follower to creep to its leader again")
    leader.close()
    at.sees("robotlearn: leader so101_leader: ")
    assert at.ends() == 2 and at.mode == at.before and "Traceback" not in at.screen


def test_record_with_a_leader(typist: Start, tmp_path: Path, arms: tuple[ArmProcess, ArmProcess]) -> None:
    follower, leader = arms
    out = tmp_path / "demo"
    at = typist(
        *[*RECORD, "--driver", "lerobot", *told("--option", follower.options)],
        *["--device", "leader", "--leader", "emulated", "--leader-option", "name=hand"],
        *["--episodes", "1", "--out", str(out)],
    )
    at.sees("goes to its start")
    leader.put(SPEC.home + np.array([0.5, 0, 0, 0, 0, -0.02]))
    at.sees("bring the leader to the arm")
    for mark_of, said in (("n", "steps: failure"), ("y", "successes 1, failures 1, discarded 0")):
        mark = len(at.screen)
        at.until(lambda mark=mark: "move to begin" in at.screen[mark:] or leader.put(follower.pose), "the leader there")
        at.press("e")
        at.sees("records", mark)
        start = follower.pose
        leader.put(start + np.array([0.15, 0, 0, 0, 0, 0]))
        at.until(lambda start=start: follower.pose[0] > start[0] + 0.1, "the follower to go with it")
        at.press(mark_of)
        at.sees(said, mark)
    assert at.ends() == 0
    failure, success = episodes(out)
    assert (failure.success, success.success) == (False, True)
    for episode in (failure, success):
        state = episode.observations["observation.state"]
        assert state[-1, 0] > state[0, 0] + 0.08 and episode.executed[:, 0].sum() > 0.08
