"""ReplayMemory: all stored steps, and the windows that begin at them."""

from __future__ import annotations

import time
from bisect import bisect, insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from policies.encoder import EMBODIMENT, IMAGES, INSTRUCTION
from robotlearn.algorithms.transitions import Window
from robotlearn.buffer.log_files import LogFiles, Position
from robotlearn.errors import LogError, WireError
from robotlearn.inputs import Inputs
from robotlearn.replay.finished import Finished
from robotlearn.replay.growing import Growing
from robotlearn.replay.images import ImageRows
from robotlearn.replay.members import Rows
from robotlearn.replay.sampling import DEMONSTRATION, Steps
from robotlearn.wire import record as records
from robotlearn.wire.segment import Segment

_ENDLESS = 1 << 30
_WARM_ROWS = 64  # at once
_STEP: Mapping[str, tuple[tuple[int, ...], Any]] = {
    "reward": ((), np.float32),
    "terminated": ((), np.bool_),
    "truncated": ((), np.bool_),
    "intervention": ((), np.bool_),
    "version": ((), np.int64),
    "left": ((), np.int32),  # steps to the episode's end, itself included; _ENDLESS while that isn't known
    "segment": ((), np.int64),
}
_SEGMENT: Mapping[str, tuple[tuple[int, ...], Any]] = {
    "start": ((), np.int64),  # its first step
    "steps": ((), np.int64),
    "after": ((), np.int64),  # the segment that goes on where it ends, -1: not here
    "embodiment": ((), np.int64),
    "task": ((), np.int64),
    "dropped": ((), np.bool_),  # its images can't be had any more
}


@dataclass
class _Episode:
    """The parts of an episode that are here: first step to segment; `end`: the number of its steps, once known."""

    parts: dict[int, int] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    """First steps of the parts, in order."""
    ends: dict[int, int] = field(default_factory=dict)
    """Where each part ends, to the part."""
    end: int | None = None
    success: bool = False
    reward: float = 0.0
    intervened: int = 0
    versions: list[NDArray[np.int64]] = field(default_factory=list)


class ReplayMemory:
    """Every step's numbers in memory, images as `ImageRows` has them. Used by one thread, but for `gather`.

    Segments may come in any order. A step can be drawn once its window is known: the next `window.steps` steps, or all
    up to the episode's end.
    """

    def __init__(self, inputs: Inputs, window: Window, cache_bytes: int) -> None:
        """`cache_bytes`: for the images of all cameras together."""
        self.inputs, self.window = inputs, window
        self.numbers = [
            key for key in inputs.features if key not in (EMBODIMENT, INSTRUCTION) and not key.startswith(IMAGES)
        ]
        cameras = {key: shape for key, shape in inputs.features.items() if key.startswith(IMAGES)}
        pixels = sum(int(np.prod(shape)) for shape in cameras.values())
        self.images = {
            key: ImageRows(key, (shape[0], shape[1], shape[2]), cache_bytes * int(np.prod(shape)) // pixels)
            for key, shape in cameras.items()
        }
        self._steps = Growing({**_STEP, "action": ((inputs.action_dim,), np.float32)})
        self._seen = Growing({key: (inputs.features[key], np.float32) for key in self.numbers})
        self._segments = Growing(_SEGMENT)
        self._places: list[tuple[LogFiles, Position] | None] = []
        self._episodes: dict[tuple[int, str, int, int], _Episode] = {}
        self._known: list[int] = []
        """For each segment, how many steps after its end are known; _ENDLESS where the episode's end is."""
        self._before: list[int] = []
        """For each segment, the one that it goes on from, -1: not here."""
        self._tasks: list[str] = []
        self._words = np.zeros((0, *inputs.features.get(INSTRUCTION, (0,))), np.float32)

    def __len__(self) -> int:
        """How many steps there are."""
        return len(self._steps)

    @property
    def nbytes(self) -> int:
        """Of the images in memory."""
        return sum(rows.nbytes for rows in self.images.values())

    def add(
        self, log: LogFiles, position: Position, record: memoryview, origin: int, *, load: bool = True
    ) -> tuple[list[Steps], Finished | None]:
        """Take in a stored segment; `load`: its images into the memory, else they are read when they are drawn.

        Returns the steps that can be drawn from now on, and its episode, if that is whole now; its steps are then
        among them a second time, told how it ended. Raises WireError for a damaged record, or one that can't be
        of its episode; nothing is taken in then.
        """
        segment = records.decode(record, verify=False, images=False)
        key = (origin, segment.edge, segment.session, segment.episode)
        episode = self._episodes.get(key) or _Episode()
        self._check(episode, segment)
        number = self._append(segment, record, log, position, origin, load)
        self._episodes[key] = episode
        self._link(episode, segment, number)
        found = self._drawable(episode, number, origin, segment)
        finished = self._finish(key, episode, segment)
        if finished is not None:
            rows = np.concatenate([self._rows_of(each) for each in sorted(episode.parts.values())])
            found.append(self._told(rows, origin, segment, finished.success))
        return found, finished

    def gather(self, rows: Rows, out: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Fill `out`, as `buffers` made it, with the windows that begin at `rows` (B,). Any one thread at a time, while
        nothing is added. Raises LogError when images can't be read.
        """
        window, steps = self.window, self._steps
        flat: dict[str, NDArray[Any]] = {name: tensor.numpy() for name, tensor in out["flat"].items()}
        count = np.minimum(window.steps, steps["left"][rows])  # how many steps each window has
        step = rows
        flat["reward"][:] = 0.0
        for k in range(window.steps):
            if k:
                step = np.where(k < count, self._next(step), step)
            alive = k < count
            flat["reward"] += np.where(alive, np.float32(window.gamma**k) * steps["reward"][step], np.float32(0))
            if k < window.horizon:
                flat["actions"][:, k] = steps["action"][step]
                flat["valid"][:, k] = alive
                flat["intervention"][:, k] = alive & steps["intervention"][step]
        over = steps["terminated"][step]
        if window.timeout == "failure":
            over = over | steps["truncated"][step]
        flat["discount"][:] = np.where(over, 0.0, window.gamma**count)
        flat["version"][:] = steps["version"][rows]
        self._observe(rows, step, out["observed"])

    def buffers(self, size: int, *, pinned: bool = False) -> dict[str, dict[str, torch.Tensor]]:
        """What `gather` fills for a batch of `size`. `pinned`: memory that a GPU can copy from meanwhile."""
        window, width = self.window, self.inputs.action_dim

        def empty(shape: Sequence[int], dtype: torch.dtype, rows: int = size) -> torch.Tensor:
            # Written to once, here: the first write to a page costs more than the copy that comes later.
            return torch.zeros((rows, *shape), dtype=dtype, pin_memory=pinned)

        flat = {
            "actions": empty((window.horizon, width), torch.float32),
            "valid": empty((window.horizon,), torch.bool),
            "intervention": empty((window.horizon,), torch.bool),
            "reward": empty((), torch.float32),
            "discount": empty((), torch.float32),
            "version": empty((), torch.int64),
        }
        observed = {
            key: empty(shape, torch.uint8 if key in self.images else torch.float32, size * (1 + window.bootstraps))
            for key, shape in self.inputs.features.items()
        }
        now = {key: value[:size] for key, value in observed.items()}
        following = {key: value[size:] for key, value in observed.items()} if window.bootstraps else {}
        return {"flat": flat, "observed": observed, "now": now, "next": following}

    def warm(self, limit_s: float) -> None:
        """For about so long, put the newest images into memory that an opening left on the disk."""
        end = time.monotonic() + limit_s
        while any([rows.warm(_WARM_ROWS) for rows in self.images.values()]) and time.monotonic() < end:
            pass

    def unreadable(self, rows: Rows) -> list[int]:
        """Of the segments whose images the windows that begin at `rows` (B,) show, those whose can't be read."""
        segment, last = self._steps["segment"], self._last(rows)
        shown = rows + segment[rows]
        if self.window.bootstraps:
            shown = np.union1d(shown, last + segment[last] + 1)
        starts = self._segments["start"] + np.arange(len(self._segments))
        of = np.searchsorted(starts, shown, "right") - 1
        return [number for number in np.unique(of).tolist() if not self._reads(shown[of == number])]

    def drop(self, segments: Collection[int]) -> NDArray[np.bool_]:
        """The images of these can't be had; returns which steps (all,) can be drawn all the same. Windows that would
        show them aren't told of any more.
        """
        self._segments["dropped"][list(segments)] = True
        return self._shown(np.arange(len(self)))

    def drop_at(self, places: Collection[tuple[LogFiles, Position]]) -> NDArray[np.bool_]:
        """As `drop`, of the segments that lie there."""
        return self.drop([number for number, place in enumerate(self._places) if place in places])

    @property
    def dropped(self) -> list[tuple[LogFiles, Position]]:
        """Where what was dropped lies."""
        places = [self._places[number] for number in np.flatnonzero(self._segments["dropped"]).tolist()]
        return [place for place in places if place is not None]

    def move(self, log: LogFiles, moved: Mapping[Position, Position | None]) -> NDArray[np.bool_]:
        """Records were moved within their files, or deleted (None); returns which steps (all,) are still there."""
        dead = []
        for number, place in enumerate(self._places):
            if place is not None and place[0] is log and place[1] in moved:
                there = moved[place[1]]
                self._places[number] = None if there is None else (log, there)
                if there is None:
                    dead.append(number)
        for rows in self.images.values():
            rows.move(log, moved)
        return self.drop(dead)

    # ---- inside

    def _check(self, episode: _Episode, segment: Segment) -> None:
        """A faulty edge must not lead a window astray."""
        first, end, starts = segment.first_step, segment.first_step + segment.steps, episode.starts
        at, wrong = bisect(starts, first), ""
        behind = starts[at - 1] + self._steps_of(episode.parts[starts[at - 1]]) if at else 0
        following = starts[at] if at < len(starts) else end
        if first < behind or following < end:
            wrong = "some of them are there already"
        elif episode.end is not None and (segment.last or end > episode.end):
            wrong = f"it ends with step {episode.end - 1}"
        elif segment.last and at < len(starts):
            wrong = f"it would end there, and goes on at step {following}"
        if wrong:
            raise WireError(
                f"episode {segment.episode} of edge {segment.edge} can't have steps {first} to {end - 1}: {wrong}"
            )

    def _append(
        self, segment: Segment, record: memoryview, log: LogFiles, position: Position, origin: int, load: bool
    ) -> int:
        number, count, name = len(self._segments), segment.steps, segment.embodiment
        # All that can be wrong with it first: of one that is given up nothing may stay, or all rows behind it shift.
        try:
            seen = {key: self.inputs.laid_out(name, key, segment.observations[key]) for key in self.numbers}
            action = self.inputs.padded(name, _actions(segment, origin))
            embodiment = self.inputs.embodiments.index(name)
            if any(value.shape != (count + 1, *self.inputs.features[key]) for key, value in seen.items()):
                raise ValueError("observations have other shapes")
        except (KeyError, ValueError, IndexError) as error:
            raise WireError(f"log {log.path}: {position} isn't of this run: {error}") from error
        for rows in self.images.values():
            rows.check(log, position, record, count + 1)
        for rows in self.images.values():
            rows.append(log, position, record, load=load)
        self._seen.extend(**seen)
        version = np.full(count, -1, np.int64)
        for start, executed, made in zip(
            segment.chunk_start.tolist(), segment.chunk_executed.tolist(), segment.chunk_version.tolist(), strict=True
        ):
            version[start : start + executed] = made
        left = np.full(count, _ENDLESS, np.int32)
        self._segments.extend(
            start=np.array([len(self._steps)]),
            steps=np.array([count]),
            after=np.array([-1]),
            embodiment=np.array([embodiment]),
            task=np.array([self._task(segment.task)]),
            dropped=np.array([False]),
        )
        self._steps.extend(
            action=action,
            reward=segment.reward,
            terminated=segment.terminated,
            truncated=segment.truncated,
            intervention=segment.intervention,
            version=version,
            left=left,
            segment=np.full(count, number, np.int64),
        )
        self._places.append((log, position))
        self._known.append(0)
        self._before.append(-1)
        return number

    def _task(self, words: str) -> int:
        if words not in self._tasks:
            self._tasks.append(words)
            if INSTRUCTION in self.inputs.features:
                self._words = np.concatenate([self._words, self.inputs.words(words)[None]])
        return self._tasks.index(words)

    def _link(self, episode: _Episode, segment: Segment, number: int) -> None:
        first, end = segment.first_step, segment.first_step + segment.steps
        episode.parts[first], episode.ends[end] = number, number
        insort(episode.starts, first)
        episode.reward += float(segment.reward.sum())
        episode.intervened += int(segment.intervention.sum())
        episode.versions.append(segment.chunk_version.copy())  # no view, which would keep the whole record
        after = episode.parts.get(end)
        if after is not None:
            self._segments["after"][number] = after
            self._before[after] = number
        before = episode.ends.get(first)
        if before is not None:
            self._segments["after"][before] = number
            self._before[number] = before
        if segment.last:
            episode.end, episode.success = end, bool(segment.success[-1])

    def _drawable(self, episode: _Episode, number: int, origin: int, segment: Segment) -> list[Steps]:
        """The steps whose windows are known now and weren't before, of this segment and of those in front of it."""
        need, last = self.window.steps, segment.last
        after = int(self._segments["after"][number])
        beyond = _ENDLESS if last else self._steps_of(after) + self._known[after] if after >= 0 else 0
        had = -1  # of this segment nothing was drawable
        found = []
        while True:
            count = self._steps_of(number)
            beyond = min(beyond, _ENDLESS)
            # A step with i steps behind it in its segment is known once i + 1 + beyond >= need.
            newly = _drawable(count, beyond, need) - (_drawable(count, had, need) if had >= 0 else 0)
            start = self._start_of(number) + (_drawable(count, had, need) if had >= 0 else 0)
            self._known[number] = beyond
            if beyond == _ENDLESS:
                self._count_down(number, episode)
            if newly:
                found.append(self._told(np.arange(start, start + newly), origin, segment, None))
            before = self._before[number]
            # That the end is known, each segment is told; else it is enough that all of one can be drawn.
            if before < 0 or (beyond != _ENDLESS and self._known[before] >= need - 1):
                return found[::-1]
            number, had, beyond = before, self._known[before], beyond + count

    def _count_down(self, number: int, episode: _Episode) -> None:
        """Note how far the episode's end is from each step of a segment that leads up to it."""
        after = int(self._segments["after"][number])
        rows = self._rows_of(number)
        behind = 0 if after < 0 else int(self._steps["left"][self._start_of(after)])
        self._steps["left"][rows] = np.arange(len(rows), 0, -1) + behind

    def _finish(self, key: tuple[int, str, int, int], episode: _Episode, segment: Segment) -> Finished | None:
        if episode.end is None or sum(map(self._steps_of, episode.parts.values())) != episode.end:
            return None
        del self._episodes[key]
        return Finished(
            segment.edge,
            segment.embodiment,
            segment.task,
            episode.end,
            episode.success,
            episode.reward,
            np.concatenate(episode.versions),
            episode.intervened,
        )

    def _told(self, rows: Rows, origin: int, segment: Segment, success: bool | None) -> Steps:
        rows = rows[self._shown(rows)]
        intervened = np.ones(len(rows), bool)
        count = np.minimum(self.window.horizon, self._steps["left"][rows])
        step = rows
        for k in range(self.window.horizon):
            step = np.where((k > 0) & (k < count), self._next(step), step)
            intervened &= self._steps["intervention"][step]
        return Steps(rows, intervened, origin, segment.embodiment, segment.task, success)

    def _shown(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether nothing was dropped of what the windows that begin at `rows` show."""
        segment, dropped = self._steps["segment"], self._segments["dropped"]
        if not dropped.any():
            return np.ones(len(rows), bool)
        gone = dropped[segment[rows]]
        return ~(gone | dropped[segment[self._last(rows)]]) if self.window.bootstraps else ~gone

    def _reads(self, rows: Rows) -> bool:
        """Whether the images of these observations can be read."""
        try:
            for key, images in self.images.items():
                images.gather(rows, torch.empty((len(rows), *self.inputs.features[key]), dtype=torch.uint8))
        except LogError:
            return False
        return True

    def _last(self, rows: Rows) -> Rows:
        """The last steps of the windows that begin at `rows`."""
        count, step = np.minimum(self.window.steps, self._steps["left"][rows]), rows
        for k in range(1, self.window.steps):
            step = np.where(k < count, self._next(step), step)
        return step

    def _next(self, step: Rows) -> Rows:
        """The steps that follow these in their episodes; where none is known, any."""
        segment = self._steps["segment"][step]
        following, after = step + 1, self._segments["after"][segment]
        border = following == self._segments["start"][segment] + self._segments["steps"][segment]
        return np.where(border & (after >= 0), self._segments["start"][after], np.minimum(following, len(self) - 1))

    def _observe(self, first: Rows, last: Rows, out: Mapping[str, torch.Tensor]) -> None:
        """What was observed before the first steps, (B,), and where windows bootstrap, after the last ones, (2B,)."""
        segment = self._steps["segment"][first]
        rows = first + segment  # a segment has one observation more than steps
        if self.window.bootstraps:
            later = self._steps["segment"][last]
            segment, rows = np.concatenate([segment, later]), np.concatenate([rows, last + later + 1])
        for key, tensor in out.items():
            if key in self.images:
                self.images[key].gather(rows, tensor)
            elif key == EMBODIMENT:
                tensor.numpy()[:] = np.eye(len(self.inputs.embodiments))[self._segments["embodiment"][segment]]
            elif key == INSTRUCTION:
                np.take(self._words, self._segments["task"][segment], 0, out=tensor.numpy())
            else:
                np.take(self._seen[key], rows, 0, out=tensor.numpy())

    def _rows_of(self, number: int) -> Rows:
        start = self._start_of(number)
        return np.arange(start, start + self._steps_of(number))

    def _start_of(self, number: int) -> int:
        return int(self._segments["start"][number])

    def _steps_of(self, number: int) -> int:
        return int(self._segments["steps"][number])


def _actions(segment: Segment, origin: int) -> NDArray[np.float32]:
    """(T, D) what is learnt of: where the policy acted, what it asked for; else what was done.

    The limits of the arm, which make less of an action, are then part of what a critic learns about it. Of what was
    done alone it could never tell what becomes of actions beyond the limits, which a policy would be led to for ever.
    """
    if origin == DEMONSTRATION:
        return segment.action_executed
    return np.where(segment.intervention[:, None], segment.action_executed, segment.action_proposed)


def _drawable(count: int, beyond: int, need: int) -> int:
    """How many of the first of `count` steps have `need` steps from themselves on, `beyond` of them behind the last."""
    return max(0, min(count, count + beyond - need + 1))
