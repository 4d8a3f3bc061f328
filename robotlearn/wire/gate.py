"""Holds the staleness bound where data begin: it decides when an edge may start another episode."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import NamedTuple

from robotlearn.errors import ConfigError


class Grants(NamedTuple):
    """This many episodes may start at that edge, with weights of at least `version`."""

    edge: str
    session: int
    episodes: int
    version: int


class _Edge:
    __slots__ = ("running", "session", "wanted")

    def __init__(self, session: int) -> None:
        self.session = session
        self.wanted = 0
        self.running = 0


class StalenessGate:
    """Grants an episode while pending + running < (max_staleness + 1) * B, B being the episodes of one update.

    The rule of AReaL (arXiv:2505.24298) reads: accepted + running < (max_staleness + version + 1) * B, where `accepted`
    counts every episode ever taken into the buffer and one version is one update of B episodes. An update consumes B
    episodes, so version * B of the accepted ones are consumed and pending = accepted - version * B is what waits:
    subtracting version * B on both sides gives the rule above, which needs no absolute count. So nothing but `pending`
    has to be restored with a checkpoint, and a version that was published without consuming does no harm.

    Why the bound follows: when an episode is granted at version v, at most (max_staleness + 1) * B episodes, itself
    included, are pending or running. Taken in the order of their grants they fill max_staleness + 1 updates, so it is
    used at the latest by the update that makes version v + max_staleness + 1, whose weights are v + max_staleness. An
    episode that is overtaken by ones granted later can be older when its turn comes: the buffer skips it then, and says
    so with `skipped`. Edges swap weights between chunks, which only makes data fresher than their grant.

    With max_staleness = inf the bound is `max_pending`, so that nothing grows without limit.

    Where episodes belong together in a group (see `Group`), so many of them are granted together or none: parts of a
    group in the hands of several edges, which nobody can begin, would keep the gate shut for ever.

    Nobody starves: what is skipped as stale leaves `pending`, what a dead edge was running is `freed`, and grants go
    round-robin, one at a time. Any thread may call anything; `changed` (if given) is called, without the lock, when a
    `poll` may grant what the last one could not.
    """

    def __init__(
        self,
        episodes_per_update: int,
        max_staleness: float,
        *,
        max_pending: int | None = None,
        group: int = 1,
        changed: Callable[[], None] | None = None,
    ) -> None:
        """Raises ConfigError for bounds that would never let an update happen."""
        if episodes_per_update < 1:
            raise ConfigError(f"the gate needs at least one episode per update, not {episodes_per_update}")
        if not (max_staleness == math.inf or (max_staleness >= 0 and max_staleness == int(max_staleness))):
            raise ConfigError(f"max_staleness is {max_staleness}, expected a whole number of at least 0, or inf")
        bound = math.inf if max_staleness == math.inf else (int(max_staleness) + 1) * episodes_per_update
        if max_pending is not None:
            bound = min(bound, max_pending)
        if bound == math.inf:
            raise ConfigError("with max_staleness = inf the gate needs a max_pending, else the buffer has no bound")
        if group < 1 or bound % group:
            raise ConfigError(
                f"the gate lets {bound} episodes run, which is not a number of whole groups of {group}: the rest could "
                "never begin"
            )
        if bound < episodes_per_update:
            raise ConfigError(
                f"max_pending is {max_pending}, fewer than the {episodes_per_update} episodes of an update: "
                "no update would ever happen"
            )
        self.episodes_per_update = episodes_per_update
        self.max_staleness = max_staleness
        self.bound, self.group = int(bound), group
        self.changed = changed
        self._lock = threading.Lock()
        self._edges: dict[str, _Edge] = {}
        self._pending = self._owed = 0

    # ---- what edges want and do (called by the learner's server)

    def want(self, edge: str, session: int, episodes: int) -> None:
        """The edge could start this many episodes now; replaces what it wanted before. Ignored for an old session."""
        with self._lock:
            known = self._edges.get(edge)
            if known is not None and known.session == session:
                known.wanted = max(0, episodes)
        self._notify()

    def running(self, edge: str, session: int, episodes: int) -> None:
        """The edge says at its (re)connection how many episodes it runs or was granted; replaces all known of it."""
        with self._lock:
            known = self._edges[edge] = _Edge(session)
            known.running = max(0, episodes)
        self._notify()

    def ended(self, edge: str, session: int, episodes: int = 1) -> None:
        """Episodes that it was running have ended (or never started); see `accepted`. Ignored for an old session."""
        with self._lock:
            known = self._edges.get(edge)
            if known is not None and known.session == session:
                known.running = max(0, known.running - episodes)
        self._notify()

    def freed(self, edge: str) -> int:
        """The edge is gone: what it was running doesn't count any more. Returns how many that were."""
        with self._lock:
            known = self._edges.pop(edge, None)
        self._notify()
        return known.running if known is not None else 0

    def poll(self, version: int) -> list[Grants]:
        """Grant what may be granted now, round-robin among the edges that want; granted episodes count as running."""
        granted: dict[str, int] = {}
        with self._lock:
            free = self.bound - self._owed - max(0, self._pending) - sum(edge.running for edge in self._edges.values())
            free //= self.group
            wanting = [name for name, edge in self._edges.items() if edge.wanted >= self.group]
            while free > 0 and wanting:
                # Whole rounds at once where they fit, else group by group.
                least = min(self._edges[name].wanted for name in wanting) // self.group
                share = max(1, min(free // len(wanting), least))
                for name in wanting[:free]:
                    edge = self._edges[name]
                    edge.wanted -= share * self.group
                    edge.running += share * self.group
                    free -= share
                    granted[name] = granted.get(name, 0) + share * self.group
                    # Who was served last comes last in the next poll.
                    self._edges[name] = self._edges.pop(name)
                wanting = [name for name in wanting if self._edges[name].wanted >= self.group]
            return [Grants(name, self._edges[name].session, count, version) for name, count in granted.items()]

    # ---- what the learner does with them (called by its training loop and intake)

    def accepted(self, episodes: int = 1) -> None:
        """Whole episodes came into the buffer and wait to be used."""
        with self._lock:
            self._pending += episodes

    def consumed(self, episodes: int) -> None:
        """An update used these."""
        self._leave(episodes)

    def skipped(self, episodes: int) -> None:
        """These will never be used: too stale at sampling, or dropped; stored all the same."""
        self._leave(episodes)

    def pace(self, bound: int, owed: int) -> None:
        """From now on at most `bound` episodes may be pending or run, `owed` of them taken up already: by a learner
        that draws from all that is stored, and hasn't learnt as much yet as it should from what there is.
        """
        with self._lock:
            changed, self.bound, self._owed = (bound, owed) != (self.bound, self._owed), bound, owed
        if changed:
            self._notify()

    def restore(self, pending: int) -> None:
        """Set what waits, after a restart: what the buffer holds unused. What runs, the edges tell when they come."""
        with self._lock:
            self._pending = max(0, pending)
        self._notify()

    # ---- what is shown

    @property
    def pending(self) -> int:
        """Episodes that wait to be used."""
        return max(0, self._pending)

    @property
    def outstanding(self) -> int:
        """Pending and running ones together; new grants need this below `bound`."""
        with self._lock:
            return max(0, self._pending) + sum(edge.running for edge in self._edges.values())

    def running_at(self, edge: str) -> int:
        """Episodes that run at that edge, or are granted to it."""
        known = self._edges.get(edge)
        return known.running if known is not None else 0

    def knows(self, edge: str) -> bool:
        """Whether the edge has said what it runs, and is not gone."""
        return edge in self._edges

    def wanted_by(self, edge: str) -> int:
        """Episodes that the edge waits for."""
        known = self._edges.get(edge)
        return known.wanted if known is not None else 0

    def _leave(self, episodes: int) -> None:
        with self._lock:
            self._pending -= episodes
        self._notify()

    def _notify(self) -> None:
        if self.changed is not None:
            self.changed()
