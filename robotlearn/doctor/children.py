"""Runs probes as child processes, side by side: a library that crashes or hangs takes its probe along, and no other."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

PROBE = Path(__file__).with_name("probe.py")
PATIENCE_S = 60.0
"""A cold disk may take its time over torch; the usual probe is done within seconds."""

Found = dict[str, dict[str, Any]]
"""What was found of each thing that was tried; "error" says why it doesn't work. What no probe came to is not in it."""


class Probe(NamedTuple):
    """One child: the arguments of probe.py, and what is added to the environment."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = {}


def run_probes(
    probes: Mapping[str, Probe],
    waiting: Callable[[list[str]], None] = lambda names: None,
    patience_s: float = PATIENCE_S,
) -> Found:
    """Blocks until all have ended, at most `patience_s`; `waiting` is told now and then who is still at it."""
    found: Found = {}
    with ExitStack() as stack:
        children = {}
        for name, probe in probes.items():
            out, err = (stack.enter_context(tempfile.TemporaryFile("w+", errors="replace")) for _ in range(2))
            child = subprocess.Popen(
                # -P: neither the probe's folder nor the working directory comes first.
                [sys.executable, "-P", str(PROBE), *probe.arguments], env={**os.environ, **probe.environment},
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip
            stack.callback(_end, child)
            children[name] = child, out, err
        deadline = time.monotonic() + patience_s
        while (busy := [name for name, (child, *_) in children.items() if child.poll() is None]) and (
            time.monotonic() < deadline
        ):
            waiting(busy)
            time.sleep(0.05)
        for name, (child, out, err) in children.items():
            reason = f"took longer than {patience_s:g} s" if name in busy else _reason(child.returncode, _text(err))
            found |= _read(_text(out), name, reason)
    return found


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # stuck in a driver, it ends when it comes back
            child.wait(2.0)


def _text(stream: Any) -> str:
    stream.seek(0)
    return stream.read()


def _read(out: str, probe: str, reason: str) -> Found:
    """`reason`: why it ended, should it have ended before it said all."""
    found: Found = {}
    begun = probe
    for line in out.splitlines():
        if line.startswith("begins "):
            begun = line.removeprefix("begins ")
        elif line.startswith("found "):
            found[begun] = json.loads(line.removeprefix("found "))
    return found if begun in found else found | {begun: {"error": reason}}


def _reason(status: int, err: str) -> str:
    said = [line for line in err.splitlines() if line and not line[0].isspace()]
    how = f"crashed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
    return how + (f": {said[-1]}" if said else "")
