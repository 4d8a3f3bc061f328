"""What came of running a policy: of real episodes, or of a dry run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from envs.spaces import ENVIRONMENT_STATE, STATE
from hal.spec import RobotSpec
from robotlearn.edge import local
from robotlearn.statistics import wilson_interval

_LABEL, _ROW = 14, 12
"""Width of a label and numbers after it, in a line of text."""


@dataclass
class Episodes:
    """The episodes so far. Those that broke are no evidence for or against the policy: they are counted apart. Where
    `judge` is nobody, success isn't known: none is told.
    """

    successes: int = 0
    broken: int = 0
    held: int = 0
    lengths: list[int] = field(default_factory=list)
    judge: local.Judge = "task"

    @property
    def done(self) -> int:
        return len(self.lengths) + self.broken

    @property
    def success(self) -> float | None:
        return self.successes / len(self.lengths) if self.lengths and self.judge != "nobody" else None

    def hear(self, message: local.Begin | local.Line | local.Preview) -> None:
        if not isinstance(message, local.Line):
            return
        self.held += message.held
        if message.stopped:
            self.broken += 1
        elif message.terminated or message.truncated:
            self.lengths.append(message.step + 1)
            self.successes += message.success

    def as_json(self, counts: Mapping[str, int]) -> dict[str, Any]:
        """`success`, its 95 % Wilson interval `low` to `high` and `mean_steps` are None without a whole episode; all
        of success is, and `successes`, where `judge` is nobody.

        `counts`: starved and missed ticks, clipped steps, of the arm process; as it told them last if it was killed.
        """
        known = self.success is not None
        low, high = wilson_interval(self.successes, len(self.lengths)) if known else (None, None)
        return {
            "episodes": len(self.lengths),
            "broken": self.broken,
            "judge": self.judge,
            "successes": self.successes if self.judge != "nobody" else None,
            "success": self.success,
            "low": low,
            "high": high,
            "mean_steps": float(np.mean(self.lengths)) if self.lengths else None,
            "starved": counts["starved"],
            "missed": counts["missed"],
            "clipped": counts["clipped"],
            "held": self.held,
        }

    @staticmethod
    def summary(found: Mapping[str, Any]) -> str:
        """`as_json` in words."""
        rate = "no whole episode"
        if found["episodes"]:
            rate = f"success not known, nobody marked it ({found['episodes']} episodes)"
            if found["success"] is not None:
                by = ", as a person marked them" * (found["judge"] == "person")
                rate = (
                    f"success {found['success']:.1%} [{found['low']:.1%}, {found['high']:.1%}] "
                    f"({found['successes']} of {found['episodes']}{by})"
                )
            rate += f", length {found['mean_steps']:.1f} steps"
        return (
            f"{rate}, {found['broken']} broken; ticks: {found['starved']} starved, {found['missed']} missed; "
            f"steps: {found['clipped']} clipped, {found['held']} held"
        )


@dataclass(frozen=True)
class Shown:
    """One chunk of a dry run. Actions are in the units of the control mode; observations of more than one dimension are
    told by their shape.
    """

    observations: dict[str, list[float] | str]
    proposed: list[list[float]]
    executed: list[list[float]]
    clipped: list[bool]
    held: list[bool]
    latency_ms: float

    @classmethod
    def of(cls, preview: local.Preview) -> "Shown":
        """Raises WireError when arrays and shapes of the message don't fit."""
        observations = {
            key: value.tolist() if value.ndim == 1 else f"{value.dtype.name} {value.shape}"
            for key, value in local.arrays(preview.observations).items()
        }
        proposed, executed, clipped, held = (
            part.array().tolist() for part in (preview.proposed, preview.executed, preview.clipped, preview.held)
        )
        return cls(observations, proposed, executed, clipped, held, preview.latency_ms)

    def text(self, title: str, spec: RobotSpec) -> str:
        """A block of lines; the robot's joints and gripper head the columns of its state and of the actions."""
        width = max(8, *map(len, spec.names))
        gripper = ", gripper width in m" if spec.gripper is not None else ""
        heads = "".ljust(_LABEL) + " ".join(name.rjust(width) for name in spec.names)
        lines = [f"{title}, {self.latency_ms:.1f} ms"]
        for key, value in self.observations.items():
            if isinstance(value, str):
                lines.append(f"  {key}  {value}")
            elif key == STATE:
                lines += [f"  {key}: measured joints in rad{gripper}", heads, _row("", value, width)]
            else:
                lines.append(f"  {key}: by entry{', see envs/features.py' if key == ENVIRONMENT_STATE else ''}")
                lines += [_row(f"{i:>4}", value[i : i + _ROW]) for i in range(0, len(value), _ROW)]
        lines += [f"  actions: changes of the joints in rad{gripper}", heads]
        for step, proposed in enumerate(self.proposed):
            lines.append(_row(f"{step:>4} proposed", proposed, width))
            if self.held[step] or self.clipped[step]:
                row = _row("     held" if self.held[step] else "     becomes", self.executed[step], width)
                same = not self.held[step] and row[_LABEL:] == lines[-1][_LABEL:]
                lines.append("     becomes    the same to four decimals" if same else row)
        return "\n".join(lines)


def _row(label: str, values: list[float], width: int = 8) -> str:
    return label.ljust(_LABEL) + " ".join(f"{value:{width}.4f}" for value in values)


@dataclass
class Previews:
    """The chunks of a dry run so far."""

    broken: int = 0
    shown: list[Shown] = field(default_factory=list)

    @property
    def done(self) -> int:
        return len(self.shown) + self.broken

    def hear(self, message: local.Begin | local.Line | local.Preview) -> None:
        if isinstance(message, local.Preview):
            self.shown.append(Shown.of(message))

    def as_json(self, counts: Mapping[str, int]) -> dict[str, Any]:
        """The latencies are None without a chunk."""
        latencies = [shown.latency_ms for shown in self.shown]
        return {
            "chunks": len(self.shown),
            "broken": self.broken,
            "steps": sum(len(shown.proposed) for shown in self.shown),
            "clipped": sum(sum(shown.clipped) for shown in self.shown),
            "held": sum(sum(shown.held) for shown in self.shown),
            "latency_ms_median": float(np.median(latencies)) if latencies else None,
            "latency_ms_max": max(latencies, default=None),
            "previews": [asdict(shown) for shown in self.shown],
        }

    @staticmethod
    def summary(found: Mapping[str, Any]) -> str:
        """`as_json` in words."""
        latency = ""
        if found["chunks"]:
            latency = f", {found['latency_ms_median']:.1f} ms each (at most {found['latency_ms_max']:.1f})"
        return (
            f"dry run, nothing moved: {found['chunks']} chunk{'s' * (found['chunks'] != 1)}{latency}, "
            f"{found['broken']} broken; of {found['steps']} steps {found['clipped']} would be changed to keep the "
            f"robot's limits, {found['held']} of them held"
        )
