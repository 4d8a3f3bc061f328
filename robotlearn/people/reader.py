"""`Reader`: an open device file, heard on a thread of its own."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable


class Reader:
    """From the constructor to `close`.

    fd: belongs to this object from now on. heard: called on the thread with what came, at most `size` bytes at a time.
    """

    def __init__(self, fd: int, size: int, heard: Callable[[bytes], None]) -> None:
        self.gone, self.closed = "", False
        """gone: why nothing comes from it any more; "" while it is well."""
        self._fd, self._size, self._heard = fd, size, heard
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="device reader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Idempotent."""
        if self.closed:
            return
        self.closed = True
        os.write(self._wake[1], b"x")
        self._thread.join()
        for descriptor in (self._fd, *self._wake):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _run(self) -> None:
        try:
            while self._wake[0] not in select.select([self._fd, self._wake[0]], [], [])[0]:
                if not (data := os.read(self._fd, self._size)):
                    raise OSError("end of file")
                self._heard(data)
        except OSError as error:  # it was hung up or pulled out, or its e-stop can't be pressed
            self.gone = str(error)
