"""From segments to what an update over chunks needs.

`join` puts the segments of one episode together, so that steps count from the episode's start; `chunk_batch` turns
episodes into flat arrays over all their chunks, in the order of episodes and steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.encoder import IMAGES
from robotlearn.algorithms.errors import EpisodeError
from robotlearn.algorithms.tensors import moved
from robotlearn.wire.segment import Group, Segment

Array = NDArray[Any]

_STEP_FIELDS = ("action_executed", "intervention", "held", "reward", "terminated", "truncated", "success")
_CHUNK_FIELDS = ("version", "start", "first", "executed", "lag", "path", "stochastic", "log_prob")


@dataclass(frozen=True)
class Episode:
    """One episode, or the part of it that is known. Indices count from its first known step. T steps, C chunks.

    observations: {key: (T+1, ...)}; action_executed (T, D); the other step fields (T,).
    version, start, first, executed, lag: (C,), as `chunk_*` of a segment: `start` is the step of the first action
    of the chunk that was executed, `first` its index in the chunk; the chunk was observed at step `start - lag`.
    path (C, N+1, H, D), stochastic (C, N), log_prob (C, N, H).
    embodiment, task: the robot's model, and the task in words. group: which of several that began alike it is.
    """

    observations: Mapping[str, Array]
    action_executed: Array
    intervention: Array
    held: Array
    reward: Array
    terminated: Array
    truncated: Array
    success: Array
    version: Array
    start: Array
    first: Array
    executed: Array
    lag: Array
    path: Array
    stochastic: Array
    log_prob: Array
    embodiment: str = ""
    task: str = ""
    group: Group | None = None

    def __len__(self) -> int:
        return len(self.reward)


def join(segments: Sequence[Segment]) -> Episode:
    """Put the segments of one episode together, given in any order; nothing is copied when there is only one.

    A chunk that goes on across the border of two segments is one chunk.
    Raises EpisodeError when they are not of one episode, or a segment is missing, doubled, or follows the end.
    """
    if not segments:
        raise EpisodeError("an episode of no segments: there is nothing to join.")
    parts = sorted(segments, key=lambda s: s.first_step)
    for before, after in pairwise(parts):
        one, two = ((s.edge, s.robot, s.episode) for s in (before, after))
        if one != two:
            raise EpisodeError(f"segments of two episodes, {one} and {two} (edge, robot, episode), can't be joined.")
        if before.group != after.group:
            raise EpisodeError(f"episode {one} is in two groups, {before.group} and {after.group}.")
        end = before.first_step + len(before.reward)
        if after.first_step != end:
            what = "missing" if after.first_step > end else "there twice"
            raise EpisodeError(f"episode {one}: steps between {end} and {after.first_step} are {what}.")
        if before.last:
            raise EpisodeError(f"episode {one} ended at step {end}, yet a segment follows.")
    return _join_one(parts[0]) if len(parts) == 1 else _merge_split_chunks(_concatenate(parts))


def _join_one(s: Segment) -> Episode:
    steps = {name: getattr(s, name) for name in _STEP_FIELDS}
    chunks = {name: getattr(s, f"chunk_{name}") for name in _CHUNK_FIELDS}
    return Episode(s.observations, **steps, **chunks, embodiment=s.embodiment, task=s.task, group=s.group)


def _concatenate(parts: Sequence[Segment]) -> Episode:
    # The last observation of a segment is the first of the next.
    observations = {
        key: np.concatenate([*(s.observations[key][:-1] for s in parts[:-1]), parts[-1].observations[key]])
        for key in parts[0].observations
    }
    s = parts[0]
    steps = {name: np.concatenate([getattr(s, name) for s in parts]) for name in _STEP_FIELDS}
    chunks = {name: np.concatenate([getattr(s, f"chunk_{name}") for s in parts]) for name in _CHUNK_FIELDS}
    offset = np.array([s.first_step - parts[0].first_step for s in parts])
    chunks["start"] = chunks["start"] + offset.repeat([len(s.chunk_start) for s in parts]).astype(np.int32)
    return Episode(observations, **steps, **chunks, embodiment=s.embodiment, task=s.task, group=s.group)


def _merge_split_chunks(episode: Episode) -> Episode:
    """One chunk of what is one chunk cut in two by a segment's border."""
    e = episode
    origin = e.start - e.lag
    goes_on = (origin[1:] == origin[:-1]) & (e.first[1:] == e.first[:-1] + e.executed[:-1]) & (e.executed[:-1] > 0)
    goes_on &= (e.version[1:] == e.version[:-1]) & (e.path[1:] == e.path[:-1]).all((1, 2, 3))
    if not goes_on.any():
        return episode
    keep = np.concatenate([[True], ~goes_on])
    chunks = {name: getattr(e, name)[keep] for name in _CHUNK_FIELDS}
    chunks["executed"] = np.add.reduceat(e.executed, np.flatnonzero(keep))
    return replace(e, **chunks)


@dataclass(frozen=True)
class ChunkBatch:
    """C chunks of E episodes, flat, in the order of episodes and steps; tensors.

    observations: {key: (C, ...)}, what the policy saw when it proposed the chunk.
    states: {key: (C, ...)}, the observation when the first of its actions was executed, where the critic looks; the
        same tensors as `observations` where a chunk starts at once. Independent of the chunk, so a valid baseline.
    final: {key: (E, ...)}, the observation after the last step of each episode.
    path (C, N+1, H, D), stochastic (C, N) bool, log_prob (C, N, H): as recorded; log_prob is the behaviour policy's.
    mask: (C, H) bool, the actions of the chunk that were executed, not overridden by a person, not held by safety.
    reward: (C,), sum_{k<n} gamma^k r_k over the n steps until the next chunk's first executed step, or the end.
    discount: (C,), gamma^n.
    steps: (C,) int64, n.
    version: (C,) int64, of the weights that proposed it.
    episode: (C,) int64, index in 0 ... E-1.
    last: (C,) bool, the episode's last chunk.
    terminated: (E,) bool. Where False, the episode was truncated (or its end isn't known): the value of `final` counts.
    dropped: how many chunks were left out because the observation they came from is not in their episode.
    """

    observations: dict[str, Tensor]
    states: dict[str, Tensor]
    final: dict[str, Tensor]
    path: Tensor
    stochastic: Tensor
    log_prob: Tensor
    mask: Tensor
    reward: Tensor
    discount: Tensor
    steps: Tensor
    version: Tensor
    episode: Tensor
    last: Tensor
    terminated: Tensor
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.reward)

    def to(self, device: torch.device | str) -> "ChunkBatch":
        """The same batch on a device, but for images, with which a whole update would fill it: `shown` brings them."""
        if self.reward.device == torch.device(device):
            return self
        there = moved(replace(self, observations={}, states={}, final={}), device)
        return replace(
            there,
            observations=_without_images(self.observations, device),
            states=_without_images(self.states, device),
            final=_without_images(self.final, device),
        )


def shown(observations: Mapping[str, Tensor], rows: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Those rows (B,) of observations {key: (C, ...)}, on a device."""
    return {key: value[rows.to(value.device)].to(device) for key, value in observations.items()}


def _without_images(observations: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    return {key: value if key.startswith(IMAGES) else value.to(device) for key, value in observations.items()}


def chunk_batch(episodes: Sequence[Episode], gamma: float) -> ChunkBatch:
    """Flatten episodes into chunks, in NumPy throughout.

    Episodes without a chunk whose observation is known have no part in it. Raises EpisodeError when none is left, since
    an update of nothing would be reported as one, and when the chunks of an episode are out of order.
    """
    given = sum(len(e.start) for e in episodes)
    episodes = [e for e in episodes if (e.start >= e.lag).any()]
    if not episodes:
        raise EpisodeError(f"{given} chunks, none with its observation in its episode: there is nothing to learn from.")
    length = np.array([len(e) for e in episodes])
    count = np.array([len(e.start) for e in episodes])
    step0 = np.cumsum(length) - length  # the flat index of each episode's first step
    observation0 = step0 + np.arange(len(episodes))  # episodes have one observation more than steps

    def flat(name: str) -> Array:
        return np.concatenate([getattr(e, name) for e in episodes])

    episode = np.arange(len(episodes)).repeat(count)
    start, first, executed, lag = (flat(name).astype(np.int64) for name in ("start", "first", "executed", "lag"))
    known = start >= lag
    last = np.append(episode[1:] != episode[:-1], True)
    # A chunk lasts until the next one's first executed step: steps that were held, or had no action, count in.
    end = np.where(last, length[episode], np.append(start[1:], 0))
    steps = end - start
    if (steps < 0).any() or (steps < executed).any():
        raise EpisodeError(
            "chunks overlap, or are not in the order of their steps, or go on after their episode's end."
        )

    # mask: action h of a chunk ran at step start + h - first
    horizon = episodes[0].path.shape[2]
    h = np.arange(horizon)
    ran = (h >= first[:, None]) & (h < (first + executed)[:, None])
    at = (step0[episode] + start)[:, None] + h - first[:, None]
    untouched = ~(flat("intervention") | flat("held"))
    mask = ran & untouched[np.where(ran, at, 0)]

    # reward: the discounted sum over n steps, the k-th column holding step start + k of each chunk that has one
    reward, rewards = np.zeros(len(start)), flat("reward")
    begin = step0[episode] + start
    for k in range(int(steps.max())):
        alive = steps > k
        reward[alive] += gamma**k * rewards[begin[alive] + k]

    observations: dict[str, Tensor] = {}
    states: dict[str, Tensor] = {}
    final: dict[str, Tensor] = {}
    at_once = not lag[known].any()
    for key in episodes[0].observations:
        rows = np.concatenate([e.observations[key] for e in episodes])
        states[key] = torch.from_numpy(rows[(observation0[episode] + start)[known]])
        seen = (observation0[episode] + start - lag)[known]
        observations[key] = states[key] if at_once else torch.from_numpy(rows[seen])
        final[key] = torch.from_numpy(rows[observation0 + length])
    whole = known.all()

    def kept(array: Array, dtype: type) -> Tensor:
        return torch.from_numpy((array if whole else array[known]).astype(dtype, copy=False))

    episode_kept = episode[known]
    return ChunkBatch(
        observations=observations,
        states=states,
        final=final,
        path=kept(flat("path"), np.float32),
        stochastic=kept(flat("stochastic"), np.bool_),
        log_prob=kept(flat("log_prob"), np.float32),
        mask=kept(mask, np.bool_),
        reward=kept(reward, np.float32),
        discount=kept(gamma**steps, np.float32),
        steps=kept(steps, np.int64),
        version=kept(flat("version"), np.int64),
        episode=torch.from_numpy(episode_kept),
        last=torch.from_numpy(np.append(episode_kept[1:] != episode_kept[:-1], True)),
        terminated=torch.from_numpy(np.array([bool(e.terminated[-1]) for e in episodes])),
        dropped=given - len(episode_kept),
    )
