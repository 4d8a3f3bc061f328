"""Where reinforcement starts from: a policy taught by a few demonstrations, its success measured."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hal.spec import RobotSpec
from policies.base import Policy
from policies.normalizer import statistics
from robotlearn.algorithms.sft import SFT, windows
from robotlearn.config.config import Config
from robotlearn.demonstrations import EXPERT_NOISE, Demonstrations, collect
from robotlearn.environment import env_options
from robotlearn.errors import StartError
from robotlearn.evaluation import Evaluation, evaluate
from robotlearn.policy import build_policy

Report = Callable[[str, float], None]
"""(what is being done, share done)"""


@dataclass(frozen=True)
class Taught:
    """A policy after `steps` of imitation of so many demonstrations, and its success (None: not measured)."""

    policy: Policy
    demonstrations: int
    steps: int
    measured: Evaluation | None


def teach(config: Config, spec: RobotSpec, report: Report) -> Taught:
    """Imitate the expert; with `start.success_band`, just so long that the policy's measured success lies in the band.

    It is measured every `start.every` steps; where a stretch jumps over the band it is done again in shorter ones.
    `report` is called often and may raise to break off. Raises StartError when the band is not met.
    """
    demonstrations = _collect(config, spec, report)
    policy = build_policy(config, spec)
    policy.set_statistics(statistics(demonstrations.observations, demonstrations.actions))
    data = windows(demonstrations.observations, demonstrations.actions, demonstrations.episode_ends, policy.horizon)
    count = len(demonstrations.episode_ends)
    trainer = SFT(policy, config.sft, config.seed)

    def progress(step: int, loss: float) -> None:
        if step % 20 == 0:
            report(f"imitating {count} demonstrations", step / config.sft.steps)

    band = config.start.success_band
    if band is None:
        trainer.fit(data, progress)
        return Taught(policy, count, trainer.steps, None)
    stretch, measured = config.start.every, None
    before = _snapshot(policy, trainer)
    while trainer.steps < config.sft.steps:
        trainer.fit(data, progress, until=trainer.steps + stretch)
        measured = _measure(config, spec, policy, report)
        if band[0] <= measured.success <= band[1]:
            return Taught(policy, count, trainer.steps, measured)
        if measured.success < band[0]:
            before = _snapshot(policy, trainer)
        elif stretch > 1:
            policy.load_state_dict(before[0])
            trainer.load_state_dict(before[1])
            stretch = max(1, stretch // 4)
        else:
            break
    found = "nothing was measured" if measured is None else f"the last measurement was {measured.success:.0%}"
    raise StartError(
        f"{count} demonstrations and {trainer.steps} steps of imitation gave no start within {band[0]:.0%} to "
        f"{band[1]:.0%} success ({found}); change demonstrations.episodes, sft.steps or start.success_band, or set the "
        "band to null"
    )


def _collect(config: Config, spec: RobotSpec, report: Report) -> Demonstrations:
    wanted = config.demonstrations
    return collect(
        spec,
        config.task,
        wanted.episodes,
        config.seed,
        noise=EXPERT_NOISE if wanted.noise is None else wanted.noise,
        options=env_options(config),
        progress=lambda done: report("collecting demonstrations", done / wanted.episodes),
    )


def _measure(config: Config, spec: RobotSpec, policy: Policy, report: Report) -> Evaluation:
    return evaluate(
        policy,
        spec,
        config.task,
        episodes=config.start.episodes,
        seed=config.seed + 1,
        threads=config.learner.threads,
        options=env_options(config),
        progress=lambda done: report("measuring what imitation gave", done / config.start.episodes),
    )


def _snapshot(policy: Policy, trainer: SFT) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return {key: value.clone() for key, value in policy.state_dict().items()}, trainer.state_dict()
