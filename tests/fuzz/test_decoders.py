"""Whatever bytes come from a socket or a file, each decoder takes them or refuses them with its own error, cheaply."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotlearn.buffer.ledger import Ledger
from robotlearn.buffer.log import RecordLog
from robotlearn.buffer.store import SegmentStore
from robotlearn.errors import LogError
from robotlearn.wire import layout, record
from robotlearn.wire.keys import Keys
from tests.fuzz import malformed as kinds
from tests.fuzz.memory import settled_rss
from tests.fuzz.samples import DECODERS, LEDGER, SEGMENTS, SNAPSHOTS, Decoder, plain

FEW, MILLION = 10_000, 1_000_000
FLAT_BYTES = 48 << 20  # by which a process may be larger after many malformed inputs than after some
BY_NAME = {decoder.name: decoder for decoder in DECODERS}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What is captured of the log would be memory that grows."""
    caplog.set_level(logging.CRITICAL)


@pytest.fixture(autouse=True)
def small_caches() -> Iterator[None]:
    """A run of these must not leave full caches to others."""
    yield
    layout._cache.clear()


@pytest.mark.parametrize("name", BY_NAME)
def test_a_decoder_takes_or_refuses(name: str) -> None:
    rng = random.Random(1)
    taken = sum(BY_NAME[name].try_one(rng) for _ in range(FEW))
    assert 0 < taken < FEW // 2  # what is made gets far enough, and is malformed mostly


@pytest.mark.parametrize("name", BY_NAME)
@given(rng=st.randoms(use_true_random=False))
def test_what_fails_is_made_small(name: str, rng: random.Random) -> None:
    """By hypothesis, which looks for the simplest change that fails."""
    BY_NAME[name].try_one(rng)


@pytest.mark.parametrize("name", BY_NAME)
@given(data=st.binary(max_size=300))
def test_bytes_of_any_kind(name: str, data: bytes) -> None:
    Decoder(name, lambda _: data, BY_NAME[name].take).try_one(random.Random(0))


@pytest.mark.slow
def test_files_of_keys(tmp_path: Path) -> None:
    rng = random.Random(2)
    for decoder in plain(Keys(tmp_path / "keys")):
        taken = sum(decoder.try_one(rng) for _ in range(1000))
        assert taken < 500


# ---- logs on the disk


def _damaged_file(rng: random.Random) -> bytes:
    """A log's file of whole records, damaged ones and rubbish, not always of the right length."""
    parts = []
    for _ in range(rng.randrange(1, 8)):
        parts.append(rng.choice((*SEGMENTS[:4], *LEDGER)))
        if rng.random() < 0.4:
            parts[-1] = bytes(kinds.damaged(parts[-1], rng, SEGMENTS))
    data = b"".join(parts)
    return bytes(kinds.damaged(data, rng, SEGMENTS)) if rng.random() < 0.4 else data


def _open_log(folder: Path, data: bytes) -> None:
    file = folder / "0000000000000000.log"
    file.write_bytes(data)
    with RecordLog(folder, sync="process") as log:
        for verify in (True, False):
            found = list(log.scan(verify=verify))
            assert all(record.prefix(view).length == len(view) == position.length for position, view in found)
        for _, view in log.scan():
            record.check(view)
        end = log.append(SEGMENTS[0])
        assert bytes(log.read(end)) == SEGMENTS[0]


def _entries(kind: kinds.Kind) -> Callable[[random.Random], bytes]:
    """Entries one behind the other, as a log has them, whole but not sound."""

    def make(rng: random.Random) -> bytes:
        return b"".join(kinds.malformed(kind, rng) for _ in range(rng.randrange(1, 4)))

    return make


def _open_ledger(folder: Path, data: bytes) -> None:
    (folder / "ledger").mkdir(exist_ok=True)
    (folder / "ledger/0000000000000000.log").write_bytes(data)
    opened = Ledger(folder, sync="process", max_bytes=4096)
    try:
        assert opened.recorded() >= 0
        opened.compact((), force=True)
    finally:
        opened.close()


def _open_store(folder: Path, data: bytes) -> None:
    (folder / "seen").mkdir(exist_ok=True)
    (folder / "seen/0000000000000000.log").write_bytes(data)
    with SegmentStore(folder, sync="process") as opened:
        opened.append(SEGMENTS[:2])


FILES: dict[str, tuple[Callable[[random.Random], bytes], Callable[[Path, bytes], None]]] = {
    "a log": (_damaged_file, _open_log),
    "a spool's ledger": (_entries(kinds.records(LEDGER)), _open_ledger),
    "a store's snapshots": (_entries(kinds.records(SNAPSHOTS)), _open_store),
}


def _clean(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.unlink()


def _try_files(name: str, folder: Path, rng: random.Random, count: int) -> int:
    make, take = FILES[name]
    open_files = len(os.listdir("/proc/self/fd"))
    decoder = Decoder(name, make, lambda data: take(folder, data), LogError)
    folder.mkdir()
    taken = 0
    for _ in range(count):
        taken += decoder.try_one(rng)
        _clean(folder)
    assert len(os.listdir("/proc/self/fd")) == open_files, "what can't be opened is released"
    return taken


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_opened_or_refused(name: str, tmp_path: Path) -> None:
    assert _try_files(name, tmp_path / "folder", random.Random(3), 300) > 0


# ---- very many, and what stays in memory


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_leave_nothing_behind(tmp_path: Path) -> None:
    rng = random.Random(4)
    share = MILLION // len(DECODERS)
    after_some = 0
    for quarter in range(4):
        for decoder in DECODERS:
            for _ in range(share // 4 + 1):
                decoder.try_one(rng)
        if quarter == 0:
            after_some = settled_rss()
    assert settled_rss() - after_some < FLAT_BYTES


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FILES)
def test_many_damaged_files(name: str, tmp_path: Path) -> None:
    _try_files(name, tmp_path / "folder", random.Random(5), 4000)
    for decoder in plain(Keys(tmp_path / "keys")):
        for _ in range(3000):
            decoder.try_one(random.Random(6))
