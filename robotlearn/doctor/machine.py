"""The machine: cores, memory, disk, limits, clock. Every function is one look that costs milliseconds."""

import ctypes
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from robotlearn.doctor.check import Check

SECTION = "machine"
GIB = 1 << 30
STATE = Path(".local") / "state" / "robotlearn"
SLOW_S = 0.05
"""An edge syncs its log a few times a second: above this, recording falls behind."""
ENOUGH_FILES = 1024
STA_UNSYNC = 0x40


def cores() -> Check:
    """Cores that this process may use: affinity and cgroup bound what `nproc` counts."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [f"{os.cpu_count()} in the machine"]
    quota = cgroup_quota(Path("/sys/fs/cgroup"), _groups())
    if usable < (os.cpu_count() or 1):
        parts.append(f"affinity leaves {usable}")
    if quota is not None and quota < usable:
        parts.append(f"the cgroup allows {quota:g}")
    real = min(usable, quota) if quota is not None else usable
    detail = f"{real:g} usable ({', '.join(parts)})"
    if real < 2:
        return Check(SECTION, "cores", "warning", detail, "learner and edges take turns on one core: all is slower")
    return Check(SECTION, "cores", "ok", detail)


def memory() -> Check:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
    total, free = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    detail = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    bound = cgroup_memory(Path("/sys/fs/cgroup"), _groups())
    if bound is not None and bound < total:
        detail += f"; the cgroup allows {bound / GIB:.1f} GiB"
        free = min(free, bound)
    if free < 2 * GIB:
        return Check(SECTION, "memory", "warning", detail, "learner and two edges take about 2 GiB: end other programs")
    return Check(SECTION, "memory", "ok", detail)


def cgroup_quota(root: Path, groups: list[str]) -> float | None:
    """Cores that the tightest of the process's cgroups (v2 or v1) allows; None: no bound."""
    found = []
    for group in groups:
        for path in _upwards(group):
            parts = _words(root / path / "cpu.max")  # v2: quota and period, or "max"
            if len(parts) == 2 and parts[0] != "max":
                found.append(int(parts[0]) / int(parts[1]))
            quota, period = (_words(root / "cpu" / path / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            if quota and period and int(quota[0]) > 0:
                found.append(int(quota[0]) / int(period[0]))
    return min(found, default=None)


def cgroup_memory(root: Path, groups: list[str]) -> int | None:
    """Bytes that the tightest of the process's cgroups allows; None: no bound."""
    found = []
    for group in groups:
        for path in _upwards(group):
            for file in (root / path / "memory.max", root / "memory" / path / "memory.limit_in_bytes"):
                words = _words(file)
                if words and words[0] != "max" and int(words[0]) < 1 << 60:
                    found.append(int(words[0]))
    return min(found, default=None)


def _groups() -> list[str]:
    lines = Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else []
    return [*{line.split(":", 2)[2].strip("/") for line in lines if line.count(":") >= 2}] or [""]


def _upwards(group: str) -> list[str]:
    parts = [part for part in group.split("/") if part not in ("", "..")]
    return ["/".join(parts[:count]) for count in range(len(parts), -1, -1)]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def disk(name: str, folder: Path, remedy: str, ways: tuple[str, ...]) -> Check:
    """Room, and the time of a durable write, where `folder` is or will be; nothing stays behind."""
    place = folder
    while not place.exists():
        place = place.parent
    try:
        if not place.is_dir():
            raise NotADirectoryError(f"{place} is a file")
        free = shutil.disk_usage(place).free
        spent = []
        with tempfile.NamedTemporaryFile(dir=place, prefix=".robotlearn-doctor-") as stream:
            for _ in range(5):
                begun = time.perf_counter()
                stream.write(bytes(64 << 10))
                stream.flush()
                os.fsync(stream.fileno())
                spent.append(time.perf_counter() - begun)
    except OSError as error:
        return Check(SECTION, name, "broken", f"{folder} can't be written: {error.strerror or error}", remedy, ways)
    median = statistics.median(spent)
    detail = f"{folder}: {free / GIB:.1f} GiB free, write + fsync of 64 KiB {median * 1e3:.1f} ms"
    if free < GIB:
        return Check(SECTION, name, "warning", detail, "make room: what an edge can't write it must evict", ways)
    if median > SLOW_S:
        return Check(SECTION, name, "warning", detail, f"slow: choose a local disk. {remedy}", ways)
    return Check(SECTION, name, "ok", detail, "", ways)


def disks() -> list[Check]:
    return [
        disk("state folder", Path.home() / STATE, "give edges a --state FOLDER that can be written", ("apart", "arms")),
        disk("run folder", Path.cwd() / "runs", "start in another folder, or give --run FOLDER", ("train",)),
    ]


def files() -> Check:
    """A socket is a file: libzmq takes a handful per edge at a learner."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    words = ["unlimited" if value == resource.RLIM_INFINITY else str(value) for value in (soft, hard)]
    detail = f"{words[0]} at once (at most {words[1]})"
    if soft != resource.RLIM_INFINITY and soft < ENOUGH_FILES:
        return Check(SECTION, "open files", "warning", detail, "ulimit -n 4096, before a learner of many edges")
    return Check(SECTION, "open files", "ok", detail)


def shared_memory() -> Check:
    """What Ray keeps its objects in, and torch's data loaders their batches; ZeroMQ needs none."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return Check(SECTION, "shared memory", "ok", "no /dev/shm; only Ray would use it")
    usage = shutil.disk_usage(place)
    detail = f"/dev/shm: {usage.free / GIB:.2f} of {usage.total / GIB:.2f} GiB free; only Ray uses it"
    if usage.free < 64 << 20:
        return Check(SECTION, "shared memory", "warning", detail, "a container: docker run --shm-size=2g")
    return Check(SECTION, "shared memory", "ok", detail)


class _Timex(ctypes.Structure):
    """The beginning of Linux's `struct timex` (adjtimex(2)), and room for the rest."""

    _fields_ = [
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_char * 256),
    ]  # fmt: skip


def clock() -> Check:
    """Whether the kernel's clock is kept by NTP or PTP: edges stamp what they record with it."""
    name = "clock"
    if sys.platform != "linux":
        return Check(SECTION, name, "ok", "not looked at on this system")
    state = _Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state)) < 0:
        return Check(SECTION, name, "ok", f"can't be asked here ({os.strerror(ctypes.get_errno())})")
    if state.status & STA_UNSYNC:
        remedy = "timedatectl set-ntp true, or apt install chrony"
        return Check(SECTION, name, "warning", "nothing keeps it right: wall times of machines drift apart", remedy)
    return Check(SECTION, name, "ok", f"kept by NTP or PTP, at most {state.maxerror / 1e3:.0f} ms off")
