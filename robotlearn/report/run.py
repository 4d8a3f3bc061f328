"""A run as it is looked at: its config, the rows of its metrics, and what they come to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from robotlearn.config.config import Config
from robotlearn.config.load import load_config
from robotlearn.errors import RunFolderError
from robotlearn.metrics import ended, read_metrics
from robotlearn.run_folder import RunFolder

Row = Mapping[str, Any]
Points = list[tuple[float, float]]
GOOD = 0.9
"""The success rate whose first measurement dates a run: "time to 90 %"."""
LARGEST = 1e100


def number(value: object) -> float | None:
    """A number as it is; anything else (null, text, a missing key), and what is too large to be drawn, as None."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return value
    return None


def points(rows: Sequence[Row], x: str, y: str) -> Points:
    """(x, y) of every row that has a number for both."""
    pairs = ((number(row.get(x)), number(row.get(y))) for row in rows)
    return [(a, b) for a, b in pairs if a is not None and b is not None]


@dataclass(frozen=True)
class Summary:
    """What a run came to; None is what was not measured. Success is without exploration, `low` and `high` its 95 %
    Wilson interval; `to_90` is the first evaluation of at least 90 %. Seconds are of reinforcement."""

    updates: int
    env_steps: int | None
    seconds: float | None
    start_success: float | None
    final_success: float | None
    final_low: float | None
    final_high: float | None
    final_episodes: int | None
    seconds_to_90: float | None
    env_steps_to_90: int | None
    samples_per_s: float | None
    staleness_max: int | None

    def as_json(self) -> dict[str, float | int | None]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Run:
    """One run folder, read. `rows` are in the order of writing, without those that a resume has overwritten; none while
    it still imitates."""

    folder: RunFolder
    config: Config
    rows: tuple[Row, ...]
    imitation: tuple[Row, ...]
    """What was measured on the way to the start, by steps of imitation."""
    undone: int
    """Rows of updates that were lost with their learner and done again after a resume from the checkpoint before."""

    @classmethod
    def read(cls, path: Path) -> Run:
        """Raises RunFolderError for no run folder and where nothing was measured yet, ConfigError for its config."""
        if not path.exists():
            raise RunFolderError(f"{path}: there is no such run folder")
        folder = RunFolder.open(path)
        config = load_config(folder.config)
        written = read_metrics(folder.metrics)
        rows = _without_undone([row for row in written if _measured(row)])
        imitation = _imitation(written)
        if not rows and not points(imitation, "imitation_steps", "imitation_success"):
            raise RunFolderError(
                f"{path}: nothing measured yet (no imitation, no update and no evaluation in metrics.jsonl)"
            )
        return cls(folder, config, tuple(rows), imitation, sum(map(_measured, written)) - len(rows))

    @property
    def name(self) -> str:
        """The folder's; what is not UTF-8 in it is shown as question marks."""
        return self.folder.path.resolve().name.encode(errors="replace").decode()

    @property
    def robot(self) -> str:
        """The robot models' names; of a spec given as a path, the file's."""
        return ", ".join(Path(robot).stem for robot in self.config.robot)

    @property
    def task(self) -> str:
        return ", ".join(self.config.task)

    @property
    def title(self) -> str:
        return f"{self.task} with {self.robot}"

    @property
    def last(self) -> Row:
        return self.rows[-1] if self.rows else {}

    @property
    def updates(self) -> list[Row]:
        return [row for row in self.rows if number(row.get("updates")) is not None]

    @property
    def evaluations(self) -> list[Row]:
        return [row for row in self.rows if number(row.get("eval_success")) is not None]

    @property
    def state(self) -> str:
        """running, complete (all updates, or the success that ends it, measured at the end), or stopped."""
        if self._running():
            return "running"
        successes = [value for _, value in points(self.updates, "updates", "success")]
        measured = number(self.last.get("eval_success")) is not None
        done = measured and ended(self.config.learner, self.summary().updates, successes)
        return "complete" if done else "stopped"

    def summary(self) -> Summary:
        updates, evaluations = self.updates, self.evaluations
        env_steps, seconds = number(self.last.get("env_steps")), number(self.last.get("seconds"))
        started = self.config.learner.updates > 0 and evaluations and not number(evaluations[0].get("env_steps"))
        start = evaluations[0] if started else {}
        final = evaluations[-1] if evaluations and evaluations[-1] is not start else {}
        learnt_by = evaluations if self.config.learner.updates else ()
        good = next((row for row in learnt_by if row["eval_success"] >= GOOD), {})
        staleness = [value for _, value in points(updates, "updates", "staleness_max")]
        learnt = points(updates, "seconds", "env_steps")
        return Summary(
            updates=int(updates[-1]["updates"]) if updates else 0,
            env_steps=_whole(env_steps),
            seconds=seconds if self.config.learner.updates else None,
            start_success=number(start.get("eval_success")),
            final_success=number(final.get("eval_success")),
            final_low=number(final.get("eval_low")),
            final_high=number(final.get("eval_high")),
            final_episodes=_whole(number(final.get("eval_episodes"))),
            seconds_to_90=number(good.get("seconds")),
            env_steps_to_90=_whole(number(good.get("env_steps"))),
            samples_per_s=learnt[-1][1] / learnt[-1][0] if learnt and learnt[-1][0] > 0 else None,
            staleness_max=int(max(staleness)) if staleness else None,
        )

    def _running(self) -> bool:
        """Whether the learner that left its address there still lives."""
        try:
            holder = int((self.folder.path / "lock").read_text())
            return self.folder.address.exists() and _alive(holder)
        except (OSError, ValueError):
            return False


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _measured(row: Row) -> bool:
    return number(row.get("updates")) is not None or number(row.get("eval_success")) is not None


def _without_undone(rows: Sequence[Row]) -> list[Row]:
    """A resumed learner counts updates on from its checkpoint: rows from there on are of weights that are gone."""
    kept: list[Row] = []
    for row in rows:
        update = number(row.get("updates"))
        if update is not None:
            again = (i for i, old in enumerate(kept) if (number(old.get("updates")) or -1) >= update)
            del kept[next(again, len(kept)) :]
        kept.append(row)
    return kept


def _imitation(rows: Sequence[Row]) -> tuple[Row, ...]:
    """A stretch that is done again, or a run that begins again, goes back: what was measured beyond is of weights that
    are gone."""
    kept: list[tuple[float, Row]] = []
    for row in rows:
        steps = number(row.get("imitation_steps"))
        if steps is not None:
            kept = [*((before, old) for before, old in kept if before < steps), (steps, row)]
    return tuple(row for _, row in kept)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
