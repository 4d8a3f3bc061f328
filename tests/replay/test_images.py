"""Images of a replay: what is gathered is what was recorded, from memory or from the log, within the budget."""

import mmap
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from robotlearn.buffer.log_files import LogFiles, LogReader, Position
from robotlearn.buffer.store import SegmentStore
from robotlearn.errors import LogError, WireError
from robotlearn.replay import image_files
from robotlearn.replay.images import ImageRows
from robotlearn.wire import encodings as codecs
from robotlearn.wire import record as records
from robotlearn.wire.encodings import CODECS, Encodings, ImageEncoding
from tests.wire.make import make_segment

KEY = "observation.images.wrist"
SIDE, STEPS = 24, 6
ROWS, ROW = STEPS + 1, SIDE * SIDE * 3


class Log:
    """A store with segments of one camera, and what their images are."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        self.path, self.seed = path, seed
        self.store = SegmentStore(path, file_bytes=64 << 10)  # several segments to a file, several files
        self.positions: list[Position] = []
        self.images = np.empty((0, SIDE, SIDE, 3), np.uint8)

    def add(self, image: str = "raw", arrays: str = "raw") -> memoryview:
        number = len(self.positions)
        segment = make_segment(steps=STEPS, image=SIDE, seed=self.seed + number)
        if image in ("jpeg", "video"):  # of noise they would leave nothing
            segment.observations[KEY] = np.sort(segment.observations[KEY], axis=2)
        data = records.encode(
            replace(segment, encodings=Encodings(arrays, other=ImageEncoding(image))), sequence=number
        )
        (outcome,) = self.store.append([data])
        assert outcome.position is not None
        self.positions.append(outcome.position)
        images = records.decode(data).observations[KEY]
        assert (image in codecs.LOSSY) != np.array_equal(images, segment.observations[KEY])
        self.images = np.concatenate((self.images, images))
        return self.store.read_record(outcome.position)

    def rows(
        self, segments: int, budget_rows: float, *, load: bool, image: str = "raw", source: LogFiles | None = None
    ) -> ImageRows:
        rows = ImageRows(KEY, (SIDE, SIDE, 3), int(budget_rows * ROW))
        for number in range(segments):
            record = self.add(image)
            assert rows.append(source or self.store.records, self.positions[-1], record, load=load) == number * ROWS
        assert len(rows) == segments * ROWS
        return rows

    def file(self, position: Position) -> Path:
        return self.path / "records" / f"{position.file:016d}.log"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path)
    with made.store:
        yield made


def appended(log: Log, image: str = "raw") -> tuple[Position, memoryview]:
    record = log.add(image)
    return log.positions[-1], record


def gathered(rows: ImageRows, which: object) -> NDArray[np.uint8]:
    wanted = np.asarray(which, np.int64)
    out = torch.full((len(wanted), SIDE, SIDE, 3), 77, dtype=torch.uint8)
    rows.gather(wanted, out)
    return out.numpy()


def shuffled(rows: ImageRows) -> NDArray[np.int64]:
    """Each row twice, in no order."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(rows)), 2))


# ---- where the images of a record lie


@pytest.mark.parametrize("arrays", ("raw", "zstd"))
@pytest.mark.parametrize("image", ("raw", *CODECS))
def test_a_record_tells_where_its_images_lie(image: str, arrays: str) -> None:
    segment = make_segment(image=SIDE)
    segment.observations["observation.images.base"] = segment.observations[KEY][:, ::-1, ::2].copy()
    data = records.encode(replace(segment, encodings=Encodings(arrays, other=ImageEncoding(image))))
    places, whole = records.image_places(data), records.decode(data)
    assert set(places) == {KEY, "observation.images.base"}
    for key, place in places.items():
        payload = memoryview(data)[place.offset : place.offset + place.length]
        found = (
            np.frombuffer(payload, np.uint8).reshape(place.shape)
            if place.encoding == "raw"
            else codecs.decode(place.encoding, payload, place.shape)
        )
        assert place.encoding == image and place.dtype == np.uint8
        assert np.array_equal(found, whole.observations[key])


@pytest.mark.parametrize("arrays", ("raw", "zstd"))
@pytest.mark.parametrize("image", ("raw", "lossless"))
def test_a_segment_without_images_is_the_same_otherwise(image: str, arrays: str) -> None:
    segment = make_segment(image=SIDE)
    depth = np.zeros((7, SIDE, SIDE, 1), np.uint8)  # no colours: with zstd it is among the other arrays, and stays
    segment.observations["observation.depth"] = depth
    data = records.encode(replace(segment, encodings=Encodings(arrays, other=ImageEncoding(image))))
    found = records.decode(data, images=False)
    left_out = set(records.image_places(data))
    assert left_out == {KEY, "observation.depth"} - ({"observation.depth"} if arrays == "zstd" else set())
    assert set(found.observations) == set(segment.observations) - left_out
    for name in found.observations:
        assert np.array_equal(found.observations[name], segment.observations[name])
    assert np.array_equal(found.action_executed, segment.action_executed)
    assert np.array_equal(found.chunk_path, segment.chunk_path)


def resident(view: mmap.mmap) -> int:
    """Bytes of a mapping that are in this process's memory."""
    start = np.frombuffer(view, np.uint8).__array_interface__["data"][0]
    found = re.search(rf"(?m)^{start:08x}-.*(?:\n[^ ]+: .*)*?\nRss: +(\d+) kB", Path("/proc/self/smaps").read_text())
    assert found
    return int(found[1]) << 10


def test_at_opening_no_pixel_is_read(tmp_path: Path) -> None:
    segment, large = make_segment(steps=STEPS, image=1024), 1024 * 1024 * 3 * ROWS
    data = records.encode(segment)
    (tmp_path / "record").write_bytes(data)
    rows = ImageRows(KEY, (1024, 1024, 3), 2 * large)
    with (
        SegmentStore(tmp_path / "store") as store,
        (tmp_path / "record").open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        rows.append(store.records, Position(0, 0, len(data)), memoryview(view), load=False)
        found = records.decode(view, verify=False, images=False)
        assert np.array_equal(found.reward, segment.reward)
        assert np.array_equal(found.observations["observation.state"], segment.observations["observation.state"])
        assert resident(view) < large / 2  # the kernel maps 2 MiB at once where it can
        assert len(rows) == ROWS and not rows.nbytes
        rows.append(store.records, Position(0, 0, len(data)), memoryview(view), load=True)
        assert resident(view) > large and rows.nbytes == large
        del found


# ---- memory and log


@pytest.mark.parametrize("budget", (1000, 20, 3.5, 0), ids=("all-fit", "half-fit", "less-than-a-segment", "none"))
@pytest.mark.parametrize("image", ("raw", *CODECS))
def test_what_is_gathered_is_what_was_recorded(log: Log, image: str, budget: float) -> None:
    rows = log.rows(6, budget, load=True, image=image)
    which = shuffled(rows)
    for _ in range(2):
        assert np.array_equal(gathered(rows, which), log.images[which])
        assert rows.nbytes <= budget * ROW
    assert rows.hits + rows.misses == 2 * len(which)
    if budget == 1000:
        assert not rows.misses


def test_segments_may_be_encoded_each_in_its_way(log: Log) -> None:
    rows = ImageRows(KEY, (SIDE, SIDE, 3), 30 * ROW)
    for image in ("raw", "raw", "jpeg", "raw", "lossless", "video", "raw"):
        rows.append(log.store.records, *appended(log, image), load=True)
    which = shuffled(rows)
    assert np.array_equal(gathered(rows, which), log.images[which])
    assert rows.nbytes <= 30 * ROW


def test_the_newest_stay_in_memory(log: Log) -> None:
    rows = log.rows(6, 20, load=True)
    newest = np.arange(len(rows) - 20, len(rows))
    assert np.array_equal(gathered(rows, newest), log.images[newest])
    assert (rows.hits, rows.misses, rows.nbytes) == (20, 0, 20 * ROW)
    gathered(rows, newest - 1)
    assert (rows.hits, rows.misses) == (39, 1)


def test_memory_grows_with_what_is_stored(log: Log) -> None:
    def taken() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    before = taken()
    rows = ImageRows(KEY, (SIDE, SIDE, 3), 1 << 30)
    rows.append(log.store.records, Position(0, 0, 0), log.add(), load=True)
    assert rows.nbytes == ROWS * ROW
    assert taken() - before < 64 << 20


@pytest.mark.parametrize("image", ("raw", "lossless"))
def test_what_was_stored_before_is_loaded_from_the_newest_on(log: Log, image: str) -> None:
    rows = log.rows(6, 24, load=False, image=image)
    slots = 24 if image == "raw" else 21  # an eighth is kept for segments that are decoded
    assert not rows.nbytes
    assert rows.warm(1) and rows.nbytes == ROWS * ROW
    gathered(rows, np.arange(len(rows) - ROWS, len(rows)))
    assert not rows.misses
    while rows.warm(8):
        assert rows.nbytes <= slots * ROW
    assert rows.nbytes == slots * ROW
    newest = np.arange(len(rows) - slots, len(rows))
    assert np.array_equal(gathered(rows, newest), log.images[newest])
    assert not rows.misses
    assert np.array_equal(gathered(rows, np.arange(len(rows))), log.images)


def test_what_comes_while_memory_is_loaded_stays(log: Log) -> None:
    rows = log.rows(4, 20, load=False)
    rows.warm(1)
    rows.append(log.store.records, *appended(log), load=True)
    while rows.warm(1):
        pass
    newest = np.arange(len(rows) - 20, len(rows))
    assert np.array_equal(gathered(rows, newest), log.images[newest])
    assert not rows.misses and rows.nbytes == 20 * ROW


@pytest.mark.parametrize("image", ("raw", "lossless"))
def test_cameras_may_be_gathered_at_once(log: Log, image: str) -> None:
    cameras = [log.rows(20, 30, load=True, image=image), ImageRows(KEY, (SIDE, SIDE, 3), 30 * ROW)]
    for position in log.positions:
        cameras[1].append(log.store.records, position, log.store.read_record(position), load=False)
    which = shuffled(cameras[0])

    def gather(camera: ImageRows) -> bool:
        return all(np.array_equal(gathered(camera, which), log.images[which]) for _ in range(20))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(gather, cameras))


def test_neighbours_of_a_decoded_image_are_in_memory(log: Log) -> None:
    rows = log.rows(3, 8 * ROWS, load=False, image="jpeg")
    gathered(rows, [0, 3])
    assert (rows.hits, rows.misses, rows.nbytes) == (0, 2, ROWS * ROW)
    assert np.array_equal(gathered(rows, [6, 1]), log.images[[6, 1]])
    assert (rows.hits, rows.misses) == (2, 2)
    gathered(rows, [ROWS])  # there is room for one: the first one goes
    gathered(rows, [0])
    assert (rows.hits, rows.misses, rows.nbytes) == (2, 4, ROWS * ROW)


# ---- records that are elsewhere, gone or damaged


@pytest.mark.parametrize("image", ("raw", "lossless"))
def test_a_record_that_was_moved_is_read_where_it_is(log: Log, image: str) -> None:
    rows = log.rows(4, 0, load=False, image=image)
    which = shuffled(rows)
    gathered(rows, which)
    first, second = log.positions[:2]
    assert first.file == second.file
    path = log.file(first)
    data = path.read_bytes()
    kept = data[second.offset :]  # the first is dropped, those behind it move up; a new file takes the place of the old
    path.with_suffix(".new").write_bytes(kept)
    path.with_suffix(".new").rename(path)
    moved = {
        position: position._replace(offset=position.offset - first.length)
        for position in log.positions[1:]
        if position.file == first.file
    }
    log.store.records._readers.clear()
    rows.move(log.store.records, {first: None, **moved, Position(99, 0, 64): None})
    which = which[which >= ROWS]
    assert np.array_equal(gathered(rows, which), log.images[which])


def test_a_row_that_is_gone_is_never_gathered(log: Log) -> None:
    rows = log.rows(4, 100, load=True)
    rows.move(log.store.records, {log.positions[1]: None})
    assert rows.nbytes == 3 * ROWS * ROW and len(rows) == 4 * ROWS
    with pytest.raises(LookupError, match=f"row {ROWS + 2} of '{KEY}' is gone"):
        gathered(rows, [0, ROWS + 2])
    others = np.setdiff1d(np.arange(len(rows)), np.arange(ROWS, 2 * ROWS))
    assert np.array_equal(gathered(rows, others), log.images[others])


def test_decoded_images_that_are_gone_take_no_memory(log: Log) -> None:
    rows = log.rows(2, 32 * ROWS, load=False, image="lossless")
    gathered(rows, [0, ROWS])
    assert rows.nbytes == 2 * ROWS * ROW
    rows.move(log.store.records, {log.positions[0]: None})
    assert rows.nbytes == ROWS * ROW


@pytest.mark.parametrize("gone", (0, 1))
def test_logs_are_told_apart(log: Log, tmp_path: Path, gone: int) -> None:
    other = Log(tmp_path / "other", seed=100)
    with other.store:
        rows = log.rows(1, 0, load=False)
        rows.append(other.store.records, *appended(other), load=False)
        assert other.positions == log.positions
        images = np.concatenate((log.images, other.images))
        which = [0, ROWS + 1, ROWS, 1]  # the second would follow the first, if they were of one file
        assert np.array_equal(gathered(rows, which), images[which])
        rows.move((log, other)[gone].store.records, {log.positions[0]: None})
        left = np.arange(ROWS) + ROWS * (1 - gone)
        assert np.array_equal(gathered(rows, left), images[left])
        with pytest.raises(LookupError, match=re.escape(f"row {ROWS * gone} of")):
            gathered(rows, [ROWS * gone])


def test_files_are_told_apart(log: Log) -> None:
    rows = log.rows(8, 0, load=False)
    second = next(number for number, position in enumerate(log.positions) if position.file == 1)
    assert log.positions[0].offset == log.positions[second].offset
    which = [second * ROWS + 1, 0]
    assert np.array_equal(gathered(rows, which), log.images[which])


def test_there_may_be_many_segments(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "_OPEN_FILES", 2)
    rows = log.rows(70, 100, load=True)
    which = shuffled(rows)
    assert log.positions[-1].file > 4
    assert np.array_equal(gathered(rows, which), log.images[which])


@pytest.mark.parametrize(
    ("image", "damage"),
    (("raw", "cut"), ("raw", "deleted"), ("lossless", "cut"), ("lossless", "deleted"), ("jpeg", "bit")),
)
def test_a_record_that_cannot_be_read_is_named(log: Log, image: str, damage: str) -> None:
    rows = log.rows(6, 1000, load=False, image=image, source=LogReader(log.path / "records"))  # it has no file open yet
    bad = log.positions[-1]
    whole = log.file(bad).read_bytes()
    if damage == "deleted":
        log.file(bad).unlink()
    elif damage == "cut":
        log.file(bad).write_bytes(whole[: bad.offset + bad.length // 2])
    else:
        changed = bytearray(whole)
        changed[bad.offset + bad.length - 3000] ^= 1
        log.file(bad).write_bytes(changed)
    last = np.arange(5 * ROWS, 6 * ROWS)
    for wanted in (last, [0, len(rows) - 1]):
        with pytest.raises(LogError, match=re.escape(str(bad))):
            gathered(rows, wanted)
    assert np.array_equal(gathered(rows, [0]), log.images[:1])
    while rows.warm(1):  # goes on with the others
        pass
    others, misses = (
        np.flatnonzero([position.file != bad.file for position in log.positions for _ in range(ROWS)]),
        rows.misses,
    )
    assert np.array_equal(gathered(rows, others), log.images[others])
    assert rows.misses == misses
    with pytest.raises(LogError, match=re.escape(str(bad))):
        gathered(rows, last)


def test_images_that_cannot_be_decoded_have_their_rows(log: Log) -> None:
    segment = replace(make_segment(steps=STEPS, image=SIDE), encodings=Encodings("raw", other=ImageEncoding("jpeg")))
    data = records.encode(segment)
    place = records.image_places(data)[KEY]
    at = place.offset + 4 * ROWS + 3  # behind the first image's first bytes, which are looked at when it is stored
    data[at : at + 100] = bytes(100)
    fixed = records.prefix(data)
    header, body = bytes(data[records.PREFIX :][: fixed.header_length]), data[fixed.body_start :]
    data = records.pack(records.SEGMENT, header, [body], fixed.body_length)
    with pytest.raises(WireError):
        records.decode(data)
    assert KEY not in records.decode(data, images=False).observations
    (outcome,) = log.store.append([data])
    assert outcome.position is not None
    rows = ImageRows(KEY, (SIDE, SIDE, 3), 100 * ROW)
    assert rows.append(log.store.records, outcome.position, memoryview(data), load=True) == 0
    assert len(rows) == ROWS and not rows.nbytes
    with pytest.raises(LogError, match=re.escape(str(outcome.position))):
        gathered(rows, [0])


def test_a_file_that_is_not_in_the_page_cache_is_read_from_disk(log: Log) -> None:
    rows = log.rows(6, 0, load=False)
    for path in (log.path / "records").iterdir():
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    which = shuffled(rows)
    assert np.array_equal(gathered(rows, which), log.images[which])


# ---- what is refused


def test_a_record_without_the_camera_is_not_appended(log: Log) -> None:
    rows = ImageRows(KEY, (SIDE, SIDE * 2, 3), 100 * ROW)
    with pytest.raises(LogError, match=re.escape(f"has of shape {(SIDE, SIDE, 3)}")):
        rows.append(log.store.records, *appended(log), load=True)
    rows = ImageRows("observation.images.base", (SIDE, SIDE, 3), 100 * ROW)
    with pytest.raises(LogError, match="has none"):
        rows.append(log.store.records, *appended(log), load=True)
    assert not len(rows) and not rows.nbytes


@pytest.mark.parametrize("row", (-1, ROWS, -ROWS))
def test_a_row_that_there_is_not_is_refused(log: Log, row: int) -> None:
    with pytest.raises(IndexError):
        gathered(log.rows(1, 100, load=True), [0, row])


def test_an_array_that_the_rows_do_not_fit_is_refused(log: Log) -> None:
    rows = log.rows(1, 100, load=True)
    for out in (
        torch.empty(2, SIDE, SIDE, 3, dtype=torch.uint8),
        torch.empty(1, SIDE, SIDE, 3),
        torch.empty(1, SIDE, 3, SIDE, dtype=torch.uint8).transpose(2, 3),
    ):
        with pytest.raises(ValueError, match="contiguous"):
            rows.gather(np.zeros(1, np.int64), out)
