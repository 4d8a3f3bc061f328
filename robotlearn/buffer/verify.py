"""Whether all that a store holds is as it was stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from pathlib import Path

from robotlearn.buffer import snapshots
from robotlearn.buffer.index import NAME, SegmentIndex
from robotlearn.buffer.intervals import IntervalSet
from robotlearn.buffer.log_files import LogReader, Position
from robotlearn.errors import WireError
from robotlearn.wire import record as records


@dataclass
class Findings:
    """What was found in a store. `wrong`: a line for each fault; none: all is well."""

    segments: int = 0
    steps: int = 0
    nbytes: int = 0
    evicted: int = 0  # segments taken out on purpose
    lost: int = 0  # segments that a repair found gone or damaged
    unfinished: int = 0  # bytes at the end: what is being written, or was when the learner was killed
    wrong: list[str] = field(default_factory=list)


def verify(
    folder: Path, *, images: bool = False, progress: Callable[[int, int], None] = lambda done, of: None
) -> Findings:
    """Read all records of the store in `folder`; nothing is changed, and a learner may write meanwhile.

    Checked are each record's checksum, header and arrays, that no segment is there twice, that stored = there +
    evicted + lost, and the index.
    `images`: also decode them, which takes long where they are encoded. `progress(bytes done, of how many)` is told on
    the way.

    Raises LogError when there is no store or it can't be read.
    """
    before_it = snapshots.last(folder)
    log = LogReader(folder / "records")
    sizes = log.file_sizes()
    starts = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
    found, total = Findings(), sum(sizes.values())
    seen: dict[tuple[str, int], IntervalSet] = {}
    there = 0
    for position, view in log.scan():
        progress(starts[position.file] + position.offset + position.length, total)
        there += position < before_it.end
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
    after_it, now = snapshots.last(folder), LogReader(log.path).file_sizes()
    quiet = after_it == before_it and all(sizes.get(one.file) == now.get(one.file) for one in after_it.removing)
    # What is evicted meanwhile may be there or not.
    gone = sizes if quiet else {one.file: one.after for one in after_it.removing}
    noted = after_it.settled(gone)
    found.evicted, found.lost = noted.evicted or 0, noted.lost
    dropped = IntervalSet(noted.dropped)
    gaps = [number for number in range(max(sizes, default=0)) if number not in sizes and number not in dropped]
    missing = before_it.stored - there - log.corrupt - found.evicted - found.lost
    if noted.evicted is None and min(sizes, default=0) > 0:
        gaps, missing = [number for number in gaps if number > min(sizes)], 0  # it evicted, and did not count
    found.wrong += [f"file {number} is missing in {log.path}" for number in gaps]
    if missing > 0:
        found.wrong.append(f"{missing} of {before_it.stored} segments that were stored are not there any more")
    elif missing < 0 and quiet and not found.wrong:
        found.wrong.append(f"{-missing} segments more are there than were noted: stored {before_it.stored}")
    found.wrong += _wrong_with_index(folder, log)
    return found


def _wrong_with_index(folder: Path, log: LogReader) -> list[str]:
    """What is wrong with the index; nothing where the files were exchanged each time that it was compared with them."""
    if not (folder / NAME).exists():
        return []
    for _ in range(3):
        log.refresh()
        sizes, newest = log.file_sizes(), log.end.file
        with SegmentIndex(folder, log, keep=False) as index:
            index.update()
            wrong = _differences(folder, index, log)
        log.refresh()
        now = log.file_sizes()
        if not wrong or (
            log.end.file == newest and all(now.get(file) == sizes[file] for file in sizes.keys() - {newest})
        ):
            return wrong
    return []


def _differences(folder: Path, index: SegmentIndex, log: LogReader) -> list[str]:
    there = (entry.position for entry in index.segments())
    here = (position for position, _ in log.scan(verify=False))
    for one, other in zip_longest(there, here):
        if one != other:
            return [f"{folder / NAME} doesn't fit the files at {_place(other or one)}; delete it, it is made anew"]
    return []


def _place(position: Position | None) -> str:
    return "its end" if position is None else f"file {position.file}, offset {position.offset}"
