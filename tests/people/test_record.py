"""`robotlearn record` as a child on a pseudo-terminal: what a person's keys make of a simulated arm's episodes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hal import load_spec
from hal.estop import EStop
from robotlearn.datasets.export import Wanted, export
from robotlearn.errors import ConfigError
from robotlearn.people.demonstrated import episodes
from robotlearn.people.resets import Reset
from tests.people.typing_person import Typist
from tests.waiting import until

Start = Callable[..., Typist]
# Of a seed whose balls are nowhere near the tool: an episode ends when its person says so.
RECORD = ["record", "reach", "robot=so101", "reward=sparse", "seed=5"]


def begin(at: Typist, key: str) -> None:
    """Waits for the next episode and drives its first steps."""
    mark = len(at.screen)
    at.sees("move to begin", mark)
    at.hold(key, lambda: "records" in at.screen[mark:] and at.number("step ") >= 3, "three steps")


def fails_once(at: Typist) -> None:
    """The first episode is discarded, its second try a failure."""
    at.sees("left at reach")
    begin(at, "s")
    at.press("\x7f")
    at.sees("discarded: once more")
    begin(at, "s")
    at.press("n")
    at.sees("steps: failure")


@pytest.mark.slow
def test_success_failure_discard_estop_and_a_kill(typist: Start, runtime: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    arguments = [*RECORD, "--episodes", "2", "--out", str(out)]
    at = typist(*arguments, "--name", "left")
    fails_once(at)
    begin(at, "w")
    at.press("y")
    at.sees("steps: success")
    begin(at, "w")
    at.press(" ")
    at.sees("the running episode is discarded")
    assert EStop("left").pressed
    mark = len(at.screen)
    at.press("CLEAR")
    at.sees("move to begin", mark)
    begin(at, "w")
    at.signal(signal.SIGKILL)
    at.ends()
    until(lambda: at.mode == at.before, "the terminal's old mode")
    assert [episode.success for episode in episodes(out)] == [False, True]

    again = typist(*arguments, "--name", "left", "--reset", "key")
    again.sees("1 of 2 | set the scene up, then press Enter")
    again.press("\r")
    begin(again, "w")
    again.press("y")
    again.sees(f"{out}: successes 2, failures 1, discarded 0")
    assert again.ends() == 0
    assert again.mode == again.before

    failure, first, second = episodes(out)
    assert not failure.success and first.success and second.success
    forth, back = (episode.observations["observation.environment_state"][:, 0] for episode in (first, failure))
    assert forth[-1] > forth[0] and back[-1] < back[0]  # the tool's x: what the keys wanted
    away = [episode.observations["observation.environment_state"][0, 3:] for episode in (failure, first, second)]
    assert np.linalg.norm(away, axis=1) == pytest.approx([0.12, 0.07, 0.15], abs=0.01)  # what the seed draws
    for episode in (failure, first, second):
        assert len(episode) >= 3 and episode.embodiment == "so101"
        assert np.abs(episode.proposed[0, :5]).max() > 0  # nobody learns to wait
        assert episode.reward[:-1].sum() == 0 and episode.reward[-1] == float(episode.success)


def test_ctrl_c_keeps_what_was_kept(typist: Start, tmp_path: Path) -> None:
    at = typist("record", "--robot", "so101", "--task", "reach", "--out", str(tmp_path / "demo"), "--reset", "time:0.2")
    begin(at, "w")
    assert 0 < at.number("target ") < 60 and "cm: " in at.screen  # the ball is nowhere to be seen
    at.press("\x03")
    assert at.ends() == 0
    assert at.mode == at.before
    assert "successes 0, failures 0" in at.screen and list(episodes(tmp_path / "demo")) == []


def test_a_mistake_leaves_no_folder_behind(typist: Start, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    at = typist("record", "--robot", "so101", "--task", "reach", "--out", str(out), "--option", "color=red")
    assert at.ends() == 2
    at.sees("color")
    assert not out.exists()


@pytest.mark.slow
def test_a_dataset_that_was_interrupted_is_written_later(typist: Start, tmp_path: Path) -> None:
    pytest.importorskip("lerobot.datasets.lerobot_dataset")
    out, folder = tmp_path / "demo", tmp_path / "dataset"
    arguments = [*RECORD, "--episodes", "1", "--out", str(out)]
    at = typist(*arguments, "--dataset", str(folder))
    begin(at, "w")
    at.press("y")
    at.sees("writing the dataset")
    at.press("\x03")
    at.sees("the dataset isn't written")
    assert at.ends() == 130 and not folder.exists() and "Traceback" not in at.screen
    again = typist(*arguments, "--dataset", str(folder))
    again.sees("1 successes, --episodes asks for 1: nothing is left to record")
    again.sees(f"{folder}: a LeRobotDataset of 1 episodes")
    assert again.ends() == 0 and "torchcodec" not in again.screen and "Traceback" not in again.screen


@pytest.mark.slow
@pytest.mark.renders
def test_images_and_a_lerobot_dataset(typist: Start, tmp_path: Path) -> None:
    datasets = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    out, folder = tmp_path / "demo", tmp_path / "dataset"
    observed = ["observations.cameras=[front]", "observations.image_size=[48,64]", "robot=so101"]
    arguments = ["record", "reach-camera", *observed, "--episodes", "2", "--out", str(out), "--dataset", str(folder)]
    at = typist(*arguments)
    for key in "wsw":
        begin(at, key)
        at.press("n" if key == "s" else "y")
    at.sees("a LeRobotDataset of 2 episodes")
    assert at.ends() == 0
    kept = [episode for episode in episodes(out) if episode.success]
    dataset = datasets.LeRobotDataset("dataset", root=folder)
    assert (dataset.num_episodes, dataset.fps) == (2, 10)
    assert dataset.num_frames == sum(len(episode) for episode in kept)
    frame, shown = dataset[0], kept[0]
    assert frame["task"] == shown.instruction
    assert np.array_equal(frame["action"].numpy(), shown.executed[0])
    assert np.array_equal(frame["observation.state"].numpy(), shown.observations["observation.state"][0])
    image = (frame["observation.images.front"].numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0)
    assert image.shape == (48, 64, 3)
    assert np.array_equal(image, shown.observations["observation.images.front"][0])
    # Made anew it has what the log has, and nothing twice.
    assert export(out, str(folder), Wanted("successes"), spec=load_spec("so101")).episodes == 2


def test_resets() -> None:
    assert Reset.parse("pose") == Reset("pose") and Reset.parse("time:2.5") == Reset("time", 2.5)
    for wrong in ("poses", "time", "time:", "time:-1", "time:nan", "time:1e9", "key:2"):
        with pytest.raises(ConfigError, match="time:SECONDS"):
            Reset.parse(wrong)
    said: list[str] = []
    pressed = iter([False, False, True])
    assert Reset.parse("key").wait(lambda: True, lambda: next(pressed), said.append)
    assert said == ["set the scene up, then press Enter"]
    assert Reset.parse("time:0.1").wait(lambda: True, lambda: False, said.append)
    assert Reset.parse("pose").wait(lambda: True, lambda: False, said.append)
    going = iter([True, True, False])
    assert not Reset.parse("key").wait(lambda: next(going), lambda: False, said.append)
