"""What off-policy algorithms learn from: batches of all that is stored, so many per environment step."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robotlearn.algorithms.base import OffPolicy
from robotlearn.buffer.compact import Evicted
from robotlearn.buffer.log_files import LogFiles, LogReader, Position
from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import Cell
from robotlearn.config.config import Config
from robotlearn.contract import Fit
from robotlearn.errors import ConfigError, LogError, WireError
from robotlearn.inputs import Inputs
from robotlearn.learner.feed import Feed, Heard
from robotlearn.replay.batches import BatchMaker
from robotlearn.replay.finished import Finished
from robotlearn.replay.memory import ReplayMemory
from robotlearn.replay.rate_limiter import RateLimiter
from robotlearn.replay.sampling import DEMONSTRATION, FORMER, ONLINE, Sampling
from robotlearn.wire import layout as layouts
from robotlearn.wire import record as records
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.intake import StoredSegment

log = logging.getLogger(__name__)

UNBOUNDED_UPDATES = 4
"""With max_staleness = inf edges may be so many updates ahead, and one episode per arm."""
_SHOWN = 50
"""Last episodes whose mean is the training success."""
_WARM_S = 0.05
"""While no update is due, for how long at a time memory is filled with what was on the disk before."""
_BEGINNING = Position(0, 0, 0)


def check_replay(config: Config, cells: Sequence[Cell]) -> None:
    """Raises ConfigError for a former run that isn't there, and for a part of batches that nothing can be of."""
    known: dict[Path, str] = {}
    for path, records_of in zip(config.replay.runs, _former(config), strict=True):
        if not records_of.is_dir():
            raise ConfigError(f"replay.runs: {path} holds no stored segments, expected the folder of a run")
        if (same := known.get(records_of.resolve())) is not None:
            raise ConfigError(f"replay.runs: {path} and {same} are the same, and would be drawn from twice as often")
        known[records_of.resolve()] = path
    robots = {cell.spec.embodiment for cell in cells}
    words = {text for cell in cells for text in cell.task.instructions}
    for number, part in enumerate(config.replay.sampling or ()):
        if part.robot is not None and part.robot not in robots:
            raise ConfigError(f"replay.sampling.{number}.robot: {part.robot!r} is none of this run's: {sorted(robots)}")
        if part.task is not None and not any(part.task in text for text in words):
            raise ConfigError(f"replay.sampling.{number}.task: {part.task!r} is in no instruction of {sorted(words)}")


def _former(config: Config) -> list[Path]:
    """Where the records of the former runs lie."""
    paths = [Path(path) for path in config.replay.runs]
    return [(path / "segments" if (path / "segments").is_dir() else path) / "records" for path in paths]


class _Staleness(NamedTuple):
    """By how many versions the chunks of episodes lay behind when they came."""

    chunks: int = 0
    total: int = 0
    largest: int = 0

    def with_episode(self, behind: NDArray[np.int64]) -> "_Staleness":
        if not len(behind):
            return self
        largest = int(behind.max())
        largest = max(largest, self.largest) if self.chunks else largest
        return _Staleness(self.chunks + len(behind), self.total + int(behind.sum()), largest)

    def row(self) -> dict[str, float]:
        return {"staleness_mean": self.total / self.chunks, "staleness_max": float(self.largest)}


class ReplayFeed(Feed):
    """Takes segments into the replay memory in the order of the log, and no further than the update that is due needs.

    So what an update learns from depends on the log, the config and the seed alone, not on when what arrived; a run
    that is resumed from a checkpoint goes on bit by bit, with the same log.
    """

    def __init__(
        self,
        algorithm: OffPolicy,
        config: Config,
        cells: Sequence[Cell],
        inputs: Inputs,
        store: SegmentStore,
        until: Position,
        gate: StalenessGate,
        heard: Heard | None,
        demonstrated: Path | None,
    ) -> None:
        """`store` holds what came before `until`, which nobody will `take`. `heard` is told of each segment of this
        run; None: nobody wants to know. `demonstrated`: a log of demonstrations, if there is one.
        """
        settings = config.replay
        self._algorithm, self._config, self._store, self._gate, self._heard = algorithm, config, store, gate, heard
        self._until, self._demonstrated, self._fit = until, demonstrated, Fit(config, cells)
        horizon = algorithm.window.horizon
        algorithm.window = replace(algorithm.window, steps=max(horizon, settings.n_step))
        try:
            self._memory = ReplayMemory(inputs, algorithm.window, settings.cache_bytes)
        except ValueError as error:
            raise ConfigError(f"replay.cache_bytes: this machine has not so much memory: {error}") from error
        self._sampling = Sampling(
            settings.sampling or algorithm.sampling,
            exponent=settings.priority_exponent,
            correction=settings.priority_correction,
        )
        device = algorithm.policy.device
        self._maker = BatchMaker(self._memory, self._sampling, settings.batch_size, pinned=device.type == "cuda")
        staleness = config.learner.max_staleness
        self._limiter = RateLimiter(
            settings.update_to_data,
            settings.steps_per_update,
            settings.starts_after,
            max_staleness=UNBOUNDED_UPDATES - 1 if staleness == math.inf else staleness,
            episode_steps=max(cell.task.episode_steps if config.episode_steps is None else config.episode_steps
                              for cell in cells),
        )  # fmt: skip
        self._arms = sum(getattr(edge, "arms", 1) for edge in config.edges) if staleness == math.inf else 0
        self._coming: deque[tuple[Position, bool]] = deque()
        """Stored and not taken in yet: where, and whether an episode ends there."""
        self._read_to = _BEGINNING
        self._damaged: list[Position] = []
        """Records of the run that couldn't be taken in."""
        if store.records.path.resolve() in {path.resolve() for path in _former(config)}:
            raise ConfigError("replay.runs: it names this run itself, whose steps are drawn from in any case")
        self._logs: list[LogFiles] = [store.records, *(LogReader(path) for path, _ in self._sources())]
        self._last: deque[Finished] = deque(maxlen=_SHOWN)
        self._staleness = self._staleness_before = _Staleness()
        """Of what came since the last update; and the last time that anything came before one."""
        self._unheard: list[tuple[Position, memoryview, Finished | None]] = []
        """Segments of which nobody was told yet, and the episode that each completed."""
        self._seconds, self._lost = 0.0, 0
        self._pace()

    def begin(self, facts: Mapping[str, Any] | None, state: Mapping[str, Tensor]) -> str:
        begun = time.monotonic()
        for source, (_, origin) in zip(self._logs[1:], self._sources(), strict=True):
            self._add_all(source, origin)
        if facts is not None:
            end = Position(*facts["end"])
            self.env_steps = int(facts["env_steps"])
            self._limiter.steps, self._limiter.updates = self.env_steps, int(facts["blocks"])
            self._damaged = [Position(*each) for each in facts["damaged"]]
            self._staleness, self._staleness_before = (_Staleness(*each) for each in facts.get("staleness", ((), ())))
            for position, record in self._store.records.scan(verify=False):
                if position[:2] >= end[:2]:
                    break
                if position not in self._damaged:
                    self._add(self._store.records, position, record, ONLINE, load=False)
            self._read_to = end
            named = {self._name(source): source for source in self._logs}
            places = [(named.get(name), Position(*place)) for name, *place in facts["unreadable"]]
            if unreadable := [(source, place) for source, place in places if source is not None]:
                self._sampling.keep(self._memory.drop_at(unreadable))
            if len(self._sampling) == facts["drawable"]:
                self._sampling.load({name: tensor.numpy() for name, tensor in state.items()})
            else:
                log.warning(
                    "%d steps could be drawn when this was saved, now %d: former runs were added or left out, or steps "
                    "were evicted since or are lost, which `robotlearn data verify` tells%s",
                    facts["drawable"], len(self._sampling),
                    "; what is prioritized begins with equal priorities" if state else "",
                )  # fmt: skip
        stored = self._store.scan_headers(self._read_to)
        waiting = [(position, header.last) for position, header in stored if position < self._until]
        self._gate.accepted(sum(last for _, last in waiting))  # besides those that came since the server began
        self._coming.extend(waiting)
        self._take_in()
        return f"{len(self._memory)} steps in the replay memory, opened in {time.monotonic() - begun:.1f} s"

    def take(self, stored: Sequence[StoredSegment]) -> None:
        self._coming.extend((one.position, one.header.last) for one in stored)
        self._take_in()
        self._tell()
        if not self.due:
            self._memory.warm(_WARM_S)

    @property
    def due(self) -> bool:
        return self._limiter.due

    @property
    def waits_for(self) -> str:
        return f"environment steps: {self._limiter.missing} more"

    def update(self, before_change: Callable[[], None]) -> tuple[dict[str, float], Sequence[Finished]] | None:
        number, limiter = self._limiter.updates, self._limiter
        limiter.updates += 1
        if not len(self._sampling):
            log.warning("update %d is passed over: nothing is stored of any part of a batch", number)
            return None
        # A generator of its own for each: a resumed run needs no state of one.
        rng = np.random.default_rng([self._config.seed, number])
        begun = time.perf_counter()
        batches = self._maker.batches(limiter.steps_per_update, rng)
        metrics = self._algorithm.learn(batches, before_change)
        self._seconds = time.perf_counter() - begun
        return metrics, tuple(self._last)

    def published(self) -> None:
        self._pace()
        self._take_in()

    def moved(self, evicted: Evicted) -> None:
        if evicted.moved:
            places = [evicted.moved.get(position, position) for position in self._damaged]
            self._damaged = [position for position in places if position is not None]
            self._sampling.keep(self._memory.move(self._store.records, evicted.moved))

    def facts(self) -> dict[str, Any]:
        counted = {"env_steps": self.env_steps, "blocks": self._limiter.updates, "drawable": len(self._sampling)}
        unreadable = [[self._name(source), *position] for source, position in self._memory.dropped]
        damaged = [list(position) for position in self._damaged]
        staleness = [list(self._staleness), list(self._staleness_before)]
        return {
            "unused": [], "end": list(self._read_to), "damaged": damaged, "unreadable": unreadable,
            "staleness": staleness, **counted,
        }  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(np.asarray(value)) for name, value in self._sampling.state().items()}

    def counts(self) -> dict[str, int]:
        return {"episodes_lost": self._lost + len(self._memory.dropped)}

    def row(self) -> dict[str, float]:
        images = self._memory.images.values()
        # An update in which no episode ended has the last one's: it says how old what came was when it came.
        if self._staleness.chunks:
            self._staleness, self._staleness_before = _Staleness(), self._staleness
        staleness = self._staleness_before
        asked = sum(rows.hits + rows.misses for rows in images)
        return {
            **(staleness.row() if staleness.chunks else {}),
            "replay/steps": len(self._memory),
            "replay/drawable": len(self._sampling),
            "replay/waiting": len(self._coming),
            "update_to_data": round(self._limiter.held, 4),
            **({"optimiser_steps_per_s": self._limiter.steps_per_update / self._seconds} if self._seconds else {}),
            **({f"replay/part_{i}": float(len(part)) for i, part in enumerate(self._sampling.parts)}),
            **({"replay/image_mb": self._memory.nbytes / 1e6} if self._memory.images else {}),
            **({"replay/hits": sum(rows.hits for rows in images) / asked} if asked else {}),
        }

    def close(self) -> None:
        self._maker.close()

    # ---- inside

    def _name(self, source: LogFiles) -> str:
        """Of a log, in a checkpoint: the run's own may be moved, others may come and go."""
        return "" if source is self._store.records else str(source.path.resolve())

    def _sources(self) -> list[tuple[Path, int]]:
        """Logs beside the run's own, and where their steps come from."""
        shown = [(self._demonstrated, DEMONSTRATION)] if self._demonstrated is not None else []
        return [*shown, *((path, FORMER) for path in _former(self._config))]

    def _add_all(self, source: LogFiles, origin: int) -> None:
        """The records of another log that fit this run. Raises ConfigError when none does."""
        reason, before = "it is empty", len(self._memory)
        for position, record in source.scan(verify=False):
            try:
                header = records.peek(record)
                wrong = self._fit.data(header, layouts.parse(bytes(header.tensors)))
            except WireError as error:
                wrong = f"{position} is damaged: {error}"
                log.error("log %s: a segment is lost: %s", source.path, wrong)
                self._lost += 1
            reason = wrong or reason
            if not wrong:
                self._add(source, position, record, origin, load=False)
        if len(self._memory) == before:
            raise ConfigError(f"{source.path} holds nothing that this run can learn from: {reason}")

    def _take_in(self) -> None:
        """Of what is stored, what the next update needs."""
        ended = 0
        while self._coming and not self._limiter.due:
            position, last = self._coming.popleft()
            self._read_to = Position(position.file, position.offset + position.length, 0)
            ended += last
            try:
                record = self._store.read_record(position)
            except LogError as error:
                log.error("a segment is lost: %s", error)
                self._lost += 1
                self._damaged.append(position)
                continue
            steps = self._add(self._store.records, position, record, ONLINE, load=True)
            self.env_steps += steps
            self._limiter.steps += steps
        if ended:
            self._gate.consumed(ended)
        self._pace()

    def _add(self, source: LogFiles, position: Position, record: memoryview, origin: int, *, load: bool) -> int:
        """Returns how many steps it has; 0 for one that is damaged."""
        before = len(self._memory)
        try:
            found, finished = self._memory.add(source, position, record, origin, load=load)
        except (LogError, WireError) as error:
            log.error("a segment is lost, its record is damaged (`robotlearn data repair` puts it aside): %s", error)
            self._lost += 1
            return 0
        if origin == DEMONSTRATION:  # only what succeeded is one; of that, all can be drawn at once
            found = [each for steps in found if steps.success for each in (steps._replace(success=None), steps)]
        for steps in found:
            self._sampling.add(steps)
        if origin == ONLINE:
            if finished is not None:
                self._last.append(finished)
                if load:
                    self._staleness = self._staleness.with_episode(self.version - finished.versions)
                self._limiter.ended(finished.steps)
            if self._heard is not None and load:
                self._unheard.append((position, record, finished))
        return len(self._memory) - before

    def _tell(self) -> None:
        """Only now: who hears of a segment may have the run saved, or other weights published."""
        unheard, self._unheard = self._unheard, []
        if self._heard is None:
            return
        for position, record, finished in unheard:
            try:
                segment = records.decode(record, verify=False)
            except WireError as error:  # its numbers are learnt from all the same
                log.error("the segment at %s can't be shown: %s", position, error)
                continue
            self._heard(segment, [finished] if finished is not None else [])

    def _pace(self) -> None:
        bound, owed = self._limiter.ahead()
        self._gate.pace(bound + self._arms, owed)
