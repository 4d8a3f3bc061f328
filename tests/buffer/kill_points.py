"""Kill a process before each call by which it changes what is on disk, whoever makes the call: Python, SQLite, Rust.

Linux only (ptrace). For code of ours that goes through `Files`, see `faults.py`, which needs nothing and also breaks
off in the middle of a write.
"""

import ctypes
import importlib
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.buffer.faults import run_until_killed

_O_CREAT = 0o100
# write, writev, pwrite64, pwritev, pwritev2, sendfile, copy_file_range, fallocate
_TO_FILES = {"x86_64": {1, 20, 18, 296, 328, 40, 326, 285}, "aarch64": {64, 66, 68, 70, 287, 71, 285, 47}}
# (f)truncate, fsync, fdatasync, rename*, unlink*, rmdir, mkdir*, link*
_OTHERS = {
    "x86_64": {76, 77, 74, 75, 82, 264, 316, 87, 263, 84, 83, 258, 86, 265},
    "aarch64": {45, 46, 82, 83, 38, 276, 35, 34, 37},
}
_OPENAT = {"x86_64": 257, "aarch64": 56}
_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_TRACESYSGOOD = 1
_ENTRY = 1


@dataclass
class Killed:
    """One life: before which of its calls it was killed, and what it had said by then. `ended`: it came to its end."""

    at: int
    path: Path
    ended: bool = False
    said: list[list[str]] = field(default_factory=list)

    def numbers(self, word: str) -> list[int]:
        """The numbers that it said behind a word."""
        return [int(number) for first, *numbers in self.said if first == word for number in numbers]


def kill_at_calls(work: Callable[..., None], path: Path, *, step: int = 1, imports: str = "os") -> list[Killed]:
    """Let `work(say, folder)` live once for each `step`-th call that changes the disk, and be killed before it; the
    last life comes to its end. Each has a folder of its own in `path`. `imports`: a module, imported once for all.
    """
    if not sys.platform.startswith("linux") or platform.machine() not in _OPENAT:
        pytest.skip("ptrace is used as Linux has it")
    told, _ = run_until_killed(_all_lives, work, path, step, imports)
    lives: dict[int, Killed] = {}
    for line in told.splitlines():
        at, *words = line.split()
        life = lives.setdefault(int(at), Killed(int(at), path / at))
        if words == ["ended"]:
            life.ended = True
        elif words == ["refused"]:
            pytest.skip("ptrace is not allowed here")
        elif words[0] == "failed":
            raise AssertionError(f"the child failed: {line}")
        else:
            life.said.append(words)
    return list(lives.values())


def _all_lives(say: Callable[..., None], work: Callable[..., None], path: Path, step: int, imports: str) -> None:
    importlib.import_module(imports)
    at = 0
    while True:
        folder = path / str(at)
        folder.mkdir(parents=True)
        say(at, "begins")
        end = _live(lambda *words, at=at: say(at, *words), work, folder, at)
        if end:
            say(at, end)
            return
        at += step


def _live(say: Callable[..., None], work: Callable[..., None], folder: Path, at: int) -> str:
    """One life in a child, killed before its call number `at`: "" then, "ended" when it never came so far."""
    child = os.fork()
    if not child:
        status = 1
        try:
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            work(say, folder)
            status = 0
        except BaseException as error:
            say("failed", type(error).__name__, error)
        finally:
            os._exit(status)
    os.waitpid(child, 0)
    try:
        _ptrace(_SETOPTIONS, child, data=_TRACESYSGOOD)
    except OSError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "refused"
    calls, deliver = 0, 0
    while True:
        _ptrace(_SYSCALL, child, data=deliver)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            return "ended" if status == 0 else "failed"
        stopped = os.WSTOPSIG(status)
        deliver = 0 if stopped == signal.SIGTRAP | 0x80 else stopped
        if not deliver and _changes_disk(child):
            if calls == at:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return ""
            calls += 1


def _changes_disk(child: int) -> bool:
    """Whether the child is about to make such a call."""
    info = ctypes.create_string_buffer(88)
    _ptrace(_GET_SYSCALL_INFO, child, len(info), ctypes.addressof(info))
    if info.raw[0] != _ENTRY:
        return False
    number, *arguments = struct.unpack_from("<7Q", info.raw, 24)
    machine = platform.machine()
    if number in _TO_FILES[machine]:
        return os.path.isfile(f"/proc/{child}/fd/{arguments[0]}")  # not where it says something
    return number in _OTHERS[machine] or (number == _OPENAT[machine] and bool(arguments[2] & _O_CREAT))


def _ptrace(request: int, child: int, address: int = 0, data: int = 0) -> None:
    call: Any = _libc.ptrace
    call.argtypes, call.restype = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p), ctypes.c_long
    if call(request, child, address, data) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


_libc = ctypes.CDLL(None, use_errno=True)
