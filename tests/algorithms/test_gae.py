"""GAE over chunks."""

from __future__ import annotations

import numpy as np
import pytest

from robotlearn.algorithms.chunks import chunk_batch, join
from robotlearn.algorithms.gae import gae

GAMMA = 0.9


def advantages_by_steps(reward: np.ndarray, value: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """The textbook's, over environment steps; value has one entry more than reward."""
    delta = reward + gamma * value[1:] - value[:-1]
    out, total = np.zeros(len(reward)), 0.0
    for t in reversed(range(len(reward))):
        out[t] = total = delta[t] + gamma * lam * total
    return out


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_chunks_of_one_step_are_the_textbooks_gae(lam: float) -> None:
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=9), rng.normal(size=10)
    advantage, returns = gae(reward, np.full(9, GAMMA), value[:-1], [False] * 8 + [True], value[-1:], lam)
    expected = advantages_by_steps(reward, value, GAMMA, lam)
    assert advantage == pytest.approx(expected, abs=1e-5)
    assert returns == pytest.approx(expected + value[:-1], abs=1e-5)


@pytest.mark.parametrize("steps", [12, 10, 9], ids=["whole chunks", "ends in a chunk", "ends after one step"])
@pytest.mark.parametrize("end", ["truncated", "terminated"])
def test_with_lambda_one_chunking_changes_nothing(record, steps: int, end: str) -> None:
    episode = join(record(steps, end=end))
    batch, value = chunk_batch([episode], GAMMA), np.random.default_rng(1).normal(size=steps + 1)
    if end == "terminated":
        value[-1] = 0
    starts = episode.start
    advantage, _ = gae(batch.reward, batch.discount, value[starts], batch.last, value[-1:], 1.0)
    expected = advantages_by_steps(episode.reward.astype(np.float64), value, GAMMA, 1.0)[starts]
    assert advantage == pytest.approx(expected, abs=1e-5)


def test_two_state_chain() -> None:
    """s0 -> s1 -> end, chunks of 3 and 2 steps, reward 1 per step.

    Values known: terminated, V(s1) = 1 + g, V(s0) = 1 + g + g^2 + g^3 V(s1). Truncated, the chain going on for ever,
    both are 1 / (1 - g). True values leave no advantage, and exchanging the two ends does.
    """
    reward = [1 + GAMMA + GAMMA**2, 1 + GAMMA]
    discount, last = [GAMMA**3, GAMMA**2], [False, True]
    end = [reward[0] + GAMMA**3 * reward[1], reward[1]]
    for_ever = [1 / (1 - GAMMA)] * 2
    for lam in (0.0, 0.95, 1.0):
        advantage, returns = gae(reward, discount, end, last, [0.0], lam)
        assert advantage == pytest.approx([0, 0], abs=1e-6) and returns == pytest.approx(end)
        advantage, returns = gae(reward, discount, for_ever, last, for_ever[:1], lam)
        assert advantage == pytest.approx([0, 0], abs=1e-5) and returns == pytest.approx(for_ever)
        assert gae(reward, discount, for_ever, last, [0.0], lam)[0][1] == pytest.approx(-8.1)


def test_episodes_end_where_they_end() -> None:
    rng = np.random.default_rng(0)
    reward, discount, value, final = rng.normal(size=6), rng.uniform(size=6), rng.normal(size=6), rng.normal(size=3)
    last = np.array([False, False, True, True, False, True])
    whole = gae(reward, discount, value, last, final, 0.9)
    for low, high, e in ((0, 3, 0), (3, 4, 1), (4, 6, 2)):
        part = slice(low, high)
        alone = gae(reward[part], discount[part], value[part], last[part], final[e : e + 1], 0.9)
        assert np.array_equal(whole[0][part], alone[0]) and np.array_equal(whole[1][part], alone[1])
