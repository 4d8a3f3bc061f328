"""Many simulated arms and the policy in lockstep, chunk by chunk, recorded."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from envs import BatchArmEnv, EnvOptions
from policies.base import Policy
from robotlearn.cells import Cell
from robotlearn.edge.recorder import Origin, Recorder, Sizes
from robotlearn.edge.scripted_person import ScriptedPerson
from robotlearn.inputs import Inputs
from robotlearn.policy import ask
from robotlearn.wire.encodings import Encodings
from robotlearn.wire.segment import Segment

log = logging.getLogger(__name__)


@dataclass
class Counts:
    """What the arms did since the start; `faults` are episodes that ended because their simulation diverged,
    `steps_intervened` those that a person did, `episodes_intervened` the ended episodes with any such.
    """

    steps: int = 0
    episodes: int = 0
    successes: int = 0
    faults: int = 0
    held: int = 0
    clipped: int = 0
    steps_intervened: int = 0
    episodes_intervened: int = 0


class BatchRollout:
    """`arms` simulated arms; each rests until `start` gives it an episode. Used by one thread.

    The noise of arm i comes from a generator of its own, seeded by (seed, i), so what an arm does depends neither on
    how many arms there are nor on when the others start.
    """

    def __init__(
        self,
        policy: Policy,
        inputs: Inputs,
        cell: Cell,
        *,
        edge: str,
        arms: int,
        threads: int,
        segment_steps: int,
        seed: int,
        emit: Callable[[list[Segment]], object],
        explore: bool = True,
        options: EnvOptions | None = None,
        encodings: Encodings | None = None,
        person: ScriptedPerson | None = None,
        group: int = 1,
    ) -> None:
        """`policy` is used as it is at each chunk: change its weights between two calls of `advance`.

        `person`: who watches these arms and may take over at any step; the chunk runs on beside them, and goes on
        where it then is when they give back. `group`: so many episodes always begin together, in one scene.
        """
        self.policy, self.explore, self.counts = policy, explore, Counts()
        self._inputs, self._embodiment = inputs, cell.spec.embodiment
        self.env = BatchArmEnv(
            cell.spec, cell.task, arms, threads=threads, seed=seed, options=options, autoreset=AutoresetMode.DISABLED
        )
        self._rngs = [np.random.default_rng([seed, arm]) for arm in range(arms)]
        spaces = self.env.single_observation_space.spaces  # type: ignore[attr-defined]
        observations = {key: (space.shape, space.dtype) for key, space in spaces.items()}
        self._recorder = Recorder(
            arms,
            Origin(edge, f"{edge}/sim", cell.spec.embodiment),
            Sizes(observations, policy.horizon, policy.denoising_steps, cell.spec.dim, policy.path_dim),
            segment_steps,
            emit,
            encodings,
        )
        self._person, self._group = person, group
        self._observations: dict[str, np.ndarray] = {}

    @property
    def idle(self) -> np.ndarray:
        """Indices of the arms at rest."""
        return np.flatnonzero(~self.env.running)

    @property
    def running(self) -> int:
        """How many arms are in an episode."""
        return int(self.env.running.sum())

    def start(self, count: int) -> None:
        """Begin an episode with `count` of the idle arms, whole groups."""
        ids = self.idle[:count]
        mask = np.zeros(self.env.num_envs, bool)
        mask[ids] = True
        self._observations, _ = self.env.reset(options={"reset_mask": mask, "alike": self._group})
        if self._person is not None:
            self._person.begin(ids, self.env.scene_state())
        self._recorder.begin(
            ids,
            {key: value[ids] for key, value in self._observations.items()},
            [self.env.instructions[arm] for arm in ids],
            self._group,
        )

    def advance(self, version: int) -> int:
        """One chunk of every running arm under the present weights, `version`; returns how many episodes ended."""
        ids = np.flatnonzero(self.env.running)
        if not len(ids):
            return 0
        noise = torch.cat([self.policy.noise(1, self._rngs[arm]) for arm in ids])
        seen = {key: value[ids] for key, value in self._observations.items()}
        words = [self.env.instructions[arm] for arm in ids]
        proposed, chunk = ask(self.policy, self._inputs, self._embodiment, seen, words, noise, self.explore)
        self._recorder.chunk(
            ids,
            version=version,
            path=chunk.path.numpy(),
            stochastic=chunk.stochastic.numpy(),
            log_prob=chunk.log_prob.numpy(),
        )
        actions = np.zeros((self.env.num_envs, *proposed.shape[1:]), np.float32)
        actions[ids] = proposed
        ended = 0
        for h in range(self.policy.horizon):
            now = np.flatnonzero(self.env.running)
            if not len(now):
                break
            ended += self._step(now, actions[:, h])
        return ended

    def close(self) -> None:
        self.env.close()

    def _step(self, ids: np.ndarray, proposed: np.ndarray) -> int:
        before, actions = self._observations, proposed
        intervention = np.zeros(len(proposed), bool)
        if self._person is not None:
            taken, theirs = self._person.act(ids, self.env.scene_state())
            intervention[taken] = True
            actions = proposed.copy()
            actions[taken] = theirs
        self._observations, reward, terminated, truncated, infos = self.env.step(actions)
        # A diverged episode is worth nothing: its arm begins anew; what was recorded since its last segment goes.
        faulty = infos["fault"][ids]
        for arm in ids[faulty]:
            state = {key: value[arm].tolist() for key, value in before.items()}
            log.error("the simulation of arm %d diverged: action %s from %s", arm, actions[arm].tolist(), state)
        kept = ids[~faulty]
        self._recorder.step(
            kept,
            {key: value[kept] for key, value in self._observations.items()},
            proposed=proposed[kept],
            executed=infos["executed"][kept],
            from_chunk=np.ones(len(kept), bool),
            monotonic=time.monotonic(),
            wall=time.time(),
            intervention=intervention[kept],
            held=infos["held"][kept],
            reward=reward[kept],
            terminated=terminated[kept],
            truncated=truncated[kept],
            success=infos["success"][kept],
        )
        ended = terminated[ids] | truncated[ids]
        counts = self.counts
        counts.steps += len(ids)
        counts.episodes += int(ended.sum())
        counts.successes += int(terminated[ids].sum())
        counts.faults += int(faulty.sum())
        counts.held += int(infos["held"][ids].sum())
        counts.clipped += int(infos["clipped"][ids].sum())
        counts.steps_intervened += int(intervention[ids].sum())
        if self._person is not None:
            counts.episodes_intervened += int(self._person.corrected[ids[ended]].sum())
        return int(ended.sum())
