"""`Leases`: who may command a robot now. Kept by the one process that can write to it."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from hal.errors import LeaseError
from hal.runtime import write_json


@dataclass(frozen=True)
class Lease:
    """The right of `holder` to command one robot, as long as it is renewed within every `ttl` seconds.

    token  larger than that of any lease of this robot before: a command that carries an older one is refused
           (a fencing token; M. Kleppmann, "How to do distributed locking", 2016)
    """

    holder: str
    token: int
    ttl: float


class Leases:
    """The leases of one robot, one at a time. All methods may be called from any thread.

    file: where the last token is kept, so that a restarted process grants none twice; where the file is lost too, the
    wall clock's milliseconds are what the next token is at least.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._expires = -math.inf
        try:
            self._last = int(file.read_text())
        except (OSError, ValueError):
            self._last = 0
        self.refused = 0
        """Commands that came with an old token, or with none."""

    @property
    def holder(self) -> str | None:
        """Who has it now."""
        with self._lock:
            return self._lease.holder if self._lease is not None and time.monotonic() < self._expires else None

    def acquire(self, holder: str, ttl: float, *, take: bool = False) -> Lease:
        """A new lease. take: even if another one has it, whose commands are refused from now on.

        Raises LeaseError when another holder's is in force, or for a ttl that isn't between 0.1 and 60 s.
        """
        if not 0.1 <= ttl <= 60:
            raise LeaseError(f"a lease of {ttl} s: it must be between 0.1 and 60 s")
        with self._lock:
            now = time.monotonic()
            if not take and self._lease is not None and now < self._expires:
                raise LeaseError(
                    f"{self._lease.holder} has the lease, for {self._expires - now:.1f} s more if it doesn't renew it"
                )
            token = max(self._last + 1, int(1000 * time.time()))
            write_json(self._file, token)
            self._last = token
            self._lease, self._expires = Lease(holder, token, ttl), now + ttl
            return self._lease

    def renew(self, token: int) -> None:
        """Raises LeaseError when that lease is over."""
        with self._lock:
            self._check(token)
            assert self._lease is not None
            self._expires = time.monotonic() + self._lease.ttl

    def release(self, token: int) -> None:
        """Gives it back; one that is over already stays so."""
        with self._lock:
            if self._lease is not None and self._lease.token == token:
                self._lease = None

    def valid(self, token: int | None) -> bool:
        """Whether a command with this token may be followed."""
        with self._lock:
            return self._lease is not None and self._lease.token == token and time.monotonic() < self._expires

    def check(self, token: int | None) -> None:
        """As `valid`; raises LeaseError that says why not, and counts it."""
        with self._lock:
            try:
                self._check(token)
            except LeaseError:
                self.refused += 1
                raise

    def _check(self, token: int | None) -> None:
        if self._lease is None or self._lease.token != token:
            now = f"{self._lease.holder} has it" if self._lease is not None else "nobody has it"
            raise LeaseError(f"the lease of token {token} is over: {now}")
        if time.monotonic() >= self._expires:
            raise LeaseError(f"the lease of {self._lease.holder} was not renewed within {self._lease.ttl} s")
