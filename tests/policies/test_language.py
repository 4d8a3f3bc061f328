"""The embedding of instructions: always the same, and near for what is near."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from policies.language import INSTRUCTION_DIM, embed


def likeness(one: str, other: str) -> float:
    return float(embed(one) @ embed(other)) / INSTRUCTION_DIM


def test_it_is_of_unit_size_and_the_same_in_every_process() -> None:
    vector = embed("pick up the red cube")
    assert (vector.dtype == np.float32 and np.mean(vector**2) == np.float32(1)) or np.isclose(np.mean(vector**2), 1)
    code = "from policies.language import embed; print(embed('pick up the red cube').tobytes().hex())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert said == vector.tobytes().hex()


def test_wordings_that_share_words_are_nearer_than_others() -> None:
    assert likeness("pick up the red cube", "Pick up the RED cube!") == np.float32(1) or np.isclose(
        likeness("pick up the red cube", "Pick up the RED cube!"), 1
    )
    near = likeness("pick up the red cube", "please pick the red cube up")
    far = likeness("pick up the red cube", "push a puck to its mark")
    assert near > 0.6 > far


def test_an_empty_instruction_is_a_zero_vector_and_nobody_can_change_a_cached_one() -> None:
    assert not embed("").any()
    assert not embed("pick").flags.writeable
