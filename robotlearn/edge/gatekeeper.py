"""Between what an edge could start and what it may: grants of the learner, or its own allowance while it is cut off."""

import logging
import time

from robotlearn.buffer.spool import Spool, SpoolFull
from robotlearn.edge.traffic import Traffic
from robotlearn.wire.segment import Segment
from robotlearn.wire.uplink import Uplink

log = logging.getLogger(__name__)


class Gatekeeper:
    """Counts the episodes of one edge against the learner's gate. Used by one thread, `record` perhaps by another one.

    A grant carries the version that its episodes need at least. While the learner can't be reached, `offline_episodes`
    may start with the newest weights there are; the allowance is new after each connection.
    """

    def __init__(self, uplink: Uplink, spool: Spool, offline_episodes: int) -> None:
        self._uplink, self._spool = uplink, spool
        self._offline_episodes = self._offline_left = offline_episodes
        self._granted = 0
        self.needs = -1
        """The version that the grants in hand wait for."""
        self.traffic = Traffic()
        self._refusing = 0  # segments that the spool had no room for, since it had some

    def may_start(self, idle: int, version: int) -> int:
        """How many of `idle` arms may start an episode now with weights `version` (-1: none yet, so none may)."""
        self._uplink.want(idle)
        count, needs = self._uplink.take_grants(max(0, idle - self._granted))
        if count:
            self._granted += count
            # That of the newest grant: never lower, but where another run's learner took over, which counts from 0.
            self.needs = needs
        if version < 0:
            return 0
        connected = self._uplink.state == "connected"
        if connected:
            self._offline_left = self._offline_episodes
        if self._granted and (version >= self.needs or not connected):
            # Cut off with grants in hand whose version will not come: better old weights than an idle robot.
            starting, self._granted = min(self._granted, idle), 0
            return starting
        if not connected and not self._granted:
            starting = min(idle, self._offline_left)
            self._offline_left -= starting
            self._uplink.episode_started(starting)
            return starting
        return 0

    def record(self, segments: list[Segment]) -> None:
        """Put segments into the spool; without room they are refused, counted, and their episodes count as aborted."""
        before = self._spool.recorded_bytes
        try:
            self._spool.record_many(segments)
        except SpoolFull as error:
            if not self._refusing:
                log.error("recording stops while there is no room, the arms go on: %s", error)
            self._refusing += len(segments)
            self._uplink.episode_aborted(sum(segment.last for segment in segments))
        else:
            self.traffic.add(self._spool.recorded_bytes - before, sum(segment.nbytes for segment in segments))
            if self._refusing:
                log.warning("recording goes on; %d segments were refused meanwhile", self._refusing)
                self._refusing = 0

    @property
    def state(self) -> str:
        """What an edge says of itself before all else: that it can't record, if so; else nothing."""
        return f"NOT RECORDING ({self._spool.full}); " if self._refusing else ""

    def waits_for(self, version: int) -> str:
        """For whom an idle edge waits, in words."""
        if self._uplink.state != "connected":
            return f"learner {self._uplink.address} ({self._uplink.state}, last seen {self._uplink.seen})"
        if version < 0:
            return "the learner's first weights"
        if self._granted and self.needs > version:
            return f"weights of version {self.needs}"
        return "the learner's gate (max_staleness)"

    def flush(self, patience_s: float) -> None:
        """Wait until the learner has answered for everything recorded, `patience_s` at most, if it can be reached."""
        deadline = time.monotonic() + patience_s
        while self._uplink.state == "connected" and self._spool.pending and time.monotonic() < deadline:
            time.sleep(0.01)
