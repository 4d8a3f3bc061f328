"""A learner that is killed again and again ends with the same bits as one that was left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from envs import EnvOptions
from robotlearn import checkpoint
from robotlearn.buffer.spool import Spool
from robotlearn.cells import cells_of
from robotlearn.checkpoint import Checkpoint
from robotlearn.config import Config, dump, load_config
from robotlearn.contract import contract
from robotlearn.edge.rollout import BatchRollout
from robotlearn.inputs import Inputs
from robotlearn.metrics import read_metrics
from robotlearn.policy import build_policy
from robotlearn.run_folder import RunFolder
from robotlearn.wire.segment import Segment
from robotlearn.wire.uplink import Uplink
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

UPDATES = 8
TINY = [
    "policy.hidden=[16]", "episode_steps=12", f"learner.updates={UPDATES}", "learner.eval_episodes=1",
    "learner.eval_every=null", "learner.checkpoint_every=2", "learner.keep_checkpoints=2", "learner.threads=1",
]  # fmt: skip
SAC = [
    *TINY, "algorithm.critic_hidden=[16]", "replay.batch_size=32", "replay.steps_per_update=6", "replay.n_step=3",
    "replay.update_to_data=0.25", "replay.starts_after=50", "learner.stop_success=null",
    "replay.sampling=[{share: 0.6, how: prioritized, balance: [success]}, {share: 0.4, how: newest}]",
]  # fmt: skip
RLPD = [
    *SAC[:-1], "algorithm={name: rlpd, critics: 4, critic_hidden: [16], actor_every: 2}", "demonstrations.episodes=2",
    "sft.steps=5", "replay.sampling=null", "policy.horizon=2",
]  # fmt: skip
PPO = [*TINY, "sft.steps=5", "demonstrations.episodes=1", "learner.episodes_per_update=4", "learner.max_staleness=100"]
GRPO = [*TINY, "algorithm.group=4", "algorithm.minibatch=16", "learner.episodes_per_update=4",
        "learner.max_staleness=100", "learner.stop_success=null"]  # fmt: skip


def recorded(config: Config, episodes: int) -> list[Segment]:
    """What the arms of an edge do by a policy that knows nothing."""
    torch.manual_seed(0)
    inputs, cell = Inputs(config), cells_of(config)[0]
    made: list[Segment] = []
    rollout = BatchRollout(
        build_policy(config, inputs), inputs, cell, edge="batch", arms=4, threads=1, segment_steps=5, seed=0,
        emit=made.extend, options=EnvOptions(episode_steps=config.episode_steps, reward=config.reward),
        group=config.group,
    )  # fmt: skip
    for _ in range(episodes // 4):
        rollout.start(4)
        while rollout.running:
            rollout.advance(0)
    rollout.close()
    return made


class Site:
    """Runs of one config, each fed from a spool that holds the same segments in the same order."""

    def __init__(self, path: Path, config: Config, segments: Sequence[Segment]) -> None:
        self.path, self.config, self.segments = path, config, segments

    def run(self, name: str, deaths: Sequence[str]) -> RunFolder:
        folder = RunFolder.create(self.path / name, dump(self.config), "id")
        with Spool(self.path / f"{name}-spool", edge="batch") as spool:
            for one in self.segments:
                spool.record(one)
            for number, death in enumerate([*deaths, ""]):
                status = self.learner(folder, spool, "resume" if number else "new", *([death] if death else []))
                assert status == (-signal.SIGKILL if death else 0), f"{name}: {death or 'the last'}"
        return folder

    def learner(self, folder: RunFolder, spool: Spool, *arguments: str) -> int:
        said = (self.path / "said").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.learning_child", str(folder.path), *arguments], stdout=said, stderr=said
        )
        try:
            until(lambda: folder.address.exists() or process.poll() is not None, "an address", 120)
            if process.poll() is None:
                uplink = Uplink(folder.address.read_text(), spool, edge="batch", contract=contract(self.config))
                uplink.start()
                process.wait(240)
                uplink.close()
            return process.wait()
        finally:
            process.kill()
            process.wait()
            said.close()
            folder.address.unlink(missing_ok=True)


def last(folder: RunFolder) -> Checkpoint:
    found = checkpoint.load(checkpoint.newest(folder.checkpoints))
    assert found.facts["updates"] == UPDATES
    return found


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    for part in ("policy", "algorithm"):
        here, there = getattr(one, part), getattr(other, part)
        assert here.keys() == there.keys() and here
        for name in here:
            assert torch.equal(here[name], there[name]), f"{part}: {name}"


@pytest.mark.parametrize(
    ("base", "overrides", "episodes", "deaths"),
    (
        # In an update before the first checkpoint of one, in the midst of later ones; while a checkpoint is written,
        # after its files and after it has its name.
        pytest.param("reach-sac", SAC, 48, ("step:9", "step:50", "entry:1", "step:20", "entry:2"), id="sac"),
        pytest.param("reach-sac", RLPD, 48, ("step:40", "entry:3"), id="rlpd"),
        pytest.param("smoke", PPO, 60, ("step:20", "entry:3"), id="ppo"),
        pytest.param("reach-grpo", GRPO, 60, ("step:50", "entry:3"), id="grpo"),
    ),
)
def test_killed_or_not_the_run_ends_with_the_same_bits(
    tmp_path: Path, base: str, overrides: list[str], episodes: int, deaths: tuple[str, ...]
) -> None:
    config = load_config(base, overrides)
    site = Site(tmp_path, config, recorded(config, episodes))
    whole = site.run("whole", ())
    killed = site.run("killed", deaths)
    one, other = last(whole), last(killed)
    assert_same(one, other)
    assert one.facts["env_steps"] == other.facts["env_steps"] and one.facts["end"] == other.facts["end"]
    rows = [[row for row in read_metrics(folder.metrics) if "updates" in row] for folder in (whole, killed)]
    learnt = [{row["updates"]: {k: v for k, v in row.items() if k.startswith(("loss/", "q/"))} for row in each}
              for each in rows]  # fmt: skip
    assert learnt[0] == learnt[1] and set(learnt[0]) == set(range(1, UPDATES + 1))
