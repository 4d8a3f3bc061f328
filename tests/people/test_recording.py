"""Demonstrations in a log: what is kept, what isn't, and what imitation gets of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs import ArmEnv, EnvOptions, Expert, make_task
from envs.scene import build_scene
from hal import load_spec, make_robot
from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import Cell
from robotlearn.config import load_config
from robotlearn.config.load import dump
from robotlearn.contract import Fit
from robotlearn.errors import ConfigError, LogError
from robotlearn.people.demonstrated import demonstrations, episodes
from robotlearn.people.errors import RecordingError
from robotlearn.people.recording import Recording, Shape

SHAPE = Shape(1, 1, 6)
OPTIONS = EnvOptions()


@pytest.fixture(scope="module")
def cell() -> Cell:
    spec = load_spec("so101")
    return Cell(spec, make_task("reach", spec))


@pytest.fixture(scope="module")
def env(cell: Cell) -> ArmEnv:
    return ArmEnv(make_robot(cell.spec, scene=build_scene(cell.spec, cell.task)), cell.task, OPTIONS)


def show(recording: Recording, env: ArmEnv, *, fail: bool = False, steps: int = 100) -> int:
    """The expert demonstrates; with `fail` it gives up after three steps. How many steps there were."""
    expert = Expert(env.robot.spec, env.task)
    observations, _ = env.reset()
    recording.begin(observations, env.instruction)
    for step in range(1, steps + 1):
        action = expert.act(env.scene_state())[0]
        observations, reward, terminated, truncated, info = env.step(action)
        truncated = truncated or (fail and step == 3)
        recording.step(
            observations,
            proposed=action,
            executed=info["executed"],
            held=info["held"],
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            success=info["success"],
            monotonic=env.reading.monotonic,
            wall=env.reading.wall,
        )
        if terminated or truncated:
            return step
    return steps


def test_what_is_kept_comes_back_and_what_is_discarded_does_not(tmp_path: Path, cell: Cell, env: ArmEnv) -> None:
    env.reset(seed=3)
    with Recording(tmp_path / "demo", cell, OPTIONS, SHAPE) as recording:
        lengths = [show(recording, env)]
        recording.keep()
        show(recording, env)
        recording.discard()
        show(recording, env, steps=2)  # begun anew in mid-episode: gone without a word
        lengths.append(show(recording, env, fail=True))
        recording.keep()
        assert (recording.successes, recording.failures, recording.discarded) == (1, 1, 1)
    found = list(episodes(tmp_path / "demo"))
    assert [len(episode) for episode in found] == lengths
    assert [episode.success for episode in found] == [True, False]
    assert [episode.reward.sum() for episode in found] == [1.0, 0.0]
    assert all(episode.instruction in cell.task.instructions for episode in found)
    first = found[0]
    assert first.observations["observation.state"].shape == (lengths[0] + 1, 6)
    # The steps are in order: what was executed is what the arm then did, but for its servos' lag.
    moved = np.diff(first.observations["observation.state"][:, :5], axis=0).sum(axis=0)
    assert np.allclose(moved, first.executed[:, :5].sum(axis=0), atol=0.1)


def test_in_the_log_they_are_an_edges_segments_of_a_person(tmp_path: Path, cell: Cell, env: ArmEnv) -> None:
    long = replace(OPTIONS, episode_steps=200)
    with Recording(tmp_path / "demo", cell, long, SHAPE) as recording:
        observations, _ = env.reset(seed=4)
        recording.begin(observations, env.instruction)
        still = env.rest_action()
        for step in range(200):
            recording.step(
                observations, proposed=still, executed=still, held=False, reward=0.0, terminated=False,
                truncated=step == 199, success=False, monotonic=float(step), wall=float(step),
            )  # fmt: skip
        recording.keep()
    with SegmentStore(tmp_path / "demo" / "log") as store:
        segments = [segment for _, segment in store.scan()]
    assert sum(segment.steps for segment in segments) == 200 and len(segments) == 2
    for segment in segments:
        segment.validate()
        assert segment.intervention.all() and segment.starred and segment.dimensions().chunks == 0
        assert (segment.edge, segment.embodiment) == ("record", "so101")
    assert [segment.last for segment in segments] == [False, True]
    (episode,) = episodes(tmp_path / "demo")
    assert len(episode) == 200


def test_it_goes_on_where_it_stopped_and_refuses_what_is_of_another_kind(
    tmp_path: Path, cell: Cell, env: ArmEnv
) -> None:
    env.reset(seed=5)
    for _ in range(2):
        with Recording(tmp_path / "demo", cell, OPTIONS, SHAPE) as recording:
            show(recording, env)
            recording.keep()
    assert recording.successes == 2
    with pytest.raises(RecordingError, match=r"observations .* choose another --out"):
        Recording(tmp_path / "demo", cell, replace(OPTIONS, cameras=("front",)), SHAPE)
    other = Cell(cell.spec, make_task("lift", cell.spec))
    with pytest.raises(RecordingError, match="task 'reach', these would have 'lift'"):
        Recording(tmp_path / "demo", other, OPTIONS, SHAPE)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(RecordingError, match="isn't empty"):
        Recording(tmp_path / "mine", cell, OPTIONS, SHAPE)
    with Recording(tmp_path / "demo", cell, OPTIONS, SHAPE), pytest.raises(LogError, match="in use"):
        Recording(tmp_path / "demo", cell, OPTIONS, SHAPE)


def test_half_an_episode_is_none(tmp_path: Path, cell: Cell, env: ArmEnv) -> None:
    """As a kill in `keep` leaves it: its first segment is in the log, its last isn't."""
    env.reset(seed=6)
    with Recording(tmp_path / "demo", cell, OPTIONS, SHAPE) as recording:
        observations, _ = env.reset()
        recording.begin(observations, env.instruction)
        still = env.rest_action()
        for step in range(150):
            recording.step(
                observations, proposed=still, executed=still, held=False, reward=0.0, terminated=False,
                truncated=False, success=False, monotonic=float(step), wall=float(step),
            )  # fmt: skip
        assert recording._parts
        recording.keep()  # what there is of it
        show(recording, env)
        recording.keep()
    (whole,) = episodes(tmp_path / "demo")
    assert whole.success
    assert Recording(tmp_path / "demo", cell, OPTIONS, SHAPE).successes == 1


KILLED = """
import sys
from pathlib import Path
from tests.people import test_recording as here
from hal import load_spec, make_robot
from envs import ArmEnv, make_task
from envs.scene import build_scene
from robotlearn.cells import Cell
from robotlearn.people.recording import Recording
spec = load_spec("so101")
cell = Cell(spec, make_task("reach", spec))
env = ArmEnv(make_robot(spec, scene=build_scene(spec, cell.task)), cell.task, here.OPTIONS)
env.reset(seed=7)
recording = Recording(Path(sys.argv[1]), cell, here.OPTIONS, here.SHAPE)
while True:
    here.show(recording, env)
    recording.keep()
    print(recording.successes + recording.failures, flush=True)
"""


def test_kill_9_loses_the_running_episode_at_most(tmp_path: Path, cell: Cell) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "demo")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(3)][-1]
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
    with Recording(tmp_path / "demo", cell, OPTIONS, SHAPE) as recording:
        assert recording.successes + recording.failures >= (int(rest[-1]) if rest else told)
    assert len(list(episodes(tmp_path / "demo"))) == recording.successes + recording.failures


def test_imitation_learns_from_them(tmp_path: Path, cell: Cell, env: ArmEnv) -> None:
    from robotlearn.inputs import Inputs
    from robotlearn.learner import start
    from robotlearn.policy import build_policy

    config = load_config(
        "smoke",
        [
            "robot=so101",
            "task=reach",
            "policy.hidden=[8]",
            "sft.steps=5",
            "start.success_band=null",
            "episode_steps=16",
            f"demonstrations.path={tmp_path / 'demo'}",
        ],
    )
    env.reset(seed=8)
    with Recording(tmp_path / "demo", cell, OPTIONS, Shape.of(cell, config, [cell])) as recording:
        for fail in (False, True, False):
            show(recording, env, fail=fail)
            recording.keep()
    shown = demonstrations(tmp_path / "demo", "so101")
    assert len(shown.episode_ends) == 2 and len(shown.actions) == shown.episode_ends[-1]
    assert set(shown.observations) == {"observation.state", "observation.environment_state"}
    inputs = Inputs(config)
    taught = start.teach(build_policy(config, inputs), config, [cell], inputs, lambda *_: None)
    assert (taught.demonstrations, taught.steps) == (2, 5)
    (tmp_path / "config.yaml").write_text(dump(config))
    seen = load_config(tmp_path / "config.yaml", ["observations.cameras=[front]"])
    with pytest.raises(ConfigError, match=r"the run observes observation\.images\.front"):
        start.teach(build_policy(config, inputs), seen, [cell], inputs, lambda *_: None)


def test_a_run_of_a_vla_takes_what_was_recorded_for_it(tmp_path: Path, cell: Cell, env: ArmEnv) -> None:
    """Its paths are as wide as its checkpoint's actions, and so are the demonstrations'."""
    vla = "policy={kind: smolvla, pretrained: some/checkpoint, width: 12, horizon: 4, denoising_steps: 3}"
    config = load_config("smoke", ["robot=so101", "task=reach", vla])
    shape = Shape.of(cell, config, [cell])
    assert shape == Shape(4, 3, 12)
    env.reset(seed=8)
    with Recording(tmp_path / "demo", cell, OPTIONS, shape) as recording:
        show(recording, env)
        recording.keep()
    with (
        SegmentStore(tmp_path / "demo" / "log") as store,
        SegmentStore(tmp_path / "run", misfit=Fit(config, [cell])) as run,
    ):
        recorded = [store.read_record(position) for position, _ in store.scan_headers()]
        assert {outcome.kind for outcome in run.append(recorded)} == {"stored"}


def test_folders_without_what_is_asked_for_say_so(tmp_path: Path, cell: Cell, env: ArmEnv) -> None:
    with pytest.raises(RecordingError, match=r"no recording\.json"):
        list(episodes(tmp_path))
    env.reset(seed=9)
    with Recording(tmp_path / "demo", cell, OPTIONS, SHAPE) as recording:
        show(recording, env, fail=True)
        recording.keep()
    with pytest.raises(RecordingError, match="no successful"):
        demonstrations(tmp_path / "demo", "so101")
    with pytest.raises(RecordingError, match="of so101, not of panda"):
        demonstrations(tmp_path / "demo", "panda")
