"""Many arms in lockstep: which noise, which weights, which chunks are theirs, and what is recorded of them."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch

from envs import EnvOptions, Randomization
from policies.base import Policy
from policies.normalizer import Statistics
from robotlearn.algorithms.chunks import join
from robotlearn.cells import Cell
from robotlearn.config import Config, load_config
from robotlearn.contract import contract
from robotlearn.edge.rollout import BatchRollout
from robotlearn.errors import WireError
from robotlearn.inputs import Inputs
from robotlearn.policy import build_policy, load_arrays, to_arrays
from robotlearn.wire.segment import Segment
from robotlearn.wire.weights import WeightsClient
from tests.edge.conftest import LearnersEnd

ARMS, SEED = 4, 11
INPUTS = Inputs(load_config("smoke"))


@pytest.fixture
def policy(config: Config, inputs: Inputs) -> Policy:
    policy = build_policy(config, inputs)
    rng = np.random.default_rng(0)
    shapes = {**policy.features, "action": (policy.action_dim,)}
    policy.set_statistics(
        {key: Statistics(0.01 * rng.normal(size=s), rng.uniform(0.01, 0.05, s)) for key, s in shapes.items()}
    )
    return policy


def roll(
    policy: Policy, cell: Cell, *, arms: int = ARMS, explore: bool = True, group: int = 1, **options: int
) -> tuple:
    segments: list[Segment] = []
    steps, environment = options.pop("segment_steps", 8), options
    rollout = BatchRollout(
        policy, INPUTS, cell, edge="batch", arms=arms, threads=1, segment_steps=steps, seed=SEED,
        emit=segments.extend, explore=explore, options=EnvOptions(episode_steps=12, **environment), group=group,
    )  # fmt: skip
    return rollout, segments


def noise_of(arm: int, policy: Policy, chunks: int) -> np.ndarray:
    """(chunks, H, D): z_0 of the arm's chunks, drawn as anybody can draw them."""
    rng = np.random.default_rng([SEED, arm])
    shape = (1, policy.denoising_steps + 1, policy.horizon, policy.action_dim)
    return np.stack([rng.standard_normal(shape, dtype=np.float32)[0, 0] for _ in range(chunks)])


def test_with_zeroed_parameters_the_chunks_of_every_arm_are_the_unnormalised_seeded_noise(
    policy: Policy, config: Config, cell: Cell, learners_end: LearnersEnd
) -> None:
    """From a learner's policy over the publisher, the wire and the client into the arms of a batch edge."""
    action = policy.statistics()["action"]
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    theirs = build_policy(config, INPUTS)
    assert any(parameter.any() for parameter in theirs.parameters())
    client = WeightsClient(learners_end.address, edge="batch", session=1, contract=contract(config))
    client.start()
    try:
        learners_end.publisher.publish(3, to_arrays(policy))
        weights = client.wait(3, 30)
        assert weights is not None
        load_arrays(theirs, weights.tensors)
    finally:
        client.close()
    rollout, segments = roll(theirs, cell, explore=False)
    rollout.start(ARMS)
    while rollout.running:
        rollout.advance(weights.version)
    rollout.close()

    episodes = defaultdict(list)
    for segment in segments:
        segment.validate()
        episodes[segment.episode].append(segment)
    assert len(episodes) == ARMS
    left = set(range(ARMS))
    for parts in episodes.values():
        parts.sort(key=lambda segment: segment.first_step)
        assert all((segment.chunk_version == 3).all() for segment in parts)
        path = np.concatenate([segment.chunk_path for segment in parts])
        proposed = np.concatenate([segment.action_proposed for segment in parts])
        arm = next(arm for arm in left if np.array_equal(path[0, 0], noise_of(arm, policy, 1)[0]))
        left.remove(arm)
        # The path starts, and with a velocity of zero ends, at the arm's own noise.
        z0 = noise_of(arm, policy, len(path))
        np.testing.assert_array_equal(path[:, 0], z0)
        np.testing.assert_array_equal(path[:, -1], z0)
        unnormalised = z0 * action.std.astype(np.float32) + action.mean.astype(np.float32)
        np.testing.assert_allclose(proposed, unnormalised.reshape(-1, policy.action_dim)[: len(proposed)], rtol=1e-6)
    assert not left, "every arm had an episode"


def test_what_an_arm_draws_depends_neither_on_the_others_nor_on_when_they_start(
    policy: Policy, cell: Cell
) -> None:
    rollout, segments = roll(policy, cell, arms=2)
    rollout.start(1)
    rollout.advance(0)
    rollout.start(1)
    while rollout.running:
        rollout.advance(1)
    rollout.close()
    first = {segment.episode: segment for segment in sorted(segments, key=lambda s: -s.first_step)}
    starts = {s.episode: s.chunk_path[0, 0] for s in first.values() if s.first_step == 0}
    expected = [noise_of(arm, policy, 1)[0] for arm in range(2)]
    assert len(starts) == 2
    assert {next(i for i in range(2) if np.array_equal(expected[i], z0)) for z0 in starts.values()} == {0, 1}


def test_only_arms_that_were_started_work_and_each_finished_episode_is_whole(policy: Policy, cell: Cell) -> None:
    rollout, segments = roll(policy, cell)
    assert rollout.advance(0) == 0 and not segments
    rollout.start(2)
    assert rollout.running == 2 and len(rollout.idle) == 2
    ended = 0
    while rollout.running:
        ended += rollout.advance(0)
    assert ended == 2 == rollout.counts.episodes
    assert len(rollout.idle) == ARMS
    episodes = defaultdict(list)
    for segment in segments:
        episodes[segment.episode].append(segment)
    assert len(episodes) == 2
    assert sum(len(join(parts)) for parts in episodes.values()) == rollout.counts.steps
    rollout.close()


def test_new_weights_take_effect_with_the_next_chunk(policy: Policy, cell: Cell) -> None:
    """Steps of a chunk that has begun are those of the weights that made it."""
    rollout, segments = roll(policy, cell, arms=1, explore=False, segment_steps=32)
    rollout.start(1)
    rollout.advance(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    while rollout.running:
        rollout.advance(1)
    rollout.close()
    episode = join(segments)
    assert episode.version.tolist() == [0, 1, 1]
    ends_at_noise = [bool(np.array_equal(path[0], path[-1])) for path in episode.path]
    assert ends_at_noise == [False, True, True]


def test_a_group_begins_in_one_scene_under_one_version_each_member_with_its_own_noise(
    policy: Policy, cell: Cell
) -> None:
    """Twice two groups; the second starts while the first still runs, and new weights come in between."""
    varied = Randomization(damping=1, gain=0.3, sensor_noise=0.01, latency=2)
    rollout, segments = roll(policy, cell, arms=8, group=4, randomization=varied)
    rollout.start(4)
    rollout.advance(5)
    rollout.start(4)
    version = 6
    while rollout.running or version < 12:
        if not rollout.running:
            rollout.start(8)
        rollout.advance(version)
        version += 1
    rollout.close()

    episodes = defaultdict(list)
    for segment in segments:
        segment.validate()
        episodes[segment.episode].append(segment)
    groups = defaultdict(list)
    for parts in episodes.values():
        episode = join(parts)
        assert episode.group is not None and episode.group.size == 4
        groups[episode.group.id].append(episode)
    assert len(groups) >= 4
    starts = []
    for members in groups.values():
        assert sorted(one.group.member for one in members) == [0, 1, 2, 3]
        assert len({int(one.version[0]) for one in members}) == 1
        assert len({one.task for one in members}) == 1
        for key, rows in members[0].observations.items():
            assert all(one.observations[key][0].tobytes() == rows[0].tobytes() for one in members), key
        assert len({one.path[0, 0].tobytes() for one in members}) == 4, "each its own noise"
        assert len({one.observations["observation.state"][-1].tobytes() for one in members}) == 4
        starts.append(members[0].observations["observation.state"][0].tobytes())
    assert len(set(starts)) == len(starts), "every group another scene"


def spoil(arrays: dict[str, np.ndarray], how: str) -> str:
    name = sorted(arrays)[1]
    if how == "missing":
        del arrays[name]
    elif how == "unknown":
        name = "another"
        arrays[name] = np.zeros(3, np.float32)
    elif how == "shape":
        arrays[name] = np.zeros((*arrays[name].shape, 2), np.float32)
    else:
        arrays[name] = arrays[name].astype(np.float64)
    return name


@pytest.mark.parametrize("how", ["missing", "unknown", "shape", "dtype"])
def test_weights_that_do_not_fit_are_refused_by_name_and_change_nothing(policy: Policy, how: str) -> None:
    before = {name: array.copy() for name, array in to_arrays(policy).items()}
    arrays = {name: array + 1 for name, array in before.items()}
    name = spoil(arrays, how)
    with pytest.raises(WireError, match=f"do not fit this policy: {name} is "):
        load_arrays(policy, arrays)
    for key, array in to_arrays(policy).items():
        np.testing.assert_array_equal(array, before[key])


def test_read_only_weights_are_copied_in(policy: Policy) -> None:
    arrays = {name: array + np.float32(1) for name, array in to_arrays(policy).items()}
    for array in arrays.values():
        array.flags.writeable = False
    load_arrays(policy, arrays)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1)  # its own memory, so that nobody else's weights change
    for name, array in to_arrays(policy).items():
        grew = 1 if name in dict(policy.named_parameters()) else 0
        np.testing.assert_allclose(array, arrays[name] + grew)
