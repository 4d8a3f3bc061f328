"""A run's decisions about its weights, and what a person asks of a learner that runs, as files of the run folder."""

from __future__ import annotations

import json
import logging
import secrets
import time
from typing import Any, Literal

import msgspec

from robotlearn.durable import write_atomic
from robotlearn.errors import RunFolderError
from robotlearn.metrics import Appended, read_metrics
from robotlearn.run_folder import RunFolder

log = logging.getLogger(__name__)


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """What a person wants: a version pinned, the pin gone, or the run taken back to a version."""

    what: Literal["pin", "unpin", "rollback"]
    version: int
    id: str


class Orders:
    """`weights.jsonl`: one decision a line. `order.json`: what is to be done next. `pin.json`: the version pinned.
    `served.json`: the version that each edge has.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._log = folder.path / "weights.jsonl"
        self._order = folder.path / "order.json"
        self._pin = folder.path / "pin.json"
        self._served = folder.path / "served.json"
        self._rows: Appended | None = None  # made by the learner alone

    def decisions(self) -> list[dict[str, Any]]:
        """Each with `version`, `of` (whose weights it has), `decision`, `why`, and what was measured."""
        return read_metrics(self._log) if self._log.exists() else []

    def note(self, version: int, of: int, decision: str, why: str, **more: float | str) -> None:
        """Write a decision down, as soon as there is space, and log it. `more`: what was measured, and the `order` that
        it follows.
        """
        row = {"time": round(time.time(), 3), "version": version, "of": of, "decision": decision, "why": why, **more}
        if self._rows is None:
            self._rows = Appended(self._log, lines=True)
        self._rows.append((json.dumps(row) + "\n").encode())
        same = f" (weights of version {of})" if of != version else ""
        log.warning("weights: version %d%s is %s%s", version, same, decision, f": {why}" if why else "")

    def give(self, what: Literal["pin", "unpin", "rollback"], version: int) -> str:
        """Leave an order; returns its id. Raises RunFolderError when one waits already."""
        if self._order.exists():
            raise RunFolderError(f"{self._order} waits for the learner still; delete it to take that back")
        order = Order(what, version, secrets.token_hex(8))
        write_atomic(self._order, msgspec.json.encode(order))
        return order.id

    def waiting(self) -> Order | None:
        """The order that waits, until `done`; None when there is none. One that can't be read is deleted, and that
        logged.
        """
        try:
            return msgspec.json.decode(self._order.read_bytes(), type=Order)
        except OSError:
            return None
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            log.error("%s is not an order: %s", self._order, error)
            self.done()
            return None

    def done(self) -> None:
        """The order that waited does no longer."""
        self._order.unlink(missing_ok=True)

    def outcome(self, order: str) -> dict[str, Any] | None:
        """What became of an order, None while nothing did."""
        return next((row for row in self.decisions() if row.get("order") == order), None)

    @property
    def served(self) -> dict[str, int]:
        """The version that each edge said last that it has, -1: none."""
        try:
            return {str(name): int(version) for name, version in json.loads(self._served.read_bytes()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    @served.setter
    def served(self, versions: dict[str, int]) -> None:
        try:
            write_atomic(self._served, json.dumps(versions).encode())
        except OSError as error:  # people are shown an older one; nothing else depends on it
            log.warning("%s can't be written: %s", self._served, error.strerror)

    @property
    def pinned(self) -> int | None:
        """The version whose weights every edge has, whatever is newer."""
        try:
            return int(json.loads(self._pin.read_bytes())["version"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @pinned.setter
    def pinned(self, version: int | None) -> None:
        if version is None:
            self._pin.unlink(missing_ok=True)
        else:
            write_atomic(self._pin, json.dumps({"version": version}).encode())

    def close(self) -> None:
        """What waits for space gets its last chance."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None
