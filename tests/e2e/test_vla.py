"""VLAs over the real wire: imitation, then reinforcement from two edges with images and words, and what is left."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from robotlearn import gl
from robotlearn.metrics import read_metrics
from tests.e2e.harness import Site, batch, check_metrics, tiny, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not gl.available(), reason="needs a way to draw"),
]


def vla(kind: str, folder: Path, algorithm: dict[str, Any], **policy: Any) -> dict[str, Any]:
    """A config of two edges that look at the language task through a camera of 32 x 32 pixels."""
    from policies.vla.tiny import write_tiny

    config = tiny(
        batch("left"),
        batch("right"),
        observations={
            "environment_state": False, "instruction": True, "cameras": ["front"], "image_size": [32, 32],
        },
        algorithm={"minibatch": 8, **algorithm},
        learner={"max_staleness": 0, "eval_every": 2},
    )  # fmt: skip
    source = write_tiny(kind, folder / kind, side=32, chunk=4)
    config["policy"] = {
        "kind": kind, "pretrained": str(source), "horizon": 4, "denoising_steps": 2, "width": 8, **policy,
    }  # fmt: skip
    return config | {"task": "touch", "reward": "shaped"}  # so that no two episodes are worth the same


def _told(site: Site) -> bool:
    """Whether success by instruction was measured."""
    keys = {key for row in read_metrics(site.run / "metrics.jsonl") for key in row}
    return any(key.startswith("eval_instruction/") and key.endswith("red cube") for key in keys)


@pytest.mark.parametrize(
    ("kind", "algorithm", "policy"),
    [
        ("smolvla", {}, {}),
        ("pi0", {"entropy_bonus": 1e-3}, {"train": "expert", "exploration": "noise"}),
        ("pi05", {"name": "grpo", "group": 2}, {"train": "lora"}),  # served in bfloat16
    ],
    ids=["smolvla-ppo-sde", "pi0-ppo-noise-expert", "pi05-grpo-sde-lora"],
)
def test_imitation_then_reinforcement_with_two_edges(
    site: Site, kind: str, algorithm: dict[str, Any], policy: dict[str, Any]
) -> None:
    config = vla(kind, site.folder, algorithm, **policy)
    if "group" in algorithm:  # which has no critic
        for key in ("critic_warmup", "value_hidden"):
            del config["algorithm"][key]
    if kind == "pi05":
        config["learner"]["weights_dtype"] = "bfloat16"
    train = site.start("train", "train", site.config(config), "--run", site.run, draw=True)
    wait_for(
        lambda: site.updates_since(0, 2) and site.stored("left") and site.stored("right") and _told(site),
        "two updates, both edges and an evaluation by instruction", train,
    )  # fmt: skip
    train.stop(signal.SIGINT)
    site.gone()
    check_metrics(site, 0)
    for row in site.rows()[:2]:
        if kind == "pi05":
            assert row["log_prob_gap"] > 1e-4 and row["mismatch_kl"] > 1e-8
            assert row["w_mean"] == pytest.approx(1, abs=0.1) and row["w_masked_fraction"] < 0.1
        else:  # the same float32, in other batches
            assert row["log_prob_gap"] <= 1e-4 and row["mismatch_kl"] < 1e-8
        assert row["ratio_max"] < 5 and 0 < row["units_used_fraction"] <= 1

    told = {f"{colour} cube" for colour in ("red", "blue") for header in site.stored() if colour in header.task}
    assert told == {"red cube", "blue cube"}

    if kind != "smolvla":
        return
    exported = site.start("export", "weights", "export", site.run, site.folder / "exported")
    assert exported.ended() == 0, exported.tail()
    from lerobot.policies.factory import get_policy_class

    assert get_policy_class(kind).from_pretrained(site.folder / "exported").config.chunk_size == 4
