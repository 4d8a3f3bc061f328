"""The chaos run: a learner and four edges as a user starts them, and whatever can befall them, at random, all at once.

At the end everything is healed, and then nothing that was recorded may be lost, stored twice or changed.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import cells_of
from robotlearn.config.load import load_config
from robotlearn.contract import contract
from robotlearn.errors import WireError
from robotlearn.wire import record
from robotlearn.wire.bad_link import BadLink, Faults
from tests.disk import Disk
from tests.e2e.courier import Courier
from tests.e2e.evidence import Evidence
from tests.e2e.harness import Accounts, Program, Site, accounts, batch, check_metrics, free_port, paced, tiny, wait_for

EDGES = ("north", "east", "south", "west")
ARM = "west"
"""The one with an arm process and a policy server of its own."""
MAX_STALENESS = 7
"""So that training goes on while most edges are cut off with episodes that were granted to them."""
OFFLINE_EPISODES = 60
SPOOL_BYTES = 16 << 20
DISK_BYTES = {"learner": 4 << 30, "edge": 2 * SPOOL_BYTES}

Undo = Callable[[], None]
_NO_SPACE = "No space left on device"


class Kind(NamedTuple):
    """How often a fault comes, against the others, and how long it lasts [s]; a killed process is away so long."""

    weight: float
    shortest_s: float = 0.0
    longest_s: float = 0.0


KINDS = {
    "kill learner": Kind(1, 0.2, 4),
    "kill edge": Kind(3, 0.2, 4),
    "kill arm": Kind(0.5),
    "kill policy server": Kind(0.5),
    "stop learner": Kind(1, 2, 20),
    "partition": Kind(2, 5, 30),
    "partition of all": Kind(0.5, 5, 30),
    "200 ms delay": Kind(2, 10, 30),
    "1 Mbit/s": Kind(2, 10, 30),
    "reset": Kind(2),
    "resets every 2 s": Kind(1, 5, 20),
    "corrupted bytes": Kind(2, 5, 20),
    "half-open": Kind(2),
    "re-sent segments": Kind(3, 2, 5),
    "full disk at an edge": Kind(1.5, 5, 20),
    "full disk at the learner": Kind(1.5, 5, 20),
}
_ON_THE_LINE = {
    "partition": {"hole": True},
    "200 ms delay": {"delay_ms": 200.0, "jitter_ms": 50.0},
    "1 Mbit/s": {"mbit": 1.0},
    "resets every 2 s": {"drop_every_s": 2.0},
    "corrupted bytes": {"corrupt_every_bytes": 20_000},
}


class Fault(NamedTuple):
    """One that happened: when, in seconds since the first could, for how long, what, to whom."""

    at: float
    seconds: float
    kind: str
    whom: str


@dataclass
class Result:
    """What a chaos run shows once all has been held.

    Attributes:
        began: time.time() of the first fault at the earliest.
        seen: by edge, records whose hash was compared.
        resent: records that the courier brought and had answered for.
        gave_up: programs that ended by themselves because they were started on a full disk.
        versions: by edge, how many versions it acted with.
    """

    seed: int
    began: float
    seconds: float
    faults: list[Fault]
    accounts: Accounts
    seen: dict[str, int]
    resent: int
    gave_up: Counter[str]
    versions: dict[str, int]
    rows: list[dict[str, Any]] = field(repr=False)

    @property
    def duplicates(self) -> int:
        """Records that the learners refused to store again; of one that was killed, what it told last."""
        counts = [row["segments_duplicate"] for row in self.rows]
        return sum(now for now, after in zip(counts, [*counts[1:], 0], strict=True) if after < now)

    def summary(self) -> str:
        """In lines."""
        kinds = Counter(fault.kind for fault in self.faults)
        lines = [
            f"seed {self.seed}, {self.seconds / 60:.1f} minutes, {len(self.faults)} faults: "
            + ", ".join(f"{count} × {kind}" for kind, count in sorted(kinds.items())),
            f"{len(self.accounts.headers):,} segments stored, each once; {self.duplicates:,} duplicates refused, "
            f"{self.resent:,} of them brought by another peer",
            f"{len(self.rows):,} updates, to version {self.rows[-1]['version']:,}; in each minute: "
            + " ".join(map(str, self.per_minute())),
        ]
        if self.gave_up:
            lines.append(f"ended when started on a full disk: {dict(self.gave_up)}")
        for edge, count in self.accounts.counts.items():
            lines.append(
                f"{edge}: {count.recorded:,} recorded = {count.acknowledged:,} acknowledged + {count.pending} in its "
                f"log + {count.evicted} evicted + {count.rejected} rejected, in "
                f"{len({session for session, _ in self.accounts.stored[edge]})} lives; {self.seen[edge]:,} compared "
                f"byte by byte; {self.versions[edge]:,} versions, only growing"
            )
        return "\n".join(lines)

    def per_minute(self) -> list[int]:
        """Updates in each minute since the first fault."""
        minutes = Counter(int((row["time"] - self.began) // 60) for row in self.rows)
        return [minutes[minute] for minute in range(math.ceil(self.seconds / 60))]


class Chaos:
    """Owns the programs, a link and a disk for each, and what ails them now. Used by one thread, from start to end."""

    def __init__(self, site: Site, *, seed: int, say: Callable[[str], object] = print) -> None:
        """`seed` decides which faults come, to whom, after how long and for how long."""
        self._site, self._seed, self._say = site, seed, say
        self._random = random.Random(seed)
        self._disks: dict[str, Disk] = {}
        self._links: dict[str, BadLink] = {}
        self._line_faults: dict[str, list[Mapping[str, Any]]] = {edge: [] for edge in EDGES}
        self._programs: dict[str, Program] = {}
        self._start_at: dict[str, float] = {}  # of those that are to be started (again)
        self._began = self._clock = 0.0
        self._undo: list[tuple[float, Undo]] = []
        self._faults: list[Fault] = []
        self._resent = 0
        self._gave_up: Counter[str] = Counter()
        self._evidence = Evidence(site, *EDGES)
        self._address = f"tcp://127.0.0.1:{free_port()}"

    def run(self, seconds: float) -> Result:
        """Start everything, let faults come for so long, heal, stop, hold what is promised."""
        self._prepare()
        began = time.time()
        self._began = time.monotonic()
        self._torment(seconds)
        self._heal()
        self._stop()
        return self._judge(began, seconds)

    def close(self, *, keep: bool = False) -> None:
        """Whatever happened: nothing of it is left, but with `keep` the run folder."""
        for link in self._links.values():
            link.close()
        self._site.close()
        if keep:
            for disk in self._disks.values():  # what is kept of an inner one is copied into the outer one first
                disk.free(4 << 30)
        for disk in reversed(self._disks.values()):  # of what is mounted inside another, first the inner one
            disk.close(keep=keep)

    # ---- start

    def _prepare(self) -> None:
        if Disk.allowed():
            self._disks["learner"] = Disk(self._site.run, DISK_BYTES["learner"])
            for edge in EDGES:
                self._disks[edge] = Disk(self._site.state(edge), DISK_BYTES["edge"])
        else:
            self._say("no disk will be full: mounting one takes root")
        more = {"offline_episodes": OFFLINE_EPISODES, "spool": {"max_bytes": SPOOL_BYTES}}
        edges = [paced(edge, **more) if edge == ARM else batch(edge, **more) for edge in EDGES]
        self._config = self._site.config(tiny(*edges, learner={"max_staleness": MAX_STALENESS}))
        loaded = load_config(self._config)
        self._contract = contract(loaded, cells_of(loaded))
        for index, edge in enumerate(EDGES):
            self._links[edge] = BadLink(self._address, seed=self._seed + index)
        for name in ("learner", *EDGES):
            self._start(name)
        wait_for(self._at_work, "updates, and segments of every edge", *self._programs.values())

    def _at_work(self) -> bool:
        self._evidence.look()
        return self._site.updates_since(0, 3) and all(self._site.sessions(edge) for edge in EDGES)

    def _start(self, name: str) -> None:
        if name != "learner":
            program = self._site.edge(self._config, name, self._links[name].address)
        else:
            again = ["--resume"] if (self._site.run / "config.yaml").exists() else []
            program = self._site.learner(self._config, f"learner.bind={self._address}", *again)
        self._programs[name] = program

    # ---- faults

    def _torment(self, seconds: float) -> None:
        deck: list[str] = []  # first one of each, so that none is missing
        if "learner" not in self._disks:
            deck = [kind for kind in KINDS if not kind.startswith("full disk")]
        else:
            deck = list(KINDS)
        kinds = list(deck)
        self._random.shuffle(deck)
        between_s = min(4.0, seconds / len(kinds) / 3.5)
        due = self._now()
        while self._now() < seconds:
            if self._now() >= due:
                kind = deck.pop() if deck else self._random.choices(kinds, [KINDS[one].weight for one in kinds])[0]
                self._inflict(kind)
                due += self._random.expovariate(1 / between_s)
            self._tend()

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _tend(self) -> None:
        """One turn: undo what is due, start what is due, see who has ended, look at what was recorded."""
        now = self._now()
        over = [undo for at, undo in self._undo if at <= now]
        self._undo = [(at, undo) for at, undo in self._undo if at > now]
        for undo in over:
            undo()
        for name in [name for name, at in self._start_at.items() if at <= now]:
            del self._start_at[name]
            self._start(name)
        for name, program in self._programs.items():
            if name not in self._start_at and program.status is not None:
                self._ended(name, program)
        self._evidence.look()
        time.sleep(0.1)

    def _ended(self, name: str, program: Program) -> None:
        """A program ended that nobody killed: only one that was started on a full disk may."""
        assert _NO_SPACE in program.tail(), f"{name} ended by itself, with {program.status}:\n{program.tail()}"
        self._gave_up[name] += 1
        self._start_at[name] = self._now() + 2.0

    def _inflict(self, kind: str) -> None:
        _, shortest, longest = KINDS[kind]
        seconds = self._random.uniform(shortest, longest)
        whom = self._random.choice(EDGES)
        undo: Undo | None = None
        match kind:
            case "kill learner":
                whom = "learner"
                self._kill(whom, seconds)
            case "kill edge":
                self._kill(whom, seconds)
            case "kill arm" | "kill policy server":
                whom = f"{kind.removeprefix('kill ')} of {ARM}"
                self._kill_child(kind.removeprefix("kill ").replace(" ", "-"))
            case "stop learner":
                whom = "learner"
                undo = self._pause(self._programs[whom])
            case "partition of all":
                whom = "all"
                every = [self._worsen(edge, _ON_THE_LINE["partition"]) for edge in EDGES]
                undo = lambda: [one() for one in every] and None  # noqa: E731
            case "reset":
                self._links[whom].reset()
            case "half-open":
                self._links[whom].half_open()
            case "re-sent segments":
                undo = self._send_again(whom)
            case "full disk at an edge":
                undo = self._fill(whom)
            case "full disk at the learner":
                whom = "learner"
                undo = self._fill(whom)
            case _:
                undo = self._worsen(whom, _ON_THE_LINE[kind])
        if undo is not None:
            self._undo.append((self._now() + seconds, undo))
        self._faults.append(Fault(self._now(), seconds, kind, whom))
        self._say(f"{self._now():6.1f} s  {kind}: {whom}" + (f", {seconds:.1f} s" if seconds else ""))

    def _kill(self, name: str, away_s: float) -> None:
        self._programs[name].kill()
        self._start_at.setdefault(name, self._now() + away_s)

    def _kill_child(self, part: str) -> None:
        for pid in self._site.processes(part, ARM):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _pause(self, program: Program) -> Undo:
        program.send(signal.SIGSTOP)
        return partial(program.send, signal.SIGCONT)  # for one that was killed meanwhile, nothing

    def _worsen(self, edge: str, faults: Mapping[str, Any]) -> Undo:
        def renew() -> None:
            worst: dict[str, Any] = {}
            for one in self._line_faults[edge]:
                worst |= one
            self._links[edge].faults = Faults(**worst)

        def undo() -> None:
            self._line_faults[edge].remove(faults)
            renew()

        self._line_faults[edge].append(faults)
        renew()
        return undo

    def _fill(self, name: str) -> Undo | None:
        disk = self._disks[name]
        if disk.full:
            return None
        disk.fill()
        return disk.free

    def _send_again(self, edge: str) -> Undo:
        """The oldest that are stored, or the newest that the edge has recorded, of which some may not be stored."""
        old = self._random.random() < 0.5
        records = self._site.run / "segments" / "records" if old else self._site.state(edge) / "spool" / "records"
        files = sorted(records.glob("*.log"))
        found: list[bytes] = []
        if files:
            with (files[0] if old else files[-1]).open("rb") as stream:
                found = _records(stream.read(1 << 18 if old else -1))
        courier = Courier(self._links[edge].address, self._contract, found[:50] if old else found[-50:])

        def undo() -> None:
            self._resent += courier.close()

        return undo

    # ---- end

    def _heal(self) -> None:
        self._undo = [(0.0, undo) for _, undo in self._undo]
        self._start_at = dict.fromkeys(self._start_at, 0.0)
        self._say(f"{self._now():6.1f} s  all is healed")
        self._tend()
        # Where the disk was full, it starts a second later.
        wait_for(lambda: self._tend() or not self._start_at, "every program to run")
        watched = list(self._programs.values())
        newest = self._site.newest()
        before = {edge: len(self._evidence.seen(edge)) for edge in EDGES}
        left = [header for edge in EDGES for header in self._site.recorded(edge)]

        def recovered() -> bool:
            self._evidence.look()
            goes_on = all(len(self._evidence.seen(edge)) > before[edge] for edge in EDGES)
            return goes_on and self._site.updates_since(newest, 10)

        wait_for(recovered, "updates and segments of every edge after the last fault", *watched)
        wait_for(lambda: self._site.delivered(left), "all that was recorded before to be stored", *watched)

    def _stop(self) -> None:
        for edge in EDGES:
            self._programs[edge].send(signal.SIGTERM)
        for edge in EDGES:
            assert self._programs[edge].ended() == 0, self._programs[edge].tail()
        self._evidence.look()
        self._programs["learner"].stop(signal.SIGINT)
        self._site.gone()

    def _judge(self, began: float, seconds: float) -> Result:
        for program in self._site.programs:
            traces = [line for line in program.lines if "Traceback" in line]
            assert not traces, f"{program.name} has printed a traceback:\n{program.tail()}"
        found = accounts(self._site, *EDGES)
        check_metrics(self._site, MAX_STALENESS)
        seen = self._evidence.check(found.pending)
        result = Result(
            self._seed, began, seconds, self._faults, found, seen, self._resent, self._gave_up,
            _check_versions(self._site), self._site.rows(),
        )  # fmt: skip
        during = [row for row in result.rows if began < row["time"] < began + seconds]
        assert during, "no update while there were faults"
        return result


def _records(data: bytes) -> list[bytes]:
    """The whole records at the start."""
    offset, found = 0, []
    with contextlib.suppress(WireError):
        while offset < len(data):
            one = data[offset : offset + record.prefix(data, offset).length]
            record.check(one)
            found.append(one)
            offset += len(one)
    return found


def _check_versions(site: Site) -> dict[str, int]:
    """Hold that no edge ever went back to an older version, whatever was restarted; how many each acted with.

    All processes are on one machine, so that their monotonic clocks are one.
    """
    acted: dict[str, list[tuple[float, int]]] = {edge: [] for edge in EDGES}
    with SegmentStore(site.run / "segments") as store:
        for _, segment in store.scan():
            times = segment.monotonic[segment.chunk_start].tolist()
            acted[segment.edge] += zip(times, segment.chunk_version.tolist(), strict=True)
    for edge, chunks in acted.items():
        versions = np.array([version for _, version in sorted(chunks)])
        back = np.flatnonzero(np.diff(versions) < 0)
        assert not len(back), f"{edge} went back to version {versions[back[0] + 1]} after {versions[back[0]]}"
    return {edge: len({version for _, version in chunks}) for edge, chunks in acted.items()}
