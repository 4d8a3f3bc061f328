"""Batches of one update, gathered ahead of training on a thread of their own."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from robotlearn.algorithms.transitions import Transitions
from robotlearn.errors import LogError
from robotlearn.replay.memory import ReplayMemory
from robotlearn.replay.sampling import Draw, Sampling

logger = logging.getLogger("robotlearn.replay")

AHEAD = 2
"""Batches that are gathered, or being gathered, while one is learnt from."""


class BatchMaker:
    """Makes the batches of one update after another, in memory that is used again. Used by one thread."""

    def __init__(self, memory: ReplayMemory, sampling: Sampling, batch_size: int, *, pinned: bool = False) -> None:
        """`pinned`: for training on a GPU."""
        self._memory, self._sampling, self._size = memory, sampling, batch_size
        # One in use, one that the next step may still look back at, the others under way.
        self._buffers = deque(memory.buffers(batch_size, pinned=pinned) for _ in range(AHEAD + 2))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="robotlearn-replay")

    def batches(self, count: int, rng: np.random.Generator) -> UpdateBatches:
        """`count` of them; nothing may be added to the memory until they are used up or given up."""
        return UpdateBatches(self, count, rng)

    def begin(self, rng: np.random.Generator) -> tuple[Draw, Future[Transitions]]:
        """Draw a batch now, and have it gathered. Raises ValueError when there is nothing to draw."""
        draw = self._sampling.draw(self._size, rng)
        buffer = self._buffers[0]
        self._buffers.rotate(-1)
        return draw, self._thread.submit(self._gather, draw, buffer)

    def lose(self, draw: Draw, error: LogError) -> bool:
        """What images of a draw can't be read isn't drawn any more; whether there is something else.

        To be called while nothing is gathered. Raises `error` when all can be read after all.
        """
        lost = self._memory.unreadable(draw.rows)
        if not lost:
            raise error
        logger.error("%d stored segments are drawn no more, their images can't be read: %s", len(lost), error)
        self._sampling.keep(self._memory.drop(lost))
        return len(self._sampling) > 0

    def give_back(self, count: int) -> None:
        """The last `count` batches that were begun are not wanted: their memory is used next, not that of others."""
        self._buffers.rotate(count)

    def close(self) -> None:
        """Idempotent."""
        self._thread.shutdown()

    def _gather(self, draw: Draw, buffer: dict[str, dict[str, Tensor]]) -> Transitions:
        try:
            self._memory.gather(draw.rows, buffer)
        except LogError as error:
            if self._memory.unreadable(draw.rows):
                raise
            # Such as too many open files, for a moment.
            logger.warning("images couldn't be read, and can be now: %s", error)
            self._memory.gather(draw.rows, buffer)
        rows, weight = torch.from_numpy(draw.rows), torch.from_numpy(draw.weight)
        return Transitions(buffer["now"], buffer["next"], **buffer["flat"], rows=rows, weight=weight)


class UpdateBatches:
    """The batches of one update, each once; see `robotlearn.algorithms.base.Batches`.

    A batch is drawn when the one `AHEAD` before it is handed out, whatever the threads do meanwhile: what is learnt
    depends on the data and the generator alone, with priorities too. When images of one can't be read, the segments
    that hold them are forgotten, and it and those behind it are drawn anew; where nothing is left, batches end.
    """

    def __init__(self, maker: BatchMaker, count: int, rng: np.random.Generator) -> None:
        self._maker, self._left, self._rng = maker, count, rng
        self._coming: deque[tuple[Draw, Future[Transitions]]] = deque()
        self._drawn: deque[tuple[Transitions, Draw | None]] = deque(maxlen=2)
        """Those handed out last; None: the priorities of its steps have other places now."""

    def __iter__(self) -> Iterator[Transitions]:
        try:
            for _ in range(1 + AHEAD):
                self._begin()
            while self._coming:
                draw, gathered = self._coming.popleft()
                try:
                    batch = gathered.result()
                except LogError as error:
                    self._draw_anew(draw, error)
                    continue
                self._drawn.append((batch, draw))
                yield batch
                self._begin()
        finally:
            self._settle()

    def prioritize(self, batch: Transitions, error: Tensor) -> None:
        """See `robotlearn.algorithms.base.Batches`."""
        found = [draw for known, draw in self._drawn if known is batch]
        if not found:
            raise ValueError("this batch is not the last one or the one before: its steps aren't known any more")
        if found[0] is not None:
            found[0].prioritize(error.detach().cpu().numpy())

    def _settle(self) -> None:
        """Nothing is gathered any more: buffers are written to until then."""
        for _, gathered in self._coming:
            gathered.exception()

    def _draw_anew(self, draw: Draw, error: LogError) -> None:
        self._settle()
        again = 1 + len(self._coming)
        self._coming.clear()
        self._drawn = deque(((batch, None) for batch, _ in self._drawn), maxlen=2)
        if self._maker.lose(draw, error):
            self._maker.give_back(again)
            self._left += again
            for _ in range(again):
                self._begin()

    def _begin(self) -> None:
        if self._left:
            self._left -= 1
            self._coming.append(self._maker.begin(self._rng))
