"""What a store notes of all that it ever held, so that it knows this without the records that are gone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from robotlearn.buffer.intervals import IntervalSet
from robotlearn.buffer.log_files import LogReader, Position
from robotlearn.errors import LogError
from robotlearn.wire import record as records

FOLDER = "seen"

Count = Annotated[int, msgspec.Meta(ge=0)]


class Seen(msgspec.Struct, forbid_unknown_fields=True):
    """Which sequences of a session were ever stored, or never come (again)."""

    edge: str
    session: Count
    intervals: list[tuple[Count, Count]]


class Removal(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Segments that are to go out of one file: it is `before` bytes long until they have gone, then `after` (0: it is
    deleted). So its length says which, whenever the process was killed.
    """

    file: Count
    before: Count
    after: Count
    segments: Count

    def done(self, sizes: Mapping[int, int]) -> bool:
        """Whether they have gone, in files of these sizes."""
        return sizes.get(self.file, 0) == self.after


class Snapshot(msgspec.Struct, forbid_unknown_fields=True):
    """All that was seen in the log before `position`, evicted segments included.

    stored = those there before `position` + evicted + lost. `evicted` is None in snapshots of versions that did not
    count them. `lost`: those that a repair found gone. `dropped`: numbers of files that were deleted on purpose.
    """

    stored: Count
    position: tuple[Count, Count]
    seen: list[Seen]
    evicted: Count | None = None
    lost: Count = 0
    dropped: list[tuple[Count, Count]] = []
    removing: list[Removal] = []

    @property
    def end(self) -> Position:
        """`position`, as the log has it."""
        return Position(*self.position, 0)

    def settled(self, sizes: Mapping[int, int]) -> Snapshot:
        """The same, with what was being removed counted as files of these sizes say."""
        done = [one for one in self.removing if one.done(sizes)]
        dropped = IntervalSet(self.dropped)
        for one in done:
            if not one.after:
                dropped.add(one.file)
        evicted = None if self.evicted is None else self.evicted + sum(one.segments for one in done)
        return msgspec.structs.replace(self, evicted=evicted, dropped=list(dropped), removing=[])


_decoder = msgspec.msgpack.Decoder(Snapshot)


def pack(snapshot: Snapshot) -> bytearray:
    """A snapshot as an entry of a log."""
    return records.pack(records.ENTRY, msgspec.msgpack.encode(snapshot), [], 0)


def unpack(view: memoryview, folder: Path) -> Snapshot:
    """A snapshot of the store in `folder`. Raises LogError when this version can't read it."""
    try:
        found = _decoder.decode(view[records.PREFIX : records.PREFIX + records.prefix(view).header_length])
        IntervalSet(found.dropped)
        return found
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise LogError(f"store {folder} holds a snapshot that this version can't read: {error}") from error


def last(folder: Path) -> Snapshot:
    """What the store in `folder` noted last; for a process that doesn't have it open. Raises LogError when it can't be
    read.
    """
    if not (folder / FOLDER).is_dir():
        raise LogError(
            f"{folder} lacks {FOLDER}, its notes of what was stored: `robotlearn data repair` makes them anew from "
            "what is there; what was evicted or lost is known no more then"
        )
    log = LogReader(folder / FOLDER)
    while True:
        found = None
        for _, view in log.scan():
            found = unpack(view, folder)
        before = log.file_sizes()
        log.refresh()
        if found is not None or log.file_sizes().keys() == before.keys():  # else it began a new file meanwhile
            return found or Snapshot(0, (0, 0), [], 0)
