"""What was counted on the way of the data: every segment recorded, stored or dropped, by the last row of a run."""

from __future__ import annotations

from dataclasses import dataclass

from robotlearn.report.run import Row, number

COUNTS = {
    "Segments": {
        "segments_recorded": "durable in the edges' logs, as told last",
        "segments_stored": "stored by the learner, each once",
        "segments_pending": "still in the edges' logs, as told last",
        "segments_evicted": "deleted by an edge: its log was full, or they were too old",
        "segments_rejected": "refused by the learner for good, kept in the edge's quarantine",
        "segments_refused": "never recorded: the edge had no room",
        "segments_deleted": "deleted by the learner: learner.max_stored_bytes",
        "segments_duplicate": "sent again though stored, and not stored twice",
        "segments_damaged": "arrived damaged, sent again",
        "segments_corrupt": "damaged on the learner's disk",
    },
    "Episodes": {
        "episodes_intervened": "in which someone took over, as told last",
        "episodes_skipped_stale": "skipped: too stale for an update, though stored",
        "episodes_dropped_unfinished": "dropped: their end never came",
        "episodes_incomplete": "dropped: others of their group never came",
        "groups_incomplete": "groups given up for that",
        "episodes_lost": "lost to damage in the log",
        "episodes_unusable": "refused by the algorithm",
        "episodes_broken": "broken off by an edge",
        "simulation_faults": "ended by a simulation that diverged",
    },
    "Control": {
        "steps_held": "steps without an action from the policy",
        "steps_clipped": "steps whose action was changed to keep the robot's limits",
        "ticks_missed": "control periods that came too late",
        "answers_dropped": "chunks that came too late to be used",
        "lines_lost": "records that an arm process could not hand over",
    },
    "Wire": {
        "frames_bad": "malformed messages, dropped",
        "frames_over_window": "messages beyond the window granted, dropped",
        "frames_unsent": "answers that could not be sent",
        "edges_lost": "edges that fell silent and counted as dead",
        "disconnects": "connections that ended",
    },
}
_PREFIXES = {"segments_": "Segments", "episodes_": "Episodes", "steps_": "Control", "frames_": "Wire"}


@dataclass(frozen=True)
class Balance:
    """recorded = stored once + still in the edges' logs + evicted + rejected, by one row of the metrics.

    An edge tells its counts twice a second, so `stored` may be ahead of `recorded`; it can't be behind.
    """

    recorded: int
    stored: int
    pending: int
    evicted: int
    rejected: int

    @classmethod
    def of(cls, row: Row) -> Balance | None:
        """None when the row doesn't have all five."""
        values = [number(row.get(f"segments_{name}")) for name in cls.__dataclass_fields__]
        return None if None in values else cls(*(int(value) for value in values if value is not None))

    @property
    def surplus(self) -> int:
        return self.stored + self.pending + self.evicted + self.rejected - self.recorded

    @property
    def holds(self) -> bool:
        return self.surplus >= 0

    def __str__(self) -> str:
        right = (
            f"{self.stored:,} stored once + {self.pending:,} still in the edges' logs + {self.evicted:,} evicted + "
            f"{self.rejected:,} rejected"
        )
        if self.surplus == 0:
            return f"{self.recorded:,} recorded = {right}."
        if self.surplus > 0:
            return (
                f"{self.recorded:,} recorded = {right} − {self.surplus:,} that the edges had not counted, or not known "
                "to be stored, when they told their counts last."
            )
        return (
            f"{self.recorded:,} recorded, but {right}: {-self.surplus:,} are missing, unless an edge brought its log "
            "from another run."
        )


def counts(row: Row) -> dict[str, list[tuple[str, int, str]]]:
    """(key, count, what it means) by heading; a key of these kinds that is not known here is listed without meaning."""
    found = {heading: list(known.items()) for heading, known in COUNTS.items()}
    known = {key for part in COUNTS.values() for key in part}
    for key in row:
        heading = next((name for prefix, name in _PREFIXES.items() if key.startswith(prefix)), None)
        if heading is not None and key not in known:
            found[heading].append((key, ""))
    table = {
        heading: [(key, int(value), text) for key, text in keys if (value := number(row.get(key))) is not None]
        for heading, keys in found.items()
    }
    return {heading: lines for heading, lines in table.items() if lines}
