"""What each edge recorded, found in its files by somebody else than the product, against what the learner stored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from robotlearn.buffer.store import SegmentStore
from robotlearn.errors import WireError
from robotlearn.wire import record
from tests.e2e.harness import Key, Site


@dataclass
class _File:
    state: tuple[int, int] = (-1, -1)  # size and time of change, when it was read last
    hashes: dict[Key, bytes] = field(default_factory=dict)


class Evidence:
    """The hash of every record that was ever seen in the logs of these edges; `look` often.

    A file is read anew whenever it has changed: a record of which only a part found room on the disk is taken back.
    What an edge recorded, had answered for and deleted between two looks is not known here, only to the edge's ledger.
    """

    def __init__(self, site: Site, *edges: str) -> None:
        self._site = site
        self._files: dict[str, dict[Path, _File]] = {edge: {} for edge in edges}

    def look(self) -> None:
        for edge, files in self._files.items():
            for path in (self._site.state(edge) / "spool" / "records").glob("*.log"):
                known = files.setdefault(path, _File())
                try:
                    stat = path.stat()
                    if known.state == (stat.st_size, stat.st_mtime_ns):
                        continue
                    known.state, known.hashes = (stat.st_size, stat.st_mtime_ns), _hashes(path.read_bytes())
                except FileNotFoundError:  # all in it was answered for just now
                    continue

    def seen(self, edge: str) -> dict[Key, bytes]:
        """Hashes of what an edge recorded. One record may lie in two files, and is the same then."""
        found: dict[Key, bytes] = {}
        for path, file in self._files[edge].items():
            for key, digest in file.hashes.items():
                assert found.setdefault(key, digest) == digest, f"{edge}: record {key} has changed: see {path}"
        return found

    def check(self, pending: dict[str, set[Key]]) -> dict[str, int]:
        """Hold, once every process has ended, that what was seen is stored with every byte as it was, or is `pending`.

        Returns how many were seen of each edge.
        """
        stored: dict[str, dict[Key, bytes]] = {edge: {} for edge in self._files}
        with SegmentStore(self._site.run / "segments") as store:
            for position, header in store.scan_headers():
                stored[header.edge][header.session, header.sequence] = _hash(store.read_record(position))
        for edge in self._files:
            seen = self.seen(edge)
            lost = {key for key in seen if key not in stored[edge] and key not in pending[edge]}
            changed = {key for key, digest in seen.items() if stored[edge].get(key, digest) != digest}
            assert not lost, f"{edge}: recorded, and now nowhere: {sorted(lost)[:20]}"
            assert not changed, f"{edge}: stored with other bytes than recorded: {sorted(changed)[:20]}"
        return {edge: len(self.seen(edge)) for edge in self._files}


def _hash(data: memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _hashes(data: bytes) -> dict[Key, bytes]:
    """Of the whole records at the start of a file, by session and sequence."""
    view, offset = memoryview(data), 0
    found: dict[Key, bytes] = {}
    while offset < len(view):
        try:
            one = view[offset : offset + record.prefix(view, offset).length]
            record.check(one)
            header = record.peek(one)
        except WireError:
            break  # being written
        found[header.session, header.sequence] = _hash(one)
        offset += len(one)
    return found
