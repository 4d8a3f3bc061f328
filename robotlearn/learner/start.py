"""Where reinforcement starts from: a policy taught by a few demonstrations, its success measured."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from envs import make_task
from envs.control import JointDeltaControl
from envs.spaces import observation_space
from hal.spec import RobotSpec
from policies.base import Policy
from policies.normalizer import statistics
from policies.registry import make_policy
from robotlearn.algorithms.sft import SFT, windows
from robotlearn.config.config import Config
from robotlearn.demonstrations import EXPERT_NOISE, Demonstrations, collect
from robotlearn.errors import StartError
from robotlearn.evaluation import Evaluation, evaluate

POOL = 48
"""Demonstrations collected once, of which each try takes the first few."""

Report = Callable[[str, float], None]
"""(what is being done, share done)"""


@dataclass(frozen=True)
class Taught:
    """A policy after imitation, how many demonstrations it saw, and its measured success (None: not measured)."""

    policy: Policy
    demonstrations: int
    measured: Evaluation | None


def build_policy(config: Config, spec: RobotSpec) -> Policy:
    """A policy of the config's kind for this robot and task, with random weights that follow from `config.seed`."""
    task = make_task(config.task, spec)
    features = {key: space.shape for key, space in observation_space(spec, task).spaces.items()}
    options = config.policy.model_dump()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return make_policy(
            options.pop("kind"), features=features, action_dim=len(JointDeltaControl(spec, 1).low), **options
        )


def teach(config: Config, spec: RobotSpec, report: Report) -> Taught:
    """Imitate the expert. With a success band the number of demonstrations is searched for; see `StartConfig`.

    More demonstrations when the success measured is below the band, fewer when above; where two neighbouring numbers lie
    on both sides, another training seed. `report` is called often and may raise to break off. Raises StartError when
    `max_tries` policies all missed the band, naming each.
    """
    noise = EXPERT_NOISE if config.demonstrations.noise is None else config.demonstrations.noise
    band = config.start.success_band
    count = config.demonstrations.episodes
    pool = collect(
        spec,
        config.task,
        max(POOL, count) if band else count,
        config.seed,
        noise=noise,
        episode_steps=config.episode_steps,
        progress=lambda done: report("collecting demonstrations", done / max(POOL, count)),
    )
    below, above, tried = 0, len(pool.episode_ends) + 1, []
    for attempt in range(config.start.max_tries if band else 1):
        policy = _imitate(config, spec, pool.first(count), attempt, report)
        if band is None:
            return Taught(policy, count, None)
        report(f"measuring the policy taught by {count} demonstrations", 0.0)
        measured = evaluate(
            policy,
            spec,
            config.task,
            episodes=config.start.episodes,
            seed=config.seed + 1,
            threads=config.learner.threads,
            episode_steps=config.episode_steps,
            progress=lambda done: report("measuring", done / config.start.episodes),
        )
        tried.append(f"{count} demonstrations: {measured.success:.0%}")
        if band[0] <= measured.success <= band[1]:
            return Taught(policy, count, measured)
        if measured.success < band[0]:
            below = max(below, count)
            count = min(count + max(1, count // 3), above - 1) if above - below > 1 else above
        else:
            above = min(above, count)
            count = max(count - max(1, count // 4), below + 1) if above - below > 1 else above
        count = min(max(count, 1), len(pool.episode_ends))
    raise StartError(
        f"no start within {band[0]:.0%} to {band[1]:.0%} success after {len(tried)} tries ({'; '.join(tried)}); widen "
        "start.success_band, raise start.max_tries, or set the band to null"
    )


def _imitate(
    config: Config, spec: RobotSpec, demonstrations: Demonstrations, attempt: int, report: Report
) -> Policy:
    policy = build_policy(config, spec)
    policy.set_statistics(statistics(demonstrations.observations, demonstrations.actions))
    data = windows(demonstrations.observations, demonstrations.actions, demonstrations.episode_ends, policy.horizon)
    text = f"imitating {len(demonstrations.episode_ends)} demonstrations"

    def progress(step: int, loss: float) -> None:
        if step % 20 == 0:
            report(text, step / config.sft.steps)

    seed = int(np.random.SeedSequence([config.seed, 3, attempt]).generate_state(1)[0])
    SFT(policy, config.sft, seed).fit(data, progress)
    return policy
