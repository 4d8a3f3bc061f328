"""Keys of replay that would do nothing are refused."""

from __future__ import annotations

import pytest

from robotlearn.config import load_config
from robotlearn.errors import ConfigError

DAGGER = ["algorithm={name: hgdagger}", "demonstrations.episodes=5", "edges.0.person={kind: scripted}"]
DAGGER += ["replay.n_step=1"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    (
        ([*DAGGER, "replay.n_step=3"], r"replay\.n_step: 3 is not valid with hgdagger"),
        ([*DAGGER, "replay.sampling=[{how: prioritized}]"], r"how: 'prioritized' is not valid with hgdagger"),
        (["learner.episodes_per_update=16"], r"episodes_per_update: 16 is not valid with sac, which draws its batches"),
        (["replay.update_to_data=1e-300"], r"update_to_data: 1e-300 is not valid, expected at least 1e-06"),
        (["replay.priority_exponent=0.1"], r"priority_exponent: 0\.1 is not valid where no part"),
        (
            ["replay.sampling=[{how: newest}]", "replay.priority_correction=1"],
            r"priority_correction: 1\.0 is not valid",
        ),
    ),
)
def test_a_key_of_replay_that_would_do_nothing_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("reach-sac", overrides)


def test_keys_of_replay_that_do_something_are_taken() -> None:
    assert load_config("reach-sac", DAGGER).algorithm.name == "hgdagger"
    mixed = load_config("reach-sac", ["replay.sampling=[{how: prioritized}]", "replay.priority_exponent=0.1"])
    assert mixed.replay.priority_exponent == 0.1
