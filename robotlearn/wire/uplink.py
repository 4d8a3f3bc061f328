"""The edge's end of the data: what the spool holds goes out, answers and grants come in."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from robotlearn.buffer.order import Key
from robotlearn.buffer.spool import Spool
from robotlearn.errors import WireError
from robotlearn.wire import record
from robotlearn.wire.allowance import Allowance
from robotlearn.wire.connection import Connection
from robotlearn.wire.door import Credentials
from robotlearn.wire.messages import Ack, Grant, Hello, Message, Reject, Status, Want, Welcome
from robotlearn.wire.sockets import Limits

_STATUS_S = 0.5
_MANY = 1 << 16
_EXPIRE_S = 5.0
_ZERO_COPY = 64 << 10


class Uplink(Connection):
    """Sends what a spool holds until the learner has answered for it; asks for leave to start episodes.

    Records go out once they are durable, within the learner's window of unanswered bytes and `max_bytes_per_s`; on each
    new connection all that is pending goes out again, and the learner knows what it has. While there is no learner, or
    a slow one, the spool grows and nobody waits. The public methods may be called from any thread and never block for
    the network.

    Episodes: `want` says how many could start; `take_grants` hands out the leave to; a taken grant counts as running
    until the segment that ends the episode is recorded in the spool, or until `episode_aborted`.
    """

    role = "data"
    pace_s = 0.004  # one sync, one send and one answer serve many records

    def __init__(
        self,
        address: str,
        spool: Spool,
        *,
        edge: str,
        contract: Mapping[str, Any],
        keys: Credentials | None = None,
        limits: Limits | None = None,
        answer_timeout_s: float = 30.0,
        max_bytes_per_s: float = math.inf,
    ) -> None:
        """`answer_timeout_s`: what the learner hasn't answered by then is sent again. Raises AddressError."""
        super().__init__(address, contract, limits or Limits(messages=4096), keys)
        self.edge = edge
        self.spool = spool
        self.resent = 0  # records sent again because the answer to a later one came first, or none came
        self.too_large = 0  # records beyond the learner's limit, rejected on this side
        self._answer_timeout = answer_timeout_s
        self._in_flight: dict[Key, tuple[int, float, int]] = {}  # bytes, when, the how-manieth
        self._in_flight_bytes = 0
        self._allowance = Allowance(max_bytes_per_s)
        self._sent = 0
        self._sent_bytes = 0
        self._status_at = 0.0
        self._expired_at = 0.0
        self._rate_at, self._rate_bytes, self._rate_records = time.monotonic(), 0, 0
        self._lock = threading.Lock()  # of the episodes' bookkeeping below
        self._wanted = 0
        self._untaken = 0
        self._grant_version = -1
        self._started = 0
        self._aborted = 0
        self._received = 0  # grants, since HELLO
        self._aborted_before = 0  # at HELLO
        self._told_want: tuple[int, int] | None = None
        self._report: dict[str, Any] = {"version": -1, "state": "", "waits_for": "", "rates": {}, "counts": {}}

    def start(self) -> None:
        """Start the thread, which dials at once."""
        self.spool.recorded = self._wakeup.set
        super().start()

    def close(self) -> None:
        """Stop the thread and wait for it; the spool stays open, it is its owner's. Idempotent."""
        self.spool.recorded = None
        super().close()

    # ---- episodes

    def want(self, episodes: int) -> None:
        """So many episodes could start now, beyond the grants that were taken already.

        What was granted beyond it and not taken goes back to the learner, for others.
        """
        with self._lock:
            surplus = self._untaken - episodes
            if surplus > 0:
                self._give_back(surplus)
            changed = surplus > 0 or episodes != self._wanted
            self._wanted = episodes
        if changed:
            self._wakeup.set()

    def take_grants(self, limit: int | None = None) -> tuple[int, int]:
        """(how many episodes may start now, with weights of at least this version); (0, -1) when none may.

        They count as running from now on.
        """
        with self._lock:
            count = self._untaken if limit is None else min(limit, self._untaken)
            self._untaken -= count
            self._wanted = max(0, self._wanted - count)
            self._started += count
            return (count, self._grant_version) if count else (0, -1)

    def episode_started(self, episodes: int = 1) -> None:
        """Episodes started without a grant, because the learner can't be reached."""
        with self._lock:
            self._started += episodes

    def episode_aborted(self, episodes: int = 1) -> None:
        """Episodes (or taken grants) ended without a recorded last segment. Those with one are counted by the spool."""
        with self._lock:
            self._aborted += episodes
            self._status_at = 0.0
        self._wakeup.set()

    @property
    def running(self) -> int:
        """Episodes started and not ended."""
        return max(0, self._started - self.spool.lasts - self._aborted)

    def _give_back(self, grants: int) -> None:
        self._untaken -= grants
        # As if they had started and ended at once.
        self._started += grants
        self._aborted += grants
        self._status_at = 0.0  # tell it now

    # ---- what is shown

    def report(
        self,
        *,
        version: int,
        state: str = "",
        waits_for: str = "",
        rates: Mapping[str, float] | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """What the next STATUS says of this edge beside the counts of its spool."""
        self._report = {
            "version": version, "state": state, "waits_for": waits_for, "rates": dict(rates or {}),
            "counts": dict(counts or {}),
        }  # fmt: skip

    def stats(self) -> dict[str, int]:
        """Counters: the spool's accounts, and what went over the wire since the start."""
        return {
            **asdict(self.spool.counts()),
            "sent": self._sent,
            "sent_bytes": self._sent_bytes,
            "in_flight": len(self._in_flight),
            "resent": self.resent,
            "too_large": self.too_large,
            "corrupt": self.spool.corrupt,
            "bad_frames": self.bad_frames,
            "connections": self.connections,
            "disconnects": self.disconnects,
        }

    # ---- on the thread

    def _hello(self) -> Hello:
        with self._lock:
            sequence, lasts = self.spool.head()
            running = max(0, self._started - lasts - self._aborted) + self._untaken
            self._received, self._aborted_before, self._told_want = 0, self._aborted, None
        return Hello(record.SCHEMA, self.edge, self.spool.session, self.role, self.contract, running, sequence)

    def _on_welcome(self, welcome: Welcome) -> None:
        self._forget_in_flight()
        self.spool.take_again()
        self._status_at = 0.0

    def _on_lost(self) -> None:
        self._forget_in_flight()

    def _forget_in_flight(self) -> None:
        self._in_flight.clear()
        self._in_flight_bytes = 0

    def _work_offline(self, now: float) -> float:
        self.spool.sync()
        self._expire(now)
        return 0.25

    def _work(self, now: float) -> float:
        self._tell_want()
        self.spool.sync()
        self._fill_window(now)
        if now - self._status_at >= _STATUS_S:
            self._status_at = now
            self._told_want = None  # told anew: a grant may have been lost
            self._send(self._status(now))
            self._resend_unanswered(now)
        self._expire(now)
        return min(self._status_at + _STATUS_S - now, self._allowance.due(now))

    def _expire(self, now: float) -> None:
        if now - self._expired_at >= _EXPIRE_S:
            self._expired_at = now
            self.spool.expire()

    def _tell_want(self) -> None:
        with self._lock:
            want = (max(0, self._wanted - self._untaken), self._received)
        if want != self._told_want and self._send(Want(*want)):
            self._told_want = want

    def _fill_window(self, now: float) -> None:
        welcome = self.welcome
        while welcome is not None:
            room = min(welcome.window_bytes - self._in_flight_bytes, self._allowance.left(now))
            taken = self.spool.take(math.ceil(room)) if room > 0 else []
            if not taken:
                return
            for index, out in enumerate(taken):
                size = len(out.record)
                if size > welcome.max_frame_bytes:
                    self.too_large += 1
                    self.spool.reject(
                        out.session,
                        out.sequence,
                        f"record of {size} bytes, the learner takes at most {welcome.max_frame_bytes}",
                    )
                    continue
                if not self._send_frame(out.record, copy=size < _ZERO_COPY):
                    self.spool.take_again([(o.session, o.sequence) for o in taken[index:]])
                    return
                self._in_flight[out.session, out.sequence] = (size, now, self._sent)
                self._in_flight_bytes += size
                self._allowance.spend(size)
                self._sent += 1
                self._sent_bytes += size

    def _on_message(self, message: Message, payload: memoryview) -> None:
        match message:
            case Ack():
                self._on_ack(message)
            case Reject():
                self._answered((message.session, message.sequence))
                self.spool.reject(message.session, message.sequence, message.reason)
            case Grant():
                with self._lock:
                    if self._received + message.count >= 2**62:
                        raise WireError("GRANT of more episodes than anybody can count")
                    self._received += message.count
                    self._untaken += message.count
                    self._grant_version = message.version
                    if self._untaken > self._wanted:  # it wants fewer by now
                        self._give_back(self._untaken - self._wanted)
            case _:
                raise WireError(f"{type(message).__name__} on the data connection")

    def _on_ack(self, ack: Ack) -> None:
        newest, flying = -1, self._in_flight
        if sum(min(count, len(flying)) for _, _, count in ack.ranges) > 64 * len(flying) + _MANY:
            raise WireError("ACK says the same again and again")  # looking it all up would take minutes
        for session, first, count in ack.ranges:
            if count > len(self._in_flight):  # some of it we don't wait for any more
                keys = [key for key in self._in_flight if key[0] == session and first <= key[1] < first + count]
            else:
                keys = [(session, sequence) for sequence in range(first, first + count)]
            for key in keys:
                flight = flying.pop(key, None)
                if flight is not None:
                    self._in_flight_bytes -= flight[0]
                    if flight[2] > newest:
                        newest = flight[2]
        self.spool.acknowledge(ack.ranges)
        # Answers come in the order of sending: what is passed over was lost on the way.
        lost = []
        for key, (_, _, order) in self._in_flight.items():
            if order > newest:
                break
            lost.append(key)
        self._send_again(lost)

    def _answered(self, key: Key) -> None:
        """Take a record out of flight."""
        flight = self._in_flight.pop(key, None)
        if flight is not None:
            self._in_flight_bytes -= flight[0]

    def _resend_unanswered(self, now: float) -> None:
        self._send_again([key for key, (_, sent, _) in self._in_flight.items() if now - sent > self._answer_timeout])

    def _send_again(self, keys: list[Key]) -> None:
        for key in keys:
            self._answered(key)
        if keys:
            self.resent += len(keys)
            self.spool.take_again(keys)

    def _status(self, now: float) -> Status:
        elapsed = max(1e-3, now - self._rate_at)
        rates = {
            "sent_records": (self._sent - self._rate_records) / elapsed,
            "sent_bytes": (self._sent_bytes - self._rate_bytes) / elapsed,
        }
        self._rate_at, self._rate_records, self._rate_bytes = now, self._sent, self._sent_bytes
        with self._lock:
            aborted = self._aborted - self._aborted_before + self.spool.lost_lasts
        report = self._report
        return Status(
            report["version"],
            report["state"],
            report["waits_for"],
            asdict(self.spool.counts()) | report["counts"],
            rates | report["rates"],
            aborted,
            self.spool.floors(),
        )
