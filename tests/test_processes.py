"""Child processes: none outlives its parent, none outlives `stop_all`, and one that dies is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from robotlearn import processes
from robotlearn.processes import Child, Keeper, Tail, stop_all
from tests.waiting import until


@pytest.fixture(autouse=True)
def python(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child runs `python -m robotlearn ARGUMENTS`; here it runs `python -c SCRIPT`."""
    popen = subprocess.Popen

    def start(command: list[str], **options: object) -> subprocess.Popen:
        ours = command[:3] == [sys.executable, "-m", "robotlearn"]
        return popen([sys.executable, "-c", *command[3:]] if ours else command, **options)

    monkeypatch.setattr(processes.subprocess, "Popen", start)


def alive(pid: int) -> bool:
    """Runs: not gone, and not a zombie that its (dead) parent's heir has yet to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the second where it ended between opening and reading
        return False


CHILD = """
import sys
from robotlearn.processes import stop_on_signals
stop = stop_on_signals()
print("ready", flush=True)
stop.wait()
print("stopped", flush=True)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    time.sleep(1)
"""
# A parent with a child that has a child of its own, all by `Child`; each says its process id.
TREE = """
import os, subprocess, sys
from pathlib import Path
import robotlearn.processes as processes
popen = subprocess.Popen
def start(command, **options):
    return popen([sys.executable, "-c", *command[3:]], **options)
processes.subprocess.Popen = start
stop = processes.stop_on_signals()
depth, folder = int(sys.argv[1]), Path(sys.argv[2])
child = processes.Child("child", [sys.argv[3], str(depth - 1), str(folder), sys.argv[3]]) if depth else None
(folder / f"{depth}.new").write_text(str(os.getpid()))
(folder / f"{depth}.new").rename(folder / str(depth))
stop.wait()
if child:
    processes.stop_all([child])
"""


def test_when_the_parent_is_killed_its_children_and_theirs_end(tmp_path: Path) -> None:
    top = subprocess.Popen([sys.executable, "-c", TREE, "2", str(tmp_path), TREE], start_new_session=True)
    try:
        until(lambda: all((tmp_path / str(depth)).exists() for depth in range(3)), "three generations")
        pids = [int((tmp_path / str(depth)).read_text()) for depth in range(3)]
        assert pids[2] == top.pid and all(alive(pid) for pid in pids)
        top.kill()
        top.wait()
        until(lambda: not any(alive(pid) for pid in pids), "children and grandchildren to end")
    finally:
        top.kill()
        for path in tmp_path.iterdir():
            if alive(int(path.read_text())):
                os.kill(int(path.read_text()), signal.SIGKILL)


def test_a_child_that_closes_its_end_cleanly_writes_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    child = Child("child", [CHILD], log)
    until(lambda: "ready" in log.read_text(), "the child to be ready")
    stop_all([child])
    assert child.status == 0
    assert log.read_text() == "before\nready\nstopped\n"


def test_a_child_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    logs = [tmp_path / "polite", tmp_path / "stubborn"]
    children = [Child("child", [text], log) for text, log in zip((CHILD, STUBBORN), logs, strict=True)]
    until(lambda: all("ready" in log.read_text() for log in logs), "both to be ready")
    stop_all(children, patience_s=0.5)
    assert [child.status for child in children] == [0, -signal.SIGKILL]


def test_what_a_killed_child_started_goes_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = (
        "import subprocess, sys, time\nprint(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    )
    child = Child("child", [text + ".pid, flush=True)\ntime.sleep(600)"], log)
    until(lambda: log.read_text().endswith("\n"), "the grandchild")
    grandchild = int(log.read_text())
    assert alive(grandchild)
    child.kill()
    until(lambda: not alive(grandchild), "the grandchild to end")


def test_a_child_in_a_session_of_its_own_does_not_get_the_terminals_signals(tmp_path: Path) -> None:
    child = Child("child", [CHILD], tmp_path / "log")
    assert os.getsid(child.process.pid) == child.process.pid != os.getsid(0)
    until(lambda: "ready" in (tmp_path / "log").read_text(), "the child to be ready")
    stop_all([child])


def test_the_second_signal_ends_a_process_at_once(tmp_path: Path) -> None:
    text = CHILD.replace("stop.wait()", "stop.wait(); print('asked', flush=True); import time; time.sleep(600)")
    log = tmp_path / "log"
    child = Child("child", [text], log)
    until(lambda: "ready" in log.read_text(), "the child to be ready")
    child.process.send_signal(signal.SIGINT)
    until(lambda: "asked" in log.read_text(), "the first signal to be seen")
    child.process.send_signal(signal.SIGINT)
    assert child.process.wait(20) == 130
    child.close()


def test_a_keeper_starts_its_child_again_and_waits_longer_each_time() -> None:
    started: list[float] = []

    def start() -> Child:
        started.append(time.monotonic())
        return Child("child", ["raise SystemExit(7)"])

    keeper = Keeper(start, first_delay_s=0.1, longest_delay_s=0.4)
    statuses: list[int] = []

    def tend() -> bool:
        status = keeper.tend()
        if status is not None:
            statuses.append(status)
        return keeper.restarts == 4

    until(tend, "four restarts")
    stop_all([keeper.child])
    assert statuses == [7] * 4
    # Not before the delay: 0.1, 0.2, 0.4, and then no longer than that. How much later is the machine's business.
    gaps = [after - before for before, after in pairwise(started)]
    assert all(gap >= delay for gap, delay in zip(gaps, (0.1, 0.2, 0.4, 0.4), strict=True))
    assert keeper._delay == 0.4


def test_a_keeper_leaves_a_child_that_runs_alone(tmp_path: Path) -> None:
    keeper = Keeper(lambda: Child("child", [CHILD], tmp_path / "log"))
    until(lambda: "ready" in (tmp_path / "log").read_text(), "the child to be ready")
    assert keeper.tend() is None and keeper.restarts == 0
    stop_all([keeper.child])


def test_a_tail_gives_each_whole_line_once(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    assert tail.lines() == []  # it may come later
    with (tmp_path / "log").open("wb", buffering=0) as stream:
        stream.write(b"one\ntwo\nth")
        assert tail.lines() == ["one", "two"]
        assert tail.lines() == []
        stream.write(b"ree\n\xff\n")
        assert tail.lines() == ["three", "\ufffd"]
