"""Where reinforcement starts from: a policy taught by a few demonstrations, its success measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from policies.base import Policy
from robotlearn.algorithms.sft import SFT, Windows, windows
from robotlearn.cells import Cell, env_options, observation_shapes
from robotlearn.config.config import Config
from robotlearn.demonstrations import EXPERT_NOISE, Demonstrations, collect
from robotlearn.errors import ConfigError, StartError
from robotlearn.evaluation import Evaluation, evaluate_cells
from robotlearn.inputs import Inputs
from robotlearn.learner.normalization import Demonstrated, demonstrated, wandered
from robotlearn.people.demonstrated import demonstrations

Report = Callable[[str, float], None]
"""(what is being done, share done)"""
Note = Callable[[int, Evaluation], None]
"""(steps of imitation, what was measured after them)"""
Tensors = dict[str, torch.Tensor]
EVERY = 50
"""Steps of imitation between two measurements, where a band is looked for and the config doesn't say."""


@dataclass(frozen=True)
class Taught:
    """A policy after `steps` of imitation of so many demonstrations, and its success (None: not measured)."""

    policy: Policy
    demonstrations: int
    steps: int
    measured: Evaluation | None
    shown: Sequence[Demonstrated] = ()


def teach(
    policy: Policy,
    config: Config,
    cells: Sequence[Cell],
    inputs: Inputs,
    report: Report,
    note: Note = lambda steps, measured: None,
) -> Taught:
    """Teach `policy`, in place, to imitate the expert.

    With `start.success_band` just so long that the policy's measured success lies in the band: it is measured every
    `start.every` steps; where a stretch jumps over the band it is done again in shorter ones. Without demonstrations
    the policy is as it was made, normalised by what arms that move at random show. `report` is called often and
    may raise to break off, `note` after each measurement. Raises StartError when the band is not met.
    """
    given = _collect(config, cells, report)
    if getattr(config.policy, "statistics", "data") == "data":  # else the policy has its checkpoint's
        scales = policy.scales
        policy.set_statistics(
            demonstrated(inputs, given, scales) if given else wandered(config, cells, inputs, scales)
        )
    if not given:
        return Taught(policy, 0, 0, None)
    data = Windows.joined([_windows(inputs, cell, shown, policy.horizon) for cell, shown in given])
    count = sum(len(shown.episode_ends) for _, shown in given)
    trainer = SFT(policy, config.sft, config.seed)

    def progress(step: int, loss: float) -> None:
        report(f"imitating {count} demonstrations", step / config.sft.steps)

    def measure() -> Evaluation:
        found = _measure(config, cells, inputs, policy, report)
        note(trainer.steps, found)
        return found

    band, measured = config.start.success_band, None
    if band is None:
        every = config.start.every
        while trainer.steps < config.sft.steps:
            trainer.fit(data, progress, until=None if every is None else trainer.steps + every)
            measured = None if every is None else measure()
        return Taught(policy, count, trainer.steps, measured, given)
    stretch = config.start.every or EVERY
    before = _snapshot(policy, trainer)
    while trainer.steps < config.sft.steps:
        trainer.fit(data, progress, until=trainer.steps + stretch)
        measured = measure()
        if band[0] <= measured.success <= band[1]:
            return Taught(policy, count, trainer.steps, measured, given)
        if measured.success < band[0]:
            del before  # of a large model two are too much
            before = _snapshot(policy, trainer)
        elif stretch > 1:
            _go_back(policy, trainer, *before)
            stretch = max(1, stretch // 4)
        else:
            break
    found = "nothing was measured" if measured is None else f"the last measurement was {measured.success:.0%}"
    raise StartError(
        f"{count} demonstrations and {trainer.steps} steps of imitation gave no start within {band[0]:.0%} to "
        f"{band[1]:.0%} success ({found}); change demonstrations.episodes, sft.steps or start.success_band, or set the "
        "band to null"
    )


def _collect(config: Config, cells: Sequence[Cell], report: Report) -> list[Demonstrated]:
    wanted = config.demonstrations
    if not wanted.episodes:
        return []
    if wanted.path is not None:
        (cell,) = cells
        shown = demonstrations(Path(wanted.path), cell.spec.embodiment)
        for key, shape in observation_shapes(cell, env_options(config)).items():
            if key not in shown.observations or shown.observations[key].shape[1:] != shape:
                there = ", ".join(f"{name} {each.shape[1:]}" for name, each in shown.observations.items())
                raise ConfigError(f"demonstrations.path: the run observes {key} {shape}, {wanted.path} has {there}")
        return [(cell, shown)]
    whole = wanted.episodes * len(cells)
    return [
        (
            cell,
            collect(
                cell,
                wanted.episodes,
                config.seed,
                noise=EXPERT_NOISE if wanted.noise is None else wanted.noise,
                options=env_options(config),
                progress=lambda done, index=index: report(  # type: ignore[misc]
                    "collecting demonstrations", (index * wanted.episodes + done) / whole
                ),
            ),
        )
        for index, cell in enumerate(cells)
    ]


def _windows(inputs: Inputs, cell: Cell, shown: Demonstrations, horizon: int) -> Windows:
    embodiment = cell.spec.embodiment
    observations = inputs.observations(embodiment, shown.observations, shown.step_instructions())
    return windows(observations, inputs.padded(embodiment, shown.actions), shown.episode_ends, horizon)


def _measure(config: Config, cells: Sequence[Cell], inputs: Inputs, policy: Policy, report: Report) -> Evaluation:
    return evaluate_cells(
        policy,
        inputs,
        cells,
        episodes=config.start.episodes,
        seed=config.seed + 1,
        threads=config.learner.threads,
        options=env_options(config),
        progress=lambda done: report("measuring what imitation gave", done / config.start.episodes),
    )


def _snapshot(policy: Policy, trainer: SFT) -> tuple[Tensors, Tensors]:
    """What imitation changes of both, on the CPU: the device's memory may be full."""
    learnt = {key: p.detach().to("cpu", copy=True) for key, p in policy.named_parameters() if p.requires_grad}
    return learnt, trainer.state_dict()


@torch.no_grad()
def _go_back(policy: Policy, trainer: SFT, learnt: Tensors, state: Tensors) -> None:
    for key, parameter in policy.named_parameters():
        if key in learnt:
            parameter.copy_(learnt[key])
    trainer.load_state_dict(state)
