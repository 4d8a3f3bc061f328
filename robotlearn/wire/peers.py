"""What the learner knows of those who connect to it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robotlearn.wire.keys import Allowed
from robotlearn.wire.messages import Hello, Status


@dataclass(frozen=True)
class EdgeView:
    """An edge as the learner sees it, for display and metrics. Immutable; ask again for newer.

    Attributes:
        connected: whether anything came from it within the time after which it counts as dead.
        last_seen_s: seconds since anything came from it.
        running, wanted: episodes that run there or are granted; episodes that it waits for.
        stored, duplicates, rejected: segments, as this learner answered them since its start.
        version: of the weights it uses, as it says; state, waits_for, counts and rates likewise.
    """

    edge: str
    session: int
    address: str
    connected: bool
    last_seen_s: float
    running: int
    wanted: int
    stored: int
    duplicates: int
    rejected: int
    damaged: int
    bad_frames: int
    version: int
    state: str
    waits_for: str
    counts: Mapping[str, int]
    rates: Mapping[str, float]


@dataclass(slots=True, eq=False)
class Peer:
    """One connection: a socket identity that said HELLO."""

    identity: bytes
    hello: Hello
    address: str
    descriptor: int  # of the connection
    holder: Allowed | None = None  # of the key that it proved, if there are keys
    last_seen: float = field(default_factory=time.monotonic)
    superseded: bool = False
    unanswered_bytes: int = 0
    granted: int = 0  # since HELLO
    granted_at: float = 0.0  # when it was granted some last
    aborted: int = 0  # as its last STATUS said
    told_layout: bytes = b""
    has_weights: int = 0  # uid, as its last HAVE said
    announced: int = 0  # uid
    credit: int = 0  # chunks that it takes unasked with the next announcement
    takes_deltas: bool = False  # to what it has
    pushing: int = 0  # chunks that are still to go unasked
    complained: bool = False


@dataclass(slots=True, eq=False)
class Edge:
    """One edge by its name, over all its connections and sessions."""

    name: str
    data: Peer | None = None  # the connection that counts
    address: str = ""
    session: int = 0
    last_seen: float = 0.0
    answers: dict[str, int] = field(default_factory=lambda: {"stored": 0, "duplicate": 0, "invalid": 0, "damaged": 0})
    bad_frames: int = 0
    unanswered_bytes: int = 0  # over all its connections, former ones too
    status: Status | None = None


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first key (in order) on which two contracts differ, and both values in words; None when they are alike."""
    for key in sorted(ours.keys() | theirs.keys()):
        here, there = _plain(ours.get(key)), _plain(theirs.get(key))
        if here != there or (key in ours) != (key in theirs):
            on_learner = repr(here) if key in ours else "nothing"
            on_edge = repr(there) if key in theirs else "nothing"
            cell = key.partition(".")[0]  # TASK/ROBOT, of what its arms observe and do
            task, slash, robot = cell.rpartition("/")
            if slash and key in theirs and not any(one.startswith(f"{cell}.") for one in ours):
                return key, (
                    f"the learner's run has no robot {robot} for the task {task}: name it in the run's config, "
                    f"robot: [..., {robot}], and start the learner with that"
                )
            return key, f"the learner has {on_learner}, the edge has {on_edge}"
    return None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
