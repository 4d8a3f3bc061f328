"""A real sshd on loopback, for the user who runs the tests, with keys of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.waiting import until

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")


class Sshd:
    """Runs `sshd -D`, and again after `kill`; `options` are what `ssh` needs to trust it and to be let in."""

    def __init__(self, folder: Path) -> None:
        if SSHD is None or shutil.which("ssh-keygen") is None:
            pytest.skip("no sshd here (Debian: openssh-server)")
        folder.mkdir(mode=0o700)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {(folder / 'host.pub').read_text()}")
        (folder / "config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
            "PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        )
        self.through = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"
        self.options = [
            *("-F", "none", "-i", str(folder / "user"), "-o", "IdentitiesOnly=yes"),
            *("-o", f"UserKnownHostsFile={folder}/known"),
        ]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        if Path("/run").is_dir() and getpass.getuser() == "root":
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd of root wants it
        self.start()

    def start(self) -> None:
        assert SSHD is not None
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([SSHD, "-D", "-e", "-f", self._folder / "config"], stderr=log)
        until(self._listens, "sshd to listen")

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """It and every session that it serves."""
        assert self._process is not None
        family = _descendants(self._process.pid)
        self._process.kill()
        self._process.wait()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(") ")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]
