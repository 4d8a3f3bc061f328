"""Which weights each edge is served: the newest, approved ones, or older ones again when a person says so."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Container, Sequence
from typing import Any

from policies.base import Policy
from robotlearn import checkpoint
from robotlearn.config.config import Config
from robotlearn.config.edge import PacedEdgeConfig
from robotlearn.errors import CheckpointError, RunFolderError
from robotlearn.evaluation import Evaluation
from robotlearn.learner.approval import Approval, Decision
from robotlearn.learner.host_copies import HostCopies
from robotlearn.learner.orders import Order, Orders
from robotlearn.policy import constants, parameters, to_arrays, views
from robotlearn.replay.finished import Finished
from robotlearn.run_folder import RunFolder
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.segment import Segment

log = logging.getLogger(__name__)
_SHOW_S = 1.0


def approving(config: Config) -> tuple[str, ...]:
    """Names of the edges that have approved weights only."""
    settings = config.learner.approval
    if settings is None:
        return ()
    paced = tuple(edge.name for edge in config.edges if isinstance(edge, PacedEdgeConfig))
    return paced if settings.edges is None else settings.edges


class Serving:
    """Publishes the learner's weights, each set once under one version, and says who may have them.

    An edge's versions only grow: weights that are served again get a version of their own. Used by the learner's
    thread.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        publisher: Publisher,
        policy: Policy,
        approval: Approval | None,
        *,
        next_version: Callable[[], int],
        save: Callable[[], None],
        restore: Callable[[int], None],
        rehearse: Callable[[int], Evaluation],
    ) -> None:
        """`next_version` gives the next one; `save` writes a checkpoint of the weights that it was given last for, if
        there is none; `restore` takes policy and optimiser back to a checkpoint.
        """
        self._folder, self._publisher, self._policy, self._approval = folder, publisher, policy, approval
        self._next_version, self._save, self._restore, self._rehearse = next_version, save, restore, rehearse
        self._bfloat16 = config.learner.weights_dtype == "bfloat16"
        self._held = approving(config)
        self._all_held = set(self._held) >= {edge.name for edge in config.edges}
        device = policy.device
        self._copies = HostCopies(device) if device.type == "cuda" else None
        self._max_staleness = config.learner.max_staleness
        self._orders = Orders(folder)
        self._checkpoint = -1  # of the approved weights
        self._checkpoint_before = -1  # of those approved before them
        self._pinned = self._going_back = -1
        self.weights = -1
        """The version under which the policy's weights, as they are, were or will be published."""
        self._shown: dict[str, int] = {}
        self._shown_at = 0.0
        if self._held:
            publisher.hold(self._held, None)

    @property
    def needed(self) -> set[int]:
        """Checkpoints that must stay."""
        candidate = self._approval.candidate if self._approval is not None else -1
        return {self._checkpoint, self._checkpoint_before, self._pinned, self._going_back, candidate} - {-1}

    @property
    def pinned(self) -> int | None:
        """The version whose weights every edge has, because a person said so; None: nothing is pinned."""
        return None if self._pinned < 0 else self._pinned

    def awaits_approval(self, edge: str) -> bool:
        """Whether that edge rests because no weights have been approved yet."""
        return edge in self._held and self._checkpoint < 0

    def resume(self, version: int) -> None:
        """Before the first `publish` of a run that goes on from the checkpoint `version`: end what a crash cut short,
        serve again what was approved, and what was pinned.
        """
        rows = self._orders.decisions()
        back = next((row for row in reversed(rows) if row["decision"] == "rolled back"), None)
        if back is not None and back["version"] > version:
            log.warning("version %d was decided to be served again when the learner ended: it is now", back["of"])
            try:
                self._restore(back["of"])
            except CheckpointError as error:
                log.error("the run was to go back to version %d, and goes on from %d: %s", back["of"], version, error)
        if self._approval is not None:
            self._approve_again(self._approval, rows)
        if (pinned := self._orders.pinned) is not None:
            try:
                self._pin(pinned, "the learner came again")
            except CheckpointError as error:
                log.error("version %d was pinned, and is no longer: %s", pinned, error)
                self._pinned, self._orders.pinned = -1, None

    def _approve_again(self, approval: Approval, rows: list[dict[str, Any]]) -> None:
        """Serve what was approved last, of what there is a whole checkpoint of; never what a roll back left."""
        newest_good = math.inf
        for row in reversed(rows):
            if row["decision"] not in ("approved", "rolled back"):
                continue
            approval.first = False
            # Of weights that were served again there is a checkpoint under their first version only.
            numbers = [row["of"]] if row["decision"] == "approved" else [row["version"], row["of"]]
            for number in (number for number in numbers if number <= newest_good):
                try:
                    self._serve_again(number, "the learner came again")
                except CheckpointError as error:
                    log.error("version %d was approved and can't be served again: %s", number, error)
                else:
                    self._checkpoint = number
                    return
            if row["decision"] == "rolled back":
                newest_good = min(newest_good, row["of"])

    def publish(self, version: int) -> None:
        """The policy as it is becomes the newest weights."""
        self.weights = version
        marks, rounded = constants(self._policy), self._rounded()
        copies = self._copies
        if copies is None:
            self._publisher.publish(version, to_arrays(self._policy), constant=marks, rounded=rounded)
            return
        self._publisher.settle()  # it reads the former copies no more
        here = views(copies.take(self._policy.state_dict(), marks))
        self._publisher.publish(version, here, constant=marks, rounded=rounded, ready=copies.wait)

    def settle(self) -> None:
        """Before the weights change: what was published last is copied, or will be before they do."""
        if self._copies is not None:
            self._copies.settle()
        else:
            self._publisher.settle()

    def offer(self, version: int) -> None:
        """Have what was published last approved, if it is to be. Raises RunFolderError when the first weights are not
        and nobody may collect episodes.
        """
        if self._approval is not None:
            self._act(self._approval.offer(version, self._policy, self._rehearse, due=self._due(version)))

    def hear(self, segment: Segment, completed: Sequence[Finished]) -> None:
        """A segment was stored, which completed these episodes."""
        if self._approval is None:
            return
        self._approval.remember(segment)
        for one in completed:
            # One that was begun with other weights says nothing certain of those that it ended with.
            versions = set(one.versions.tolist())
            if one.edge in self._held and len(versions) == 1:
                self._act(self._approval.heard(one.edge, versions.pop(), one.success))

    def look(self, versions: dict[str, int]) -> None:
        """Do what is due: end a trial that nobody goes on with, obey a person, show the version that each edge has."""
        if self._approval is not None and self.pinned is not None:
            self._approval.pause()  # an edge has nothing to try
        elif self._approval is not None:
            self._act(self._approval.overdue())
        order = self._orders.waiting()
        if order is not None:
            self._obey(order)
        if versions != self._shown and time.monotonic() - self._shown_at > _SHOW_S:
            self._orders.served = self._shown = versions
            self._shown_at = time.monotonic()

    def _obey(self, order: Order) -> None:
        try:
            if self._orders.outcome(order.id) is None:  # else a crash came after it was done
                self._do(order)
        except Exception as error:
            if self._orders.outcome(order.id) is None:
                self._orders.note(order.version, order.version, "refused", str(error), order=order.id)
            if not isinstance(error, CheckpointError | OSError):
                raise
        finally:
            self._orders.done()

    def close(self) -> None:
        """Nothing is decided any more."""
        self._orders.close()

    def _do(self, order: Order) -> None:
        if order.what == "unpin":
            if (version := self._orders.pinned) is None:
                raise CheckpointError("nothing is pinned")
            self._unpin(version, order.id)
        elif order.what == "pin":
            self._pin(order.version, "by a person", order.id)
            self.publish(self._next_version())
        else:
            self._go_back(order.version, "by a person", order.id)

    def _due(self, version: int) -> bool:
        """Whether all that edges collect with what is approved is too old for the weights `version`."""
        approval = self._approval
        return approval is not None and self._all_held and version - approval.approved > self._max_staleness

    def _act(self, decision: Decision | None) -> None:
        if decision is None:
            return
        try:
            self._do_what_was_decided(decision)
        except CheckpointError as error:
            log.error("version %d: %s, and there is nothing to go back to: %s", decision.version, decision.step, error)

    def _do_what_was_decided(self, decision: Decision) -> None:
        version, settings = decision.version, self._approval.settings if self._approval is not None else None
        if decision.step == "trial" and settings is not None and settings.trial_edge is not None:
            self._keep(version)
            self._publisher.hold([settings.trial_edge], version)
            self._note(decision)
        elif decision.step == "approved":
            if self._keep(version):
                self._checkpoint_before, self._checkpoint = self._checkpoint, version
            self._publisher.hold(self._held, version)
            self._note(decision)
            newest = self._publisher.version
            if decision.tried and self._due(newest):
                self.offer(newest)  # it came while the trial went on, and there won't be a newer one
        elif decision.step == "rejected":
            self._note(decision)
            stuck = self._all_held and (decision.judged or self._due(self._publisher.version))
            if self._checkpoint >= 0 and (stuck or not decision.finite):
                self._go_back(self._checkpoint, f"version {version} is rejected, and nobody else collects")
            elif decision.tried and settings is not None and settings.trial_edge is not None:
                self._publisher.hold([settings.trial_edge], None)  # it rests, if there is nothing else to serve
                if self._checkpoint >= 0:
                    self._serve_again(self._checkpoint, f"the trial of version {version} failed")
                    self.publish(self._next_version())
            elif self._checkpoint < 0 and self._all_held:
                raise RunFolderError(
                    f"the first weights are rejected ({decision.why}), and no edge may collect episodes without: more "
                    "or better demonstrations, or a lower learner.approval"
                )
        else:
            self._note(decision)
            if self._checkpoint_before >= 0:
                self._publisher.hold(self._held, None)  # as above
                self._go_back(self._checkpoint_before, decision.why)

    def _go_back(self, version: int, why: str, order: str = "") -> None:
        """Policy and optimiser as they were at `version`, under a new one, for all edges."""
        self._going_back = version  # until there is a checkpoint of the new one
        try:
            self._restore(version)
            number = self._next_version()
            # First: after a crash in what follows, `resume` ends it.
            self._orders.note(number, version, "rolled back", why, **_order(order))
            self.publish(number)
            kept = number if self._keep(number) else version
        finally:
            self._going_back = -1
        if self._approval is not None:
            self._approval.settle(number)
            self._publisher.hold(self._held, number)
            self._checkpoint = kept

    def _serve_again(self, version: int, why: str) -> None:
        """The edges that need approval have the weights of `version` under a new one; training goes on as it was."""
        number = self._publish_again(version)
        self._publisher.hold(self._held, number)
        if self._approval is not None:
            self._approval.settle(number)
        self._orders.note(number, version, "approved", why)

    def _pin(self, version: int, why: str, order: str = "") -> None:
        number = self._publish_again(version)
        self._publisher.pin(number)
        self._pinned = self._orders.pinned = version
        self._orders.note(number, version, "pinned", why, **_order(order))

    def _unpin(self, version: int, order: str) -> None:
        # What was approved is older than what the edges were pinned to, and their versions only grow.
        again = self._pinned >= 0 and self._checkpoint >= 0
        if again:
            self._serve_again(self._checkpoint, "the pin is gone")
        self._publisher.pin(None)
        self._pinned, self._orders.pinned = -1, None
        self._orders.note(version, version, "unpinned", "by a person", order=order)
        if again:
            self.publish(self._next_version())
            self.offer(self._publisher.version)

    def _publish_again(self, version: int) -> int:
        saved = checkpoint.load(checkpoint.place(self._folder.checkpoints, version))
        number = self._next_version()
        marks = dict.fromkeys(constants(self._policy), version)
        self._publisher.publish(number, views(saved.policy), constant=marks, rounded=self._rounded())
        self._publisher.settle()
        return number

    def _rounded(self) -> Container[str]:
        return parameters(self._policy) if self._bfloat16 else ()

    def _keep(self, version: int) -> bool:
        """Have a checkpoint of weights that were published last, or before a trial; whether there is one."""
        try:
            if not self._has(version) and version == self.weights:
                self._save()
        except CheckpointError as error:
            log.error("%s; the run can't go back to version %d", error, version)
        return self._has(version)

    def _has(self, version: int) -> bool:
        return checkpoint.exists(self._folder.checkpoints, version)

    def _note(self, decision: Decision) -> None:
        self._orders.note(decision.version, decision.version, decision.step, decision.why, **decision.figures)


def _order(number: str) -> dict[str, str]:
    return {"order": number} if number else {}
