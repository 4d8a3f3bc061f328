"""The images of one camera in all stored segments: the newest in memory, the others read from the log."""

from __future__ import annotations

import logging
import mmap
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch

from robotlearn.buffer.log_files import LogFiles, Position
from robotlearn.errors import LogError, WireError
from robotlearn.replay.image_files import IS_ENCODED, IS_GONE, IS_RAW, ImageFiles, Pixels, Rows
from robotlearn.wire.encodings import RAW

logger = logging.getLogger("robotlearn.replay")

_NOTHING = -(1 << 62)  # no row
_DECODED_SHARE = 8  # of the budget, a part of so many is kept for decoded segments where there are encoded ones


class ImageRows:
    """The T+1 images of each segment, one segment after the other, as rows 0, 1, 2, ...; (height, width, 3) uint8 each.

    Memory is a ring of `budget_bytes`: row r, if it is there at all, lies in slot r modulo the number of slots, so the
    newest rows that were loaded stay. The kernel gives a page of it when it is first written. Raw images that aren't
    there are read from the log row by row, and the kernel's page cache does what it can; of encoded ones a whole
    segment is decoded, and the latest of these stay in an eighth of the budget.

    `gather` may run in a thread of its own, and those of several cameras at once, but not while `append`, `warm` or
    `move` of the same camera does. Nothing here waits for anything but the disk.

    Attributes:
        hits, misses: rows that were gathered from memory, and from the log.
    """

    def __init__(self, key: str, shape: tuple[int, int, int], budget_bytes: int) -> None:
        """`key`: the observation's. `budget_bytes` of pixels at most are kept in memory; 0: none.

        Raises ValueError where the machine has not so much.
        """
        if budget_bytes < 0:
            raise ValueError(f"a budget of {budget_bytes} bytes for {key!r} is no budget")
        self.hits = self.misses = 0
        self._files = ImageFiles(key, shape)
        self._row_bytes, self._budget = self._files.row_bytes, budget_bytes
        self._decoded: OrderedDict[int, Pixels] = OrderedDict()  # segment -> its images, first in first out
        self._decoded_bytes = self._decoded_budget = 0
        self._to_warm = -1  # the newest segment that may not be in memory
        self._make_ring(budget_bytes // self._row_bytes)

    def __len__(self) -> int:
        """How many rows there are, in memory or not."""
        return len(self._files)

    @property
    def nbytes(self) -> int:
        """Bytes of pixels in memory."""
        return int(np.count_nonzero(self._holds >= 0)) * self._row_bytes + self._decoded_bytes

    def check(self, source: LogFiles, position: Position, record: memoryview, count: int) -> None:
        """Raises LogError when `append` would, or when the record has other than `count` images."""
        place = self._files.place(source, position, record)
        if place.shape[0] != count:
            raise LogError(
                f"log {source.path}: {position} has {place.shape[0]} images {self._files.key!r}, expected {count}"
            )

    def append(self, source: LogFiles, position: Position, record: memoryview, *, load: bool) -> int:
        """The T+1 rows of a segment follow those before; returns the first of them.

        `load` puts them into memory, where they take the places of the oldest; otherwise no pixel is touched. Raises
        LogError when the record has no images of this camera and shape; nothing is appended then.
        """
        first = len(self)
        place = self._files.add(source, position, record)
        if place.encoding != RAW and not self._decoded_budget:
            self._share_with_decoded()
        if not load:
            self._to_warm = self._files.segments - 1
            return first
        try:
            images = self._files.images(record, place)
        except WireError as error:  # `gather` says so too, to who asks for one of them
            logger.warning("log %s: %r of %s can't be decoded: %s", source.path, self._files.key, position, error)
            return first
        rows = np.arange(max(first, len(self) - self._slots), len(self))
        if len(rows):
            # As the two stretches that they are: a tenth faster than by their indices.
            images, start = images[-len(rows) :], int(rows[0]) % self._slots
            before_end = min(len(rows), self._slots - start)
            self._pixels[start : start + before_end] = images[:before_end]
            self._pixels[: len(rows) - before_end] = images[before_end:]
            self._holds[rows % self._slots] = rows
        return first

    def gather(self, rows: Rows, out: torch.Tensor) -> None:
        """Fill `out`, (B, *shape) uint8, contiguous, on the CPU, with B rows in any order; fastest where it is reused.

        Raises IndexError for rows that there aren't, LookupError for one that is gone, LogError naming the record that
        can't be read, and of encoded images also the one that is damaged; what `out` holds is undefined then.
        """
        if out.dtype != torch.uint8 or out.shape != (len(rows), *self._files.shape) or not out.is_contiguous():
            shape = (len(rows), *self._files.shape)
            raise ValueError(f"out is {tuple(out.shape)} of {out.dtype}, expected {shape} of uint8, contiguous")
        flat = out.view(len(rows), self._row_bytes)
        slots = rows % self._modulus
        held = self._holds[slots] == rows
        if held.all():
            self.hits += len(rows)
            # Eight bytes at a time: torch splits the work by elements, and that of single bytes badly.
            flat = flat.view(torch.int64) if self._row_bytes % 8 == 0 else flat
            torch.index_select(self._slab, 0, torch.from_numpy(slots), out=flat)
            return
        missing = np.flatnonzero(~held)
        segments, pixels = self._files.find(rows[missing]), flat.numpy()
        raw = self._files.state(segments) == IS_RAW
        self._files.read(rows[missing[raw]], segments[raw], pixels, missing[raw])
        self.misses += int(raw.sum())
        self._gather_encoded(rows, missing[~raw], segments[~raw], pixels)
        here = np.flatnonzero(held)
        for index, slot in zip(here.tolist(), slots[here].tolist(), strict=True):
            pixels[index] = self._pixels[slot]
        self.hits += len(here)

    def warm(self, rows_at_once: int) -> bool:
        """Load the newest rows that are neither in memory nor too old for it, some segments; whether more may be to do.

        For rows that were appended without `load`, between other work. What can't be read is passed over.
        """
        done = 0
        while self._to_warm >= 0 and done < rows_at_once:
            segment = self._to_warm
            first, end = self._files.rows(segment)
            self._to_warm = segment - 1 if first > len(self) - self._slots else -1
            rows = np.arange(max(first, len(self) - self._slots), end)
            rows = rows[self._holds[rows % self._modulus] != rows]
            if len(rows) and self._files.state(segment) != IS_GONE:
                self._load(segment, rows, rows % self._slots)
                done += len(rows)
        return self._to_warm >= 0

    def move(self, source: LogFiles, moved: Mapping[Position, Position | None]) -> None:
        """Records of `source` lie elsewhere in their file now, or nowhere (None): their rows mustn't be gathered again.

        To be called before the next `gather`, also where whole files were dropped. All other rows keep their numbers.
        Positions that aren't of rows here are passed over.
        """
        for segment in self._files.move(source, moved):
            rows = np.arange(*self._files.rows(segment))
            slots = rows % self._modulus
            self._holds[slots[self._holds[slots] == rows]] = _NOTHING
            if (images := self._decoded.pop(segment, None)) is not None:
                self._decoded_bytes -= images.nbytes

    def _make_ring(self, slots: int) -> None:
        self._slots, self._modulus = slots, max(slots, 1)
        try:
            memory = mmap.mmap(-1, self._modulus * self._row_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise ValueError(f"{slots * self._row_bytes} bytes for {self._files.key!r}: {error.strerror}") from error
        if hasattr(mmap, "MADV_HUGEPAGE"):  # fewer faults while it fills, fewer misses of the TLB afterwards
            memory.madvise(mmap.MADV_HUGEPAGE)
        slab = torch.frombuffer(memory, dtype=torch.uint8).view(self._modulus, self._row_bytes)
        self._pixels: Pixels = slab.numpy()
        self._slab = slab.view(torch.int64) if self._row_bytes % 8 == 0 else slab
        self._holds = np.full(self._modulus, _NOTHING, np.int64)  # which row is in each slot

    def _share_with_decoded(self) -> None:
        """The first encoded segment has come: the ring becomes smaller, and what was in it is to be loaded again."""
        self._decoded_budget = max(self._budget // _DECODED_SHARE, 1)
        self._make_ring((self._budget - self._decoded_budget) // self._row_bytes if self._budget else 0)
        self._to_warm = self._files.segments - 1

    def _load(self, segment: int, rows: Rows, slots: Rows) -> None:
        self._holds[slots] = _NOTHING
        try:
            if self._files.state(segment) == IS_ENCODED:
                self._pixels[slots] = self._files.decode(segment)[rows - self._files.rows(segment)[0]]
            else:
                self._files.read(rows, np.full(len(rows), segment), self._pixels, slots)
        except LogError as error:
            logger.warning("%s", error)
            return
        self._holds[slots] = rows

    def _gather_encoded(self, rows: Rows, missing: Rows, segments: Rows, pixels: Pixels) -> None:
        for segment in np.unique(segments).tolist():
            wanted = missing[segments == segment]
            images = self._decoded.get(segment)
            if images is None:
                self.misses += len(wanted)
                images = self._keep(segment, self._files.decode(segment))
            else:
                self.hits += len(wanted)
            pixels[wanted] = images[rows[wanted] - self._files.rows(segment)[0]]

    def _keep(self, segment: int, images: Pixels) -> Pixels:
        if images.nbytes <= self._decoded_budget:
            while self._decoded_bytes + images.nbytes > self._decoded_budget:
                self._decoded_bytes -= self._decoded.popitem(last=False)[1].nbytes
            self._decoded[segment] = images
            self._decoded_bytes += images.nbytes
        return images
