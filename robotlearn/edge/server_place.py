"""Where a station finds its policy server: one of its own, or one that stations of this machine share."""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from hal.runtime import runtime_folder

_LOOK_S = 0.5


class ServerPlace:
    """The folder with the sockets of a policy server, and who keeps that process alive.

    Of the stations that share one, whoever comes first does. When that one ends, however it ends, another takes over,
    at the same place: arms miss its answers for as long as it takes to start. Used by one thread.

    Attributes:
        server, states: endpoints; requests go to the one, how it is comes from the other.
    """

    def __init__(self, shared: str | None = None) -> None:
        """`shared`: a text that is the same for all who share it, and for nobody else; None: one of its own."""
        self._lock: int | None = None
        self._own = shared is None
        self._look_at = 0.0
        if shared is None:
            # A short path: the name of a Unix socket has about 100 characters at most.
            self.folder = Path(tempfile.mkdtemp(prefix="robotlearn-"))
        else:
            self.folder = runtime_folder("policy-servers") / hashlib.sha256(shared.encode()).hexdigest()[:16]
            self.folder.mkdir(exist_ok=True)
        self.server, self.states = (f"ipc://{self.folder}/{name}" for name in ("server", "states"))

    def keeps(self) -> bool:
        """Whether it is this station that keeps the server alive; once it does, it does until `close`."""
        if self._own or self._lock is not None:
            return True
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_S
        self._lock = _locked(self.folder / "keeper", wait=False)
        return self._lock is not None

    def close(self) -> None:
        """Leave it to others; the server that was kept has ended."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)


def only_server(endpoint: str) -> int:
    """Wait until no other process serves there, such as the one of a station that was killed; a descriptor to close.

    Who binds first and ends last would take away the socket that the other made meanwhile.
    """
    folder = Path(endpoint.removeprefix("ipc://")).parent
    held = _locked(folder / "serves", wait=True)
    assert held is not None
    return held


def _locked(file: Path, *, wait: bool) -> int | None:
    lock = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return lock
