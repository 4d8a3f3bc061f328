"""Segments to episodes to chunks: what is joined, what each chunk earned, and which of its units count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from robotlearn.algorithms.chunks import Episode, chunk_batch, join, shown
from robotlearn.algorithms.errors import EpisodeError

CUTS = {"at chunks": [4, 8], "within chunks": [3, 5, 10], "every step": list(range(1, 12))}


def assert_equal(one: Episode, two: Episode) -> None:
    for name in one.__dataclass_fields__:
        a, b = getattr(one, name), getattr(two, name)
        if isinstance(a, dict):
            assert all(np.array_equal(a[key], b[key]) for key in a), name
        else:
            assert np.array_equal(a, b), name


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
def test_joined_segments_are_the_episode_they_were_cut_from(record, cuts) -> None:
    whole = join(record(12))
    parts = record(12, cuts=cuts)
    assert len(parts) == len(cuts) + 1
    assert_equal(join(parts[::-1]), whole)


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
def test_observation_of_a_chunk_may_lie_in_an_earlier_segment(record, cuts) -> None:
    given = {"starts": [0, 5, 9], "firsts": [0, 1, 1], "lags": [0, 2, 1]}
    batch = chunk_batch([join(record(12, cuts=cuts, **given))], 0.9)
    whole = record(12)[0].observations["observation.state"]
    assert np.array_equal(batch.observations["observation.state"], whole[[0, 3, 8]])
    assert np.array_equal(batch.states["observation.state"], whole[[0, 5, 9]])
    assert np.array_equal(batch.final["observation.state"], whole[[12]])


def test_two_chunks_of_one_observation_stay_two(record) -> None:
    """Asked again for the same observation after a starved step: another path, so another chunk."""
    parts = record(8, starts=[0, 4, 6], firsts=[0, 0, 2], executed=[4, 2, 2], cuts=[6])
    assert len(join(parts).start) == 3


def test_gaps_doubles_strangers_and_afterlives_are_refused(record) -> None:
    parts, other = record(12, cuts=[4, 8]), record(12, cuts=[4, 8], episode=8)
    with pytest.raises(EpisodeError, match="between 4 and 8 are missing"):
        join([parts[0], parts[2]])
    with pytest.raises(EpisodeError, match="there twice"):
        join([parts[0], parts[0]])
    with pytest.raises(EpisodeError, match="two episodes"):
        join([parts[0], other[1]])
    ended = record(4)
    with pytest.raises(EpisodeError, match="ended at step 4"):
        join([ended[0], parts[1]])
    with pytest.raises(EpisodeError, match="no segments"):
        join([])


def returns(reward: np.ndarray, gamma: float) -> np.ndarray:
    out, total = np.zeros(len(reward)), 0.0
    for t in reversed(range(len(reward))):
        out[t] = total = reward[t] + gamma * total
    return out


@pytest.mark.parametrize(
    ("steps", "starts", "firsts"),
    [
        (12, [0, 4, 8], [0, 0, 0]),
        (10, [0, 4, 8], [0, 0, 0]),
        (9, [0, 4, 8], [0, 0, 0]),
        (12, [0, 3, 4, 9], [0, 1, 0, 2]),
        (11, [2, 5], [2, 0]),
        (30, [0, 10], [0, 0]),
    ],
    ids=["whole chunks", "ends within a chunk", "ends after one step", "irregular", "starts late", "long starved"],
)
def test_return_of_chunks_is_the_return_of_their_steps(record, steps, starts, firsts) -> None:
    gamma = 0.9
    episode = join(record(steps, starts=starts, firsts=firsts))
    batch = chunk_batch([episode], gamma)
    unchunked = returns(episode.reward.astype(np.float64), gamma)[starts]
    chunked, total = [], 0.0
    for reward, discount in zip(reversed(batch.reward.tolist()), reversed(batch.discount.tolist()), strict=True):
        total = reward + discount * total
        chunked.append(total)
    assert chunked[::-1] == pytest.approx(unchunked, abs=1e-5)
    assert batch.steps.tolist() == np.diff([*starts, steps]).tolist()
    assert batch.discount.numpy() == pytest.approx(gamma ** batch.steps.numpy())


def test_mask_is_what_was_executed_and_untouched(record) -> None:
    episode = join(record(14, starts=[0, 5, 8], firsts=[0, 1, 0], lags=[0, 2, 1], held=[2, 4, 13], intervention=[6, 9]))
    mask = chunk_batch([episode], 0.9).mask
    assert mask.tolist() == [
        [True, True, False, True],  # step 2 held; step 4 belongs to no chunk
        [False, True, False, True],  # began with action 1; step 6 was the person's
        [True, False, True, True],  # step 9 was the person's; 12 and 13 belong to no chunk
    ]


def test_episodes_do_not_touch_each_other(record) -> None:
    """A batch of many is the batches of each, one after the other."""
    given = [
        {"steps": 12},
        {"steps": 5, "end": "terminated"},
        {"steps": 9, "starts": [1, 3], "firsts": [1, 2], "held": [8]},
        {"steps": 7, "end": ""},
    ]
    episodes = [join(record(seed=seed, **options)) for seed, options in enumerate(given)]
    batch, alone = chunk_batch(episodes, 0.9), [chunk_batch([e], 0.9) for e in episodes]
    for name in ("path", "stochastic", "log_prob", "mask", "reward", "discount", "steps", "version", "last"):
        assert torch.equal(getattr(batch, name), torch.cat([getattr(b, name) for b in alone])), name
    for name in ("observations", "states", "final"):
        for key, value in getattr(batch, name).items():
            assert torch.equal(value, torch.cat([getattr(b, name)[key] for b in alone])), (name, key)
    assert batch.terminated.tolist() == [False, True, False, False]
    assert batch.episode.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_a_chunk_without_its_observation_is_dropped_and_counted(record) -> None:
    parts = record(12, starts=[0, 5, 8], lags=[0, 2, 0], cuts=[5])
    late = join(parts[1:])  # the first segment is lost; the chunk at step 5 was observed at step 3
    full = join(record(4, seed=1))
    batch = chunk_batch([late, full], 0.9)
    assert batch.dropped == 1 and len(batch) == 2
    assert batch.last.tolist() == [True, True] and batch.episode.tolist() == [0, 1]
    assert len(batch.terminated) == 2
    assert torch.equal(batch.path[:1], torch.from_numpy(late.path[1:]))
    only = join(record(7, starts=[0, 5], firsts=[0, 2], cuts=[5])[1:])
    batch = chunk_batch([only, full], 0.9)
    assert batch.dropped == 1 and len(batch.terminated) == 1 and batch.episode.tolist() == [0]
    with pytest.raises(EpisodeError, match="nothing to learn from"):
        chunk_batch([only], 0.9)


def test_chunks_out_of_order_are_refused(record) -> None:
    episode = join(record(12))
    with pytest.raises(EpisodeError, match="order"):
        chunk_batch([replace(episode, start=episode.start[::-1])], 0.9)
    with pytest.raises(EpisodeError, match="overlap"):
        chunk_batch([replace(episode, start=np.array([0, 2, 8], np.int32))], 0.9)


def test_read_only_records_become_writable_tensors(record) -> None:
    segment = record(8)[0]
    for array in (*segment.observations.values(), segment.chunk_path, segment.reward):
        array.flags.writeable = False
    batch = chunk_batch([join([segment])], 0.9)
    batch.path.add_(1)
    batch.observations["observation.state"].add_(1)
    assert not np.array_equal(batch.path, segment.chunk_path)


def test_images_of_an_update_come_to_a_device_only_as_they_are_shown(record) -> None:
    episode = join(record(12))
    images = np.random.default_rng(0).integers(0, 256, (13, 4, 5, 3), np.uint8)
    whole = chunk_batch(
        [replace(episode, observations={**episode.observations, "observation.images.wrist": images})], 0.9
    )
    there, rows = whole.to("meta"), torch.tensor([2, 0])
    for seen in (there.observations, there.states, there.final):
        assert {key for key, value in seen.items() if not value.is_meta} == {"observation.images.wrist"}
    assert there.path.is_meta and there.terminated.is_meta
    assert all(value.is_meta and len(value) == 2 for value in shown(there.states, rows, torch.device("meta")).values())
    here = shown(whole.states, rows, torch.device("cpu"))
    assert np.array_equal(here["observation.images.wrist"], images[[8, 0]])
