"""Whether all that a store holds is as it was stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from pathlib import Path

from robotlearn.buffer.index import NAME, SegmentIndex
from robotlearn.buffer.intervals import IntervalSet
from robotlearn.buffer.log_files import LogReader, Position
from robotlearn.buffer.store import stored_before
from robotlearn.errors import WireError
from robotlearn.wire import record as records


@dataclass
class Findings:
    """What was found in a store. `wrong`: a line for each fault; none: all is well."""

    segments: int = 0
    steps: int = 0
    nbytes: int = 0
    unfinished: int = 0  # bytes at the end: what is being written, or was when the learner was killed
    wrong: list[str] = field(default_factory=list)


def verify(
    folder: Path, *, images: bool = False, progress: Callable[[int, int], None] = lambda done, of: None
) -> Findings:
    """Read all records of the store in `folder`; nothing is changed, and a learner may write meanwhile.

    Checked are each record's checksum, header and arrays, that no segment is missing or there twice, and the index.
    `images`: also decode them, which takes long where they are encoded. `progress(bytes done, of how many)` is told on
    the way.

    Raises LogError when there is no store or it can't be read.
    """
    stored, noted = stored_before(folder)  # before the log is looked at, which only grows
    log = LogReader(folder / "records")
    sizes = log.file_sizes()
    before = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
    found, total = Findings(), sum(sizes.values())
    seen: dict[tuple[str, int], IntervalSet] = {}
    there = 0
    for position, view in log.scan():
        progress(before[position.file] + position.offset + position.length, total)
        there += position < noted
        try:
            fixed = records.prefix(view)
            header = records.header_of(view, fixed)
            records.verify_checked(view, fixed, header)
            if images:
                records.decode(view, verify=False)
        except WireError as error:
            found.wrong.append(f"{_place(position)}: {error}")
            continue
        found.segments += 1
        found.steps += header.steps
        found.nbytes += len(view)
        if not seen.setdefault((header.edge, header.session), IntervalSet()).add(header.sequence):
            key = f"record {header.sequence} of session {header.session:016x} of edge {header.edge}"
            found.wrong.append(f"{_place(position)}: {key} is there twice")
    if log.corrupt:
        found.wrong.append(f"damaged records: {log.corrupt}, in {log.path} as the lines above say")
    found.unfinished = log.unfinished
    gaps = [number for number in range(min(sizes, default=0), max(sizes, default=0)) if number not in sizes]
    found.wrong += [f"file {number} is missing in {log.path}" for number in gaps]
    # Only a store that never dropped its oldest files can say how many there must be.
    missing = stored - there - log.corrupt if 0 in sizes else 0
    if missing > 0:
        found.wrong.append(f"{missing} of {stored} segments that were stored are not there any more")
    found.wrong += _wrong_with_index(folder, log)
    return found


def _wrong_with_index(folder: Path, log: LogReader) -> list[str]:
    if not (folder / NAME).exists():
        return []
    with SegmentIndex(folder, log, keep=False) as index:
        index.update()
        there = (entry.position for entry in index.segments())
        here = (position for position, _ in log.scan(verify=False))
        for one, other in zip_longest(there, here):
            if one != other:
                return [f"{folder / NAME} doesn't fit the files at {_place(other or one)}; delete it, it is made anew"]
    return []


def _place(position: Position | None) -> str:
    return "its end" if position is None else f"file {position.file}, offset {position.offset}"
