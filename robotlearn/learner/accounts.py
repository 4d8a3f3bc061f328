"""What has come to a learner, how fast, and what was lost on the way: for the metrics and the display."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import Cell
from robotlearn.display import PeerLine
from robotlearn.replay.finished import Finished
from robotlearn.wire.server import LearnerServer

LOST_SEGMENTS = ("rejected", "evicted", "refused")
TOLD_SEGMENTS = ("recorded", "evicted", "rejected", "refused", "pending")
TOLD = (
    "steps_held", "steps_clipped", "simulation_faults",
    "episodes_broken", "ticks_missed", "answers_dropped", "lines_lost", "episodes_intervened", "steps_intervened",
)  # fmt: skip
"""Counts that the edges tell, summed in the metrics."""
TOLD_RATES = ("robot_bytes", "robot_array_bytes")
"""What each edge records per robot, and what that would be if nothing were encoded."""
RATE_OVER_S = 10.0
"""Segments come in bursts: over less, their rate would be that of a burst."""


class Accounts:
    """Of one learner. `peers` may be called by any thread, as may be read what is public; the rest is the learner's.

    Attributes:
        env_steps: taken in so far, over all the run's learners.
    """

    def __init__(self, server: LearnerServer, store: SegmentStore, cells: Sequence[Cell]) -> None:
        self._server, self._store, self._cells = server, store, cells
        self.env_steps = 0
        self._seconds_before, self._since = 0.0, 0.0
        self._marks: deque[tuple[float, int]] = deque()

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Go on from what `facts` gave."""
        self.env_steps, self._seconds_before = int(facts["env_steps"]), float(facts["seconds"])

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"env_steps": self.env_steps, "seconds": self.seconds}

    def begin(self) -> None:
        """From now on time counts."""
        self._since = time.monotonic()
        self.mark()

    @property
    def seconds(self) -> float:
        """Since `begin`, over all the run's learners."""
        return self._seconds_before + (time.monotonic() - self._since if self._since else 0.0)

    def mark(self) -> None:
        """Note how many steps there are now, for the rate."""
        marks, moment = self._marks, time.monotonic()
        marks.append((moment, self.env_steps))
        while moment - marks[0][0] > RATE_OVER_S:
            marks.popleft()

    @property
    def rate(self) -> float:
        """Steps per second that came lately."""
        if len(self._marks) < 2:
            return 0.0
        (t0, n0), (t1, n1) = self._marks[0], self._marks[-1]
        return (n1 - n0) / max(t1 - t0, 1e-3)

    def row(self) -> dict[str, float]:
        """All of it, as metrics; each edge's own counts are those that it told last."""
        edges = self._server.peers()
        told = [edge.counts for edge in edges]
        stats = self._server.stats()
        return {
            "env_steps": self.env_steps,
            "seconds": round(self.seconds, 3),
            "samples_per_s": round(self.rate, 1),
            "segments_stored": self._store.stored,
            "segments_deleted": self._store.evicted,
            **{f"segments_{name}": sum(counts.get(name, 0) for counts in told) for name in TOLD_SEGMENTS},
            **{name: sum(counts.get(name, 0) for counts in told) for name in TOLD},
            **{
                f"{name}_per_s/{edge.edge}": round(edge.rates.get(name, 0.0), 1)
                for edge in edges
                for name in TOLD_RATES
            },
            "segments_duplicate": stats["duplicates"],
            "segments_damaged": stats["damaged"],
            "segments_corrupt": stats["corrupt"],
            "segments_undecodable": self._store.undecodable,
            "frames_bad": stats["bad_frames"],
            "frames_over_window": stats["over_window"],
            "frames_unsent": stats["unsent"],
            "edges_lost": stats["dead"],
            "disconnects": stats["disconnects"],
        }

    def row_of(self, episodes: Sequence[Finished], version: int) -> dict[str, float | None]:
        """`row`, and what the episodes were like that weights `version` learnt from, or that came last; null: none."""
        row: dict[str, float | None] = dict(self.row())
        if not episodes:
            return row | dict.fromkeys(("success", "return", "staleness_mean", "staleness_max"))
        staleness = version - np.concatenate([one.versions for one in episodes])
        return row | {
            "success": float(np.mean([one.success for one in episodes])),
            "return": float(np.mean([one.reward for one in episodes])),
            **self._by_cell(episodes),
            "episode_steps": float(np.mean([one.steps for one in episodes])),
            "staleness_mean": float(staleness.mean()) if len(staleness) else None,
            "staleness_max": int(staleness.max()) if len(staleness) else None,
        }

    def peers(self, awaits_approval: Callable[[str], bool]) -> list[PeerLine]:
        """The edges as they are now, one line each."""
        return [
            PeerLine(
                edge.edge,
                (edge.state or "coming") if edge.connected else f"lost, last seen {edge.last_seen_s:.0f} s ago",
                edge.version,
                int(edge.rates.get("episodes", 0)),
                edge.rates.get("steps", 0.0) if edge.connected else 0.0,
                edge.counts.get("pending", 0),
                ("weights that pass learner.approval" if held else edge.waits_for) if edge.connected else "",
                *(edge.rates.get(name, 0.0) if edge.connected else 0.0 for name in TOLD_RATES),
                _lost(edge.counts),
            )
            for edge in self._server.peers()
            for held in [edge.version < 0 and edge.waits_for and awaits_approval(edge.edge)]
        ]

    def _by_cell(self, episodes: Sequence[Finished]) -> dict[str, float]:
        """success/TASK/EMBODIMENT, where there are several."""
        if len(self._cells) == 1:
            return {}
        names = {(cell.spec.embodiment, words): cell.name for cell in self._cells for words in cell.task.instructions}
        won: dict[str, list[bool]] = {}
        for one in episodes:
            won.setdefault(names[one.embodiment, one.task], []).append(one.success)
        return {f"success/{name}": float(np.mean(won[name])) for name in sorted(won)}


def _lost(counts: Mapping[str, int]) -> str:
    told = [f"{counts[name]} {name}" for name in LOST_SEGMENTS if counts.get(name)]
    return f"segments lost: {', '.join(told)}" if told else ""
