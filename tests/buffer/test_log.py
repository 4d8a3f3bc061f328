"""The log: what was appended is there again, whatever was killed, cut or damaged."""

import itertools
import os
from pathlib import Path

import pytest

from robotlearn.buffer.log import LogFull, RecordLog
from robotlearn.buffer.log_files import Position
from robotlearn.errors import LogError
from robotlearn.wire import record
from tests.buffer.faults import FullFiles, When, run_until_killed
from tests.buffer.victims import append_to_log, entry


def number(view: memoryview) -> int:
    return int.from_bytes(view[record.PREFIX : record.PREFIX + 4], "little")


def numbers(log: RecordLog) -> list[int]:
    return [number(view) for _, view in log.scan()]


def open_log(path: Path, **options: object) -> RecordLog:
    return RecordLog(path, **({"sync": "power", "file_bytes": 1000} | options))  # type: ignore[arg-type]


def test_records_come_back_in_order_over_several_files(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        positions = [log.append(entry(n)) for n in range(10)]
        positions += log.append_many([entry(n) for n in range(10, 40)])
        assert positions == sorted(positions) and len(log.file_sizes()) > 4
        assert numbers(log) == list(range(40))
    with open_log(tmp_path) as log:
        assert [position for position, _ in log.scan()] == positions
        assert [number(log.read(position)) for position in reversed(positions)] == list(reversed(range(40)))
        assert [number(view) for _, view in log.scan(positions[33])] == list(range(33, 40))
        assert log.append(entry(40)) > positions[-1]
        assert log.bytes == sum(file.stat().st_size for file in tmp_path.glob("*.log"))
        assert (log.torn_bytes, log.corrupt) == (0, 0)


def test_a_record_larger_than_a_file_has_a_file_of_its_own(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append_many([entry(0), entry(1, 5000), entry(2)])
        assert numbers(log) == [0, 1, 2] and len(log.file_sizes()) == 3


def test_a_batch_of_more_records_than_one_write_takes(tmp_path: Path) -> None:
    with open_log(tmp_path, file_bytes=1 << 20) as log:
        log.append_many([entry(n) for n in range(1500)])
        assert numbers(log) == list(range(1500))


def test_a_second_opener_is_refused_by_name_of_the_first(tmp_path: Path) -> None:
    with open_log(tmp_path), pytest.raises(LogError, match=f"in use by process {os.getpid()}"):
        open_log(tmp_path)
    open_log(tmp_path).close()  # the lock goes with its owner


def test_views_outlive_the_log_and_its_files(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append_many([entry(n) for n in range(20)])
        views = [view for _, view in log.scan()]
        log.drop_files_before(log.end)
    assert [number(view) for view in views] == list(range(20))


def test_dropping_files_keeps_what_follows(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        positions = [log.append(entry(n)) for n in range(30)]
        log.read(positions[0])
        assert log.drop_files_before(positions[17]) > 0
        kept = numbers(log)
        assert kept[-1] == 29 and kept[0] <= 17
        with pytest.raises(LogError, match="can't be read"):
            log.read(positions[0])
    with open_log(tmp_path) as log:
        assert numbers(log) == kept


def last_two(path: Path) -> tuple[Path, list[Position]]:
    with open_log(path, file_bytes=1 << 20) as log:
        positions = [log.append(entry(n)) for n in range(5)]
    return path / f"{0:016d}.log", positions[-2:]


@pytest.mark.slow
def test_a_cut_at_every_byte_of_the_last_two_records_leaves_all_before(tmp_path: Path) -> None:
    check_cuts(tmp_path, 1)


def test_a_cut_at_some_bytes_of_the_last_two_records_leaves_all_before(tmp_path: Path) -> None:
    check_cuts(tmp_path, 17)


def check_cuts(tmp_path: Path, step: int) -> None:
    file, (before, last) = last_two(tmp_path)
    data = file.read_bytes()
    for cut in range(before.offset, len(data), step):
        file.write_bytes(data[:cut])
        with open_log(tmp_path, file_bytes=1 << 20) as log:
            kept = 3 if cut < last.offset else 4
            assert numbers(log) == list(range(kept)), cut
            assert log.torn_bytes == cut - (before.offset if kept == 3 else last.offset) and log.corrupt == 0
            log.append(entry(99))
            assert numbers(log) == [*range(kept), 99]
        file.write_bytes(data)


def test_garbage_behind_the_last_record_is_cut_off(tmp_path: Path) -> None:
    file, _ = last_two(tmp_path)
    for garbage in (bytes(640), record.MAGIC + bytes(200), os.urandom(333), bytes(entry(7)[:-1])):
        data = file.read_bytes()
        file.write_bytes(data + garbage)
        with open_log(tmp_path) as log:
            assert numbers(log) == list(range(5)) and log.torn_bytes == len(garbage)
        assert file.read_bytes() == data


@pytest.mark.parametrize("place", [0, 9, 17, 21, 26, 40, 120], ids=lambda place: f"byte-{place}")
@pytest.mark.parametrize("victim", [1, 3])
def test_damage_before_the_tail_is_counted_and_stepped_over(tmp_path: Path, victim: int, place: int) -> None:
    with open_log(tmp_path, file_bytes=700) as log:
        positions = [log.append(entry(n)) for n in range(9)]
    position = positions[victim]
    file = tmp_path / f"{position.file:016d}.log"
    data = bytearray(file.read_bytes())
    data[position.offset + place] ^= 0x55
    file.write_bytes(data)
    with open_log(tmp_path, file_bytes=700) as log:
        for _ in range(2):
            assert numbers(log) == [n for n in range(9) if n != victim]
        assert log.corrupt == 1 and log.torn_bytes == 0
        with pytest.raises(LogError, match="damaged"):
            log.read(position)
        assert number(log.read(positions[victim + 1])) == victim + 1


def test_a_damaged_record_in_the_last_file_costs_none_behind_it(tmp_path: Path) -> None:
    file, (before, _) = last_two(tmp_path)
    data = bytearray(file.read_bytes())
    data[before.offset + 22] ^= 0xFF  # its length
    file.write_bytes(data)
    with open_log(tmp_path) as log:
        assert numbers(log) == [0, 1, 2, 4] and (log.corrupt, log.torn_bytes) == (1, 0)


def test_short_writes_are_completed(tmp_path: Path) -> None:
    class Short(FullFiles):
        def write(self, descriptor, buffers):  # type: ignore[no-untyped-def]
            data = b"".join(buffers)
            return os.write(descriptor, data[: max(1, len(data) // 3)])

    with open_log(tmp_path, files=Short()) as log:
        log.append_many([entry(n) for n in range(20)])
        log.append(entry(20))
        assert numbers(log) == list(range(21))


@pytest.mark.parametrize("room", [0, 1, 63, 200, 1000, 2500])
def test_a_full_disk_refuses_the_whole_batch_and_later_appends_work(tmp_path: Path, room: int) -> None:
    files = FullFiles()
    with open_log(tmp_path, files=files) as log:
        log.append_many([entry(n) for n in range(3)])
        files.room = room
        with pytest.raises(LogFull):
            log.append_many([entry(n) for n in range(100, 140)])
        with pytest.raises(LogFull):
            files.room = min(room, 150)
            log.append(entry(200))
        assert numbers(log) == [0, 1, 2]
        files.room = 1 << 40
        log.append(entry(3))
        assert numbers(log) == [0, 1, 2, 3]
    with open_log(tmp_path) as log:
        assert numbers(log) == [0, 1, 2, 3] and log.torn_bytes == 0
        assert log.bytes == sum(file.stat().st_size for file in tmp_path.glob("*.log"))


@pytest.mark.parametrize("when", ["before", pytest.param("half", marks=pytest.mark.slow)])
def test_killed_at_every_call_it_opens_again_with_everything_synced(tmp_path: Path, when: When) -> None:
    killed_at = 0
    for at in itertools.count():
        path = tmp_path / str(at)
        said, killed = run_until_killed(append_to_log, path, at, when)
        words = [line.split() for line in said.splitlines()]
        synced = max((int(number) for word, number in words if word == "synced"), default=-1)
        with open_log(path, file_bytes=500) as log:
            found = numbers(log)
            assert log.corrupt == 0
            assert found == list(range(found[0], found[0] + len(found))) if found else synced in (-1, 8)
            assert not found or found[-1] >= synced
            if synced < 8:
                assert not found or found[0] == 0, "nothing is dropped before it is said so"
            log.append(entry(77))
            assert numbers(log) == [*found, 77]
        killed_at += killed
        if not killed and at >= int(words[-1][1]):
            break
    assert killed_at > (10 if when == "half" else 25)


def test_what_may_still_be_taken_back_is_not_shown_to_readers(tmp_path: Path) -> None:
    """A reader maps the files up to the sizes that it is shown; what is cut off under it would end its process."""
    shown: list[dict[int, int]] = []

    class Filling(FullFiles):
        def create(self, path: Path) -> int:
            shown.extend(log.file_sizes() for log in opened)
            return super().create(path)

    opened: list[RecordLog] = []
    with RecordLog(tmp_path, sync="process", file_bytes=3 * len(entry(0)), files=Filling()) as log:
        opened.append(log)
        log.append(entry(0))
        before = log.file_sizes()
        log.append_many([entry(number) for number in range(1, 9)])
        assert len(shown) == 2 and all(sizes[0] == before[0] for sizes in shown)
        assert sum(log.file_sizes().values()) == 9 * len(entry(0))


def test_after_a_failed_sync_nothing_counts_as_durable_any_more(tmp_path: Path) -> None:
    """The kernel may have thrown away what it could not write, and says so once."""

    class Failing(FullFiles):
        broken = True

        def sync(self, descriptor: int) -> None:
            if self.broken:
                raise OSError(5, os.strerror(5))
            super().sync(descriptor)

    files = Failing()
    log = RecordLog(tmp_path, sync="power", files=files)
    log.append(entry(0))
    for files.broken in (True, False, False):
        with pytest.raises(LogError, match="could not be made durable: Input/output error"):
            log.sync()
    log.close()
    with RecordLog(tmp_path, sync="power") as again:
        assert numbers(again) == [0]
        again.sync()
