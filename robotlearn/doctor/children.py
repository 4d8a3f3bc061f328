"""Runs probes as child processes, side by side, each with its own end: a library that crashes takes its probe only."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PROBE = Path(__file__).with_name("probe.py")
PATIENCE_S = 25.0
"""A cold disk may take its time over torch; the usual probe is done within seconds."""

Found = dict[str, dict[str, Any]]
"""What each thing that was probed said of itself; "error" says why it doesn't work."""


def run_probes(
    probes: Mapping[str, tuple[Sequence[str], Mapping[str, str]]],
    progress: Callable[[list[str]], None] = lambda waiting: None,
    patience_s: float = PATIENCE_S,
) -> Found:
    """Name to (arguments of probe.py, additional environment); `progress` is told now and then who is still at it."""
    children: dict[str, subprocess.Popen[str]] = {}
    found: Found = {}
    for name, (arguments, environment) in probes.items():
        try:
            children[name] = subprocess.Popen(
                # -P: not the folder of the probe, and not the user's, comes first; what there is, is what is probed.
                [sys.executable, "-P", str(PROBE), *arguments],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            found[name] = {"error": f"the probe does not start: {error}"}
    deadline = time.monotonic() + patience_s
    for name, child in children.items():
        late = False
        while True:
            progress([other for other, process in children.items() if process.poll() is None])
            try:
                out, err = child.communicate(timeout=min(0.2, max(0.01, deadline - time.monotonic())))
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() >= deadline:
                    late = True
                    os.killpg(child.pid, signal.SIGKILL)
                    out, err = child.communicate()
                    break
        end = f"it took longer than {patience_s:.0f} s" if late else _end(child.returncode, err)
        found |= _read(out, name, end)
    return found


def _read(out: str, probe: str, end: str) -> Found:
    found: Found = {}
    begun = ""
    for line in out.splitlines():
        try:
            facts = json.loads(line)
        except ValueError:
            continue  # a library that talks
        if not isinstance(facts, dict):
            continue
        if "begins" in facts:
            begun = facts["begins"]
        elif "name" in facts:
            found[facts.pop("name")] = facts
            begun = ""
    if begun or not found:
        found[begun or probe] = {"error": end}
    return found


def _end(status: int, err: str) -> str:
    last = (err.strip().splitlines() or [""])[-1]
    if status < 0:
        return f"it crashed ({signal.Signals(-status).name})" + (f": {last}" if last else "")
    return f"it ended with status {status}" + (f": {last}" if last else "")
