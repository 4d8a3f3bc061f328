"""An ssh tunnel that is kept up: for a learner that listens on its own machine only."""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from robotlearn.errors import AddressError

logger = logging.getLogger("robotlearn.wire")
_OPTIONS = {
    "BatchMode": "yes",  # never ask anybody: nobody sits there
    "ExitOnForwardFailure": "yes",
    "StreamLocalBindUnlink": "yes",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ConnectTimeout": "10",
}
_SHORTEST_S, _LONGEST_S = 0.5, 15.0


class Tunnel:
    """`ssh -N -L` to `through` (user@host, or a name of ~/.ssh/config), and on from there to `target`, tcp://HOST:PORT.

    `address` (ipc, open to this user only) can be dialled at once and for ever; what ssh says when it fails is logged,
    once while it goes on saying that. It is started again, ever later up to 15 s, and ends with this process.
    """

    def __init__(self, through: str, target: str, *, options: Sequence[str] = ()) -> None:
        """`options` are ssh's own. Raises AddressError where there is no ssh."""
        ssh = shutil.which("ssh")
        if ssh is None:
            raise AddressError(f"tunnel: {through} needs the program ssh, which isn't installed")
        self._folder = Path(tempfile.mkdtemp(prefix="robotlearn-tunnel-"))  # 0700
        self.address = f"ipc://{self._folder}/learner"
        self.started = 0
        self.through = through
        settings = [word for key, value in _OPTIONS.items() for word in ("-o", f"{key}={value}")]
        forward = f"{self._folder}/learner:{target.removeprefix('tcp://')}"
        setpriv = shutil.which("setpriv")  # so that ssh ends with us, however we end
        self._command = [
            *([setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []),
            *(ssh, "-N", "-T", *settings, *options, "-L", forward, "--", through),
        ]
        self._said = ""
        self._stop = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()  # of `_process` against `close`
        self._thread = threading.Thread(target=self._keep_up, name="tunnel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End ssh. Idempotent."""
        self._stop.set()
        with self._lock:
            if self._process is not None:
                self._process.terminate()
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep_up(self) -> None:
        pause = _SHORTEST_S
        while not self._stop.is_set():
            began = time.monotonic()
            self._say(self._run())
            pause = _SHORTEST_S if time.monotonic() - began > 2 * _LONGEST_S else min(_LONGEST_S, 2 * pause)
            self._stop.wait(pause)

    def _run(self) -> str:
        """Until it ends; what it said last."""
        with self._lock:
            if self._stop.is_set():
                return ""
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        self.started += 1
        assert self._process.stderr is not None
        last = ""
        for line in self._process.stderr:
            last = line.strip()[:500] or last
        status = self._process.wait()
        return last or f"ssh ended with status {status}"

    def _say(self, why: str) -> None:
        if not self._stop.is_set() and why != self._said:
            self._said = why
            logger.warning("the tunnel through %s is down and tried again: %s", self.through, why)
