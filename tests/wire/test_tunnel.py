"""An ssh tunnel through a real sshd: what goes through it, what it says when it fails, that it ends with its owner."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robotlearn.errors import AddressError
from robotlearn.wire.tunnel import Tunnel
from tests.waiting import until
from tests.wire.rig import edge, learner
from tests.wire.sshd import Sshd

OWNER = """
import sys, threading
from robotlearn.wire.tunnel import Tunnel
with Tunnel(sys.argv[1], sys.argv[2], options=sys.argv[3:]):
    print("up", flush=True)
    threading.Event().wait()
"""


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    made = Sshd(tmp_path / "sshd")
    yield made
    made.kill()


def clients(port: int) -> list[str]:
    """The ssh processes that go there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_text().split("\0")
            found += [process.name] if line[0].endswith("ssh") and line[-2].endswith(f":{port}") else []
    return found


def test_segments_go_through_and_go_on_after_the_tunnel_broke(tmp_path: Path, sshd: Sshd) -> None:
    with (
        learner(tmp_path / "l") as there,
        Tunnel(sshd.through, there.address, options=sshd.options) as tunnel,
        edge(tmp_path / "e", tunnel.address) as here,
    ):
        here.record(5)
        until(lambda: here.spool.counts().acknowledged == 5, "answers through the tunnel")
        sshd.kill()
        here.record(5)
        until(lambda: here.uplink.state == "connecting", "the loss")
        sshd.start()
        until(lambda: here.spool.counts().acknowledged == 10, "answers through the new tunnel")
        assert there.sequences() == list(range(10)) and tunnel.started >= 2
    until(lambda: not clients(sshd.port), "the end of ssh")


@pytest.mark.slow
def test_who_is_not_let_in_says_so_once_and_tries_again(
    tmp_path: Path, sshd: Sshd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    allowed = tmp_path / "sshd/authorized"
    key = allowed.read_text()
    allowed.write_text("")
    with (
        learner(tmp_path / "l") as there,
        Tunnel(sshd.through, there.address, options=sshd.options) as tunnel,
        edge(tmp_path / "e", tunnel.address) as here,
    ):
        here.record(1)
        until(lambda: tunnel.started >= 3, "further tries")
        assert caplog.text.count("Permission denied (publickey)") == 1
        allowed.write_text(key)
        until(lambda: here.spool.counts().acknowledged == 1, "an answer")


def test_a_host_that_is_not_the_one_known_is_not_trusted(
    tmp_path: Path, sshd: Sshd, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sshd/known").write_text("")
    with Tunnel(sshd.through, "tcp://127.0.0.1:9", options=sshd.options):
        until(lambda: "Host key verification failed" in caplog.text, "the refusal")


def test_ssh_ends_with_its_owner_however_that_ends(sshd: Sshd) -> None:
    command = [sys.executable, "-c", OWNER, sshd.through, "tcp://127.0.0.1:9", *sshd.options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as owner:
        until(lambda: clients(sshd.port), "ssh")
        owner.send_signal(signal.SIGKILL)
    until(lambda: not clients(sshd.port), "the end of ssh")


def test_without_ssh_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(AddressError, match="needs the program ssh"):
        Tunnel("user@host", "tcp://127.0.0.1:9")
