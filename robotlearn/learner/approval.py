"""Whether new weights may go to arms that could break something: tested, tried by one arm, then watched."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from envs.control import JointDeltaControl
from policies.base import Policy
from robotlearn.cells import Cell
from robotlearn.config.approval import ApprovalConfig
from robotlearn.evaluation import Evaluation
from robotlearn.inputs import Inputs
from robotlearn.policy import ask
from robotlearn.wire.segment import Segment

Step = Literal["approved", "trial", "rejected", "roll back"]
_AT_ONCE = 32  # chunks: a VLA may be large
_TOLERANCE = 1e-4  # rad, m


@dataclass(frozen=True)
class Decision:
    """What becomes of a version.

    approved: the edges that need it may have it. trial: one of them may. rejected: none. roll back: approved before, it
    does worse than the one before it. `finite`: no number of it was found that isn't. `tried`: an edge had it on trial.
    `judged`: it was found good or bad; else its trial did not come to an end.
    """

    version: int
    step: Step
    why: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    finite: bool = True
    tried: bool = False
    judged: bool = True


class Approval:
    """Decides; that the edges get what was decided is for `Serving`. Used by the learner's thread.

    One version is under trial at a time; those published meanwhile are not offered. The success of the last
    `watch_episodes` with approved weights is compared with what it was with the ones before, over as many episodes.
    """

    def __init__(self, settings: ApprovalConfig, inputs: Inputs, cells: Sequence[Cell], seed: int) -> None:
        self.settings = settings
        self.approved = self.candidate = -1
        self.first = True
        """Whether none were ever approved in this run: nobody waits for the outcome of a trial then."""
        self._inputs = inputs
        limits = {cell.spec.embodiment: JointDeltaControl(cell.spec, 1) for cell in cells}
        self._limits = {name: (control.low, control.high) for name, control in limits.items()}
        self._seen: dict[str, deque[tuple[dict[str, np.ndarray], str]]] = {
            name: deque(maxlen=settings.observations) for name in limits
        }
        self._rng = np.random.default_rng([seed, 3])
        self._offered = 0
        self._figures: dict[str, float] = {}
        self._trial: list[bool] = []
        self._heard_at = 0.0  # when its last episode ended
        self._watch: deque[bool] = deque(maxlen=settings.watch_episodes)
        self._before: float | None = None  # success with the weights approved before these

    def remember(self, segment: Segment) -> None:
        """Keep one of its observations for the tests to come."""
        row = int(self._rng.integers(segment.steps + 1))
        seen = {key: np.array(value[row]) for key, value in segment.observations.items()}
        self._seen[segment.embodiment].append((seen, segment.task))

    def offer(
        self, version: int, policy: Policy, rehearse: Callable[[int], Evaluation], *, due: bool = False
    ) -> Decision | None:
        """Test weights that were just published; None when their turn has not come, unless they are `due`, or while
        others are under trial. `rehearse(episodes)` measures them in simulation.
        """
        if self.candidate >= 0:
            return None
        self._offered += 1
        if (self._offered - 1) % self.settings.every and not due:
            return None
        self._figures = {}
        wrong, finite = self._wrong_with(policy)
        if not wrong and self.settings.rehearsal_episodes:
            measured = rehearse(self.settings.rehearsal_episodes)
            self._figures["rehearsal_success"] = measured.success
            least = self.settings.rehearsal_success
            if measured.success < least:
                wrong = f"success {measured.success:.1%} in rehearsal, at least {least:.1%} asked"
        if wrong:
            return Decision(version, "rejected", wrong, dict(self._figures), finite=finite)
        if self.settings.trial_edge is None or self.first:
            return self.settle(version)
        self.candidate, self._trial, self._heard_at = version, [], time.monotonic()
        return self._decide(version, "trial", f"{self.settings.trial_episodes} episodes of {self.settings.trial_edge}")

    def heard(self, edge: str, version: int, success: bool) -> Decision | None:
        """One of the edges that need approval did an episode, all of it with these weights. Others than those under
        trial or approved, which an edge has while it is pinned, say nothing of them.
        """
        settings = self.settings
        if edge == settings.trial_edge and 0 <= self.candidate == version:
            self._trial.append(success)
            self._heard_at = time.monotonic()
            if len(self._trial) < settings.trial_episodes:
                return None
            share = float(np.mean(self._trial))
            self._figures["trial_success"] = share
            if share >= settings.trial_success:
                return replace(self.settle(self.candidate), tried=True)
            return self._fail(f"success {share:.1%} in its trial, at least {settings.trial_success:.1%} asked")
        if self.approved < 0 or version != self.approved:
            return None
        self._watch.append(success)
        share = float(np.mean(self._watch))
        if len(self._watch) < settings.watch_episodes or self._before is None:
            return None
        if share >= self._before - settings.max_drop:
            return None
        self._figures = {"success": share, "success_before": self._before}
        self._watch.clear()
        return self._decide(self.approved, "roll back", f"success fell from {self._before:.1%} to {share:.1%}")

    def overdue(self) -> Decision | None:
        """End a trial whose edge ends no more episodes, so that the others don't wait for ever."""
        settings, waited = self.settings, time.monotonic() - self._heard_at
        if self.candidate < 0 or waited <= settings.trial_patience_s:
            return None
        done = f"{len(self._trial)} of {settings.trial_episodes} episodes"
        failed = self._fail(f"{settings.trial_edge} did {done} of its trial, and none for {waited:.0f} s")
        return replace(failed, judged=False)

    def pause(self) -> None:
        """Nobody can go on with a trial now; its patience begins anew."""
        self._heard_at = time.monotonic()

    def settle(self, version: int) -> Decision:
        """These weights are approved."""
        if len(self._watch) == self.settings.watch_episodes:
            self._before = float(np.mean(self._watch))
        self._watch.clear()
        self.approved, self.candidate, self.first = version, -1, False
        return self._decide(version, "approved")

    def _fail(self, why: str) -> Decision:
        failed, self.candidate = self.candidate, -1
        return Decision(failed, "rejected", why, dict(self._figures), tried=True)

    def _decide(self, version: int, step: Step, why: str = "") -> Decision:
        return Decision(version, step, why, dict(self._figures))

    def _wrong_with(self, policy: Policy) -> tuple[str, bool]:
        """What keeps it from an arm, "" if nothing: numbers that are not finite, actions beyond the arm's limits. And
        whether its numbers are finite.
        """
        for name, tensor in policy.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                return f"{name} holds a number that is not finite", False
        if not self.settings.observations:
            return "", True
        outside = total = looked_at = 0
        for embodiment, rows in self._seen.items():
            if not rows:
                continue
            seen = {key: np.stack([row[key] for row, _ in rows]) for key in rows[0][0]}
            noise, words = policy.noise(len(rows), self._rng), [words for _, words in rows]
            parts = [slice(first, first + _AT_ONCE) for first in range(0, len(rows), _AT_ONCE)]
            actions = np.concatenate(
                [
                    ask(
                        policy, self._inputs, embodiment, {key: value[part] for key, value in seen.items()},
                        words[part], noise[part], False,
                    )[0]
                    for part in parts
                ]
            )  # fmt: skip
            if not np.isfinite(actions).all():
                return f"its chunks for {embodiment} hold numbers that are not finite", False
            low, high = self._limits[embodiment]
            outside += int(((actions < low - _TOLERANCE) | (actions > high + _TOLERANCE)).sum())
            total += actions.size
            looked_at += len(rows)
        self._figures |= {"observations": looked_at, "outside": outside / max(1, total)}
        if outside > self.settings.max_outside * total:
            most = self.settings.max_outside
            return f"{outside / total:.1%} of its actions are beyond the arm's limits, {most:.1%} may be", True
        return "", True
