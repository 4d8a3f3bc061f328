"""The generalisation suite: a language task under each of its splits, beside what the policy was trained on."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from envs import EnvOptions, LanguageTask, Split
from policies.base import Policy
from robotlearn.cells import Cell
from robotlearn.errors import ConfigError
from robotlearn.evaluation import Evaluation, Rate, evaluate
from robotlearn.inputs import Inputs
from robotlearn.statistics import difference_interval


@dataclass(frozen=True)
class Trial:
    """A cell under one of its task's splits, and the options under which its episodes run."""

    cell: Cell
    split: Split
    options: EnvOptions


@dataclass(frozen=True)
class Outcome:
    """What was measured under one split.

    Attributes:
        measured: all its episodes.
        goals: success by what was meant, in whatever words: its names, with commas.
        drop: success less that under the split "seen", and Newcombe's 95 % interval of it; None for that one itself.
    """

    cell: str
    split: Split
    measured: Evaluation
    goals: dict[str, Rate]
    drop: tuple[float, float, float] | None

    def as_json(self) -> dict[str, Any]:
        measured = self.measured.as_json()
        del measured["cells"]
        return {
            "cell": self.cell, "split": self.split.name, "axis": self.split.axis, "what": self.split.what, **measured,
            "goals": {goal: asdict(rate) for goal, rate in self.goals.items()},
            "difference": None if self.drop is None else dict(zip(("success", "low", "high"), self.drop, strict=True)),
        }  # fmt: skip


def trials(cells: Sequence[Cell], options: EnvOptions) -> list[Trial]:
    """Every split of every language task among the cells, "seen" first; those of vision only where there is a camera.

    Raises ConfigError where no cell's task is one.
    """
    found = []
    for cell in cells:
        if not isinstance(cell.task, LanguageTask):
            continue
        for split in cell.task.splits:
            if split.axis == "vision" and not options.cameras:
                continue
            noise = float(np.hypot(options.randomization.image_noise, split.image_noise))
            seen = replace(options, randomization=replace(options.randomization, image_noise=min(noise, 1.0)))
            found.append(Trial(Cell(cell.spec, type(cell.task)(cell.spec, split.name)), split, seen))
    if not found:
        names = ", ".join(sorted({cell.task.name for cell in cells}))
        raise ConfigError(
            f"--suite generalisation: {names}: no language task with splits, such as touch and put, whose words tell "
            "which of several things is meant"
        )
    return found


def measure(
    policy: Policy,
    inputs: Inputs,
    trials: Sequence[Trial],
    *,
    episodes: int,
    seed: int,
    threads: int = 1,
    progress: Callable[[float, str], None] = lambda done, split: None,
) -> list[Outcome]:
    """`episodes` of each trial, without exploration; equal arguments give equal outcomes.

    `progress` is told how many episodes are done, of all, and under which split they are.
    """
    outcomes: list[Outcome] = []
    seen: dict[str, Evaluation] = {}
    for index, trial in enumerate(trials):
        cell, split = trial.cell, trial.split
        measured = evaluate(
            policy, inputs, cell, episodes=episodes, seed=seed, threads=threads, options=trial.options,
            progress=lambda done, index=index, split=split: progress(index * episodes + done, split.name),
        )  # fmt: skip
        base = seen.setdefault(cell.name, measured)  # "seen" comes first
        drop = None
        if base is not measured:
            interval = difference_interval(measured.successes, measured.episodes, base.successes, base.episodes)
            drop = (measured.success - base.success, *interval)
        assert isinstance(cell.task, LanguageTask)
        outcomes.append(Outcome(cell.name, split, measured, _by_goal(cell.task, measured), drop))
    return outcomes


def _by_goal(task: LanguageTask, measured: Evaluation) -> dict[str, Rate]:
    found = {}
    for goal in range(len(task.goals)):
        rates = [measured.instructions[words] for words in task.told(goal) if words in measured.instructions]
        won, tried = sum(rate.successes for rate in rates), sum(rate.episodes for rate in rates)
        if tried:
            found[", ".join(task.goals[goal])] = Rate.of([True] * won + [False] * (tried - won))
    return found
