"""The system calls that a log makes, in one place, so that a test can end the process between any two of them."""

from __future__ import annotations

import os
from collections.abc import Buffer, Sequence
from pathlib import Path

MAX_BUFFERS = 512  # of one gathered write; the system's own bound (IOV_MAX) is 1024


class Files:
    """Every call by which a log changes what is on disk. Stateless; any thread."""

    def create(self, path: Path) -> int:
        """Make a new file and open it to read and append."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def open(self, path: Path) -> int:
        """Open a file that exists, to read and append."""
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)

    def write(self, descriptor: int, buffers: Sequence[Buffer]) -> int:
        """Append the buffers in one call; returns how many bytes were written, which may be fewer than all."""
        return os.write(descriptor, buffers[0]) if len(buffers) == 1 else os.writev(descriptor, buffers)

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut a file to `length`."""
        os.ftruncate(descriptor, length)

    def sync(self, descriptor: int) -> None:
        """Make a file's content and length durable."""
        _datasync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """Make new and deleted names in a folder durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file over another."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Delete a file."""
        path.unlink(missing_ok=True)


_datasync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync
