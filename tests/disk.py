"""A disk that can be full: a file system of its own in memory, whose size changes while programs write to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path


class Disk:
    """A tmpfs at a folder. What is written survives kill -9 of whoever wrote it; only `close` takes it away.

    It takes a right that only root has: see `allowed`. Another one may be mounted inside it.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        """Make the folder if need be, and mount. Raises CalledProcessError where that isn't allowed."""
        self.path, self._size = path, size_bytes
        self.full = False
        path.mkdir(parents=True, exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs")

    @staticmethod
    def allowed() -> bool:
        """Whether this process may mount one."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                Disk(Path(folder) / "disk", 1 << 16).close()
            except (subprocess.CalledProcessError, FileNotFoundError):
                return False
        return True

    def fill(self) -> None:
        """Nothing more can be written, but into pages that are begun. Raises CalledProcessError."""
        self.full = True
        for pages in range(1000):
            state = os.statvfs(self.path)
            used = (state.f_blocks - state.f_bfree + pages) * state.f_frsize
            try:
                return self._mount("-o", f"remount,size={used}")
            except subprocess.CalledProcessError:  # more was written meanwhile
                if pages == 999:
                    raise

    def free(self, size_bytes: int | None = None) -> None:
        """There is room again: as at first, or this much."""
        self._mount("-o", f"remount,size={size_bytes or self._size}")
        self.full = False

    def close(self, *, keep: bool = False) -> None:
        """Unmount, whoever still has a file open; with `keep` what was on it lies in the folder below then."""
        kept = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=self.path.parent)) if keep else None
        if kept is not None:
            shutil.copytree(self.path, kept, dirs_exist_ok=True)
        subprocess.run(["umount", "--lazy", self.path], check=True, capture_output=True)
        if kept is not None:
            shutil.rmtree(self.path)
            kept.rename(self.path)

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments, self.path], check=True, capture_output=True)
