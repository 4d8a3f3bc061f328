"""Checkpoints: what is loaded is what was saved, to the bit, or an error that says what is wrong."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from policies import FlowMLP, Statistics
from robotlearn import checkpoint
from robotlearn.algorithms.chunks import ChunkBatch
from robotlearn.algorithms.ppo import PPO
from robotlearn.checkpoint import Checkpoint
from robotlearn.config import PPOConfig
from robotlearn.errors import CheckpointError

CONTRACT = {"policy.kind": "flow_mlp", "policy.horizon": 4, "features.observation.state": [8], "algorithm.gamma": 0.99}


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 4, generator=generator),
        "double": torch.randn(5, generator=generator, dtype=torch.float64),
        "count": torch.tensor(2**40 + seed),
        "empty": torch.zeros(0, 3),
        "rng": generator.get_state(),
    }


def made(version: int) -> Checkpoint:
    facts = {"updates": version, "unused": [[0, 64, 128]], "success": None, "seconds": 1.5}
    return Checkpoint(version, tensors(version), tensors(100 + version), facts, CONTRACT)


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


def test_it_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = made(7)
    path = checkpoint.save(saved, tmp_path / "checkpoints")
    found = checkpoint.load(path, CONTRACT)
    assert (found.version, found.facts, found.contract) == (7, saved.facts, CONTRACT)
    assert_equal(found.policy, saved.policy)
    assert_equal(found.algorithm, saved.algorithm)


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    one = torch.arange(6.0)
    path = checkpoint.save(Checkpoint(0, {"a": one, "b": one.view(2, 3), "c": one[::2]}), tmp_path)
    assert_equal(checkpoint.load(path).policy, {"a": one, "b": one.view(2, 3), "c": one[::2]})


@pytest.mark.parametrize("name", ["policy.safetensors", "algorithm.safetensors"])
def test_a_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    path = checkpoint.save(made(1), tmp_path)
    data = bytearray((path / name).read_bytes())
    data[-1] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"format": 1}',
        b'{"format": 1, "sha256": 3}',
        b'{"format": 2}',
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:30]),
)
def test_a_damaged_description_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = checkpoint.save(made(1), tmp_path)
    (path / "checkpoint.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=str(path)):
        checkpoint.load(path)


def test_a_changed_fact_is_found(tmp_path: Path) -> None:
    path = checkpoint.save(made(1), tmp_path)
    document = json.loads((path / "checkpoint.json").read_bytes())
    document["facts"]["updates"] = math.nan
    (path / "checkpoint.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is damaged"):
        checkpoint.load(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = checkpoint.save(made(1), tmp_path)
    monkeypatch.setattr(
        "safetensors.torch.save_file", lambda tensors, path: Path("/dev/full").write_bytes(b"0" * 10**6)
    )
    with pytest.raises(CheckpointError, match=r"checkpoint 2 can't be written to .*No space left"):
        checkpoint.save(made(2), tmp_path)
    assert checkpoint.newest(tmp_path) == before


@pytest.mark.parametrize("name", ["checkpoint.json", "policy.safetensors", "algorithm.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = checkpoint.save(made(1), tmp_path)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=f"is not a checkpoint: .*{name} is missing"):
        checkpoint.load(path)


def test_without_any_checkpoint_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no checkpoint in {tmp_path}"):
        checkpoint.newest(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("policy.horizon", 5), ("features.observation.state", [9]), ("policy.kind", None), ("extra", 1)],
)
def test_a_foreign_contract_is_refused_by_its_key(tmp_path: Path, key: str, value: object) -> None:
    path = checkpoint.save(made(1), tmp_path)
    with pytest.raises(CheckpointError, match=rf"belongs to another policy: {key} is .* there and .* here"):
        checkpoint.load(path, CONTRACT | {key: value})


def flip(path: Path) -> None:
    data = bytearray((path / "policy.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "policy.safetensors").write_bytes(data)


HARMS = {
    "a flipped bit": flip,
    "half a description": lambda path: os.truncate(path / "checkpoint.json", 100),
    "no description": lambda path: (path / "checkpoint.json").unlink(),
    "a part is missing": lambda path: (path / "algorithm.safetensors").unlink(),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
def test_a_run_goes_on_from_the_newest_whole_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None]
) -> None:
    saved = [checkpoint.save(made(version), tmp_path) for version in (1, 2, 3)]
    for path in saved[1:]:
        harm(path)
    assert checkpoint.load_newest(tmp_path, CONTRACT).version == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001", "damaged-000002", "damaged-000003"]
    assert [str(saved[2]) in caplog.messages[0], str(saved[1]) in caplog.messages[1]] == [True, True]
    harm(saved[0])
    with pytest.raises(CheckpointError, match=f"no checkpoint in {tmp_path}; {saved[0]}"):
        checkpoint.load_newest(tmp_path, CONTRACT)
    assert saved[0].exists(), "without one to go on from nothing is moved"


@pytest.mark.parametrize(
    ("recent", "expected"),
    [
        ({1: None, 2: []}, None),
        ({1: [0.2, 0.6], 2: [0.5], 3: [0.3]}, 2),
        ({1: [0.5], 2: [0.5]}, 2),
        ({0: [], 1: [0.0]}, 1),
    ],
    ids=["nothing_told", "the_mean", "the_newest_of_equals", "before_the_first_update"],
)
def test_the_best_is_the_one_with_the_highest_success(
    tmp_path: Path, recent: dict[int, list[float] | None], expected: int | None
) -> None:
    for version, successes in recent.items():
        checkpoint.save(replace(made(version), facts={} if successes is None else {"recent": successes}), tmp_path)
    damaged = checkpoint.save(replace(made(9), facts={"recent": [1.0]}), tmp_path)
    (damaged / "checkpoint.json").write_bytes(b"{")
    assert checkpoint.best(tmp_path) == expected


def test_what_is_no_damage_is_not_passed_over(tmp_path: Path) -> None:
    checkpoint.save(made(1), tmp_path)
    newest = checkpoint.save(made(2), tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another policy"):
        checkpoint.load_newest(tmp_path, CONTRACT | {"extra": 1})
    (newest / "checkpoint.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="checkpoint format 99"):
        checkpoint.load_newest(tmp_path, CONTRACT)
    assert len(checkpoint.list_versions(tmp_path)) == 2


def test_what_cant_be_loaded_here_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (1, 2):
        checkpoint.save(made(version), tmp_path)
    monkeypatch.setattr(
        "safetensors.torch.load_file", lambda path: (_ for _ in ()).throw(SafetensorError("Error while mmapping"))
    )
    with pytest.raises(CheckpointError, match="000002 can't be loaded: Error while mmapping"):
        checkpoint.load_newest(tmp_path, CONTRACT)
    assert len(checkpoint.list_versions(tmp_path)) == 2


def test_only_the_newest_are_kept_and_leftovers_of_an_interrupted_save_go(tmp_path: Path) -> None:
    for version in (2, 30, 999_999, 1_000_000):
        checkpoint.save(made(version), tmp_path)
    (tmp_path / ".000031.new").mkdir()
    (tmp_path / "000032").mkdir()  # no checkpoint.json: not whole
    assert checkpoint.newest(tmp_path).name == "1000000"
    checkpoint.prune(tmp_path, 2)
    assert [path.name for path in checkpoint.list_versions(tmp_path)] == ["999999", "1000000"]
    assert not list(tmp_path.glob(".*.new"))


@pytest.mark.parametrize("where", ["algorithm", "description", "rename"])
def test_an_interrupted_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    old = checkpoint.save(made(1), tmp_path)

    class Killed(BaseException):
        pass

    def killed(*args: object, **options: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if where == "algorithm":
            save_file = safetensors.torch.save_file
            patch.setattr(
                safetensors.torch,
                "save_file",
                lambda t, path: killed() if "algorithm" in path.name else save_file(t, path),
            )
        elif where == "description":
            patch.setattr(checkpoint.json, "dumps", killed)
        else:
            patch.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            checkpoint.save(made(2), tmp_path)
    assert checkpoint.newest(tmp_path) == old
    assert checkpoint.load(old).version == 1
    assert checkpoint.load(checkpoint.save(made(2), tmp_path)).version == 2


FEATURES = {"observation.state": (4,)}


def policy_and_algorithm() -> tuple[FlowMLP, PPO]:
    torch.manual_seed(0)
    policy = FlowMLP(FEATURES, 4, 3, hidden=(16,))
    policy.set_statistics(
        {key: Statistics(np.zeros(n), np.ones(n)) for key, n in (("observation.state", 4), ("action", 3))}
    )
    config = PPOConfig(epochs=2, minibatch=16, critic_warmup=1, value_hidden=(16,))
    return policy, PPO(policy, config, seed=3)


def batch(policy: FlowMLP, seed: int) -> ChunkBatch:
    rng = np.random.default_rng(seed)
    count = 24
    obs = {"observation.state": torch.from_numpy(rng.standard_normal((count, 4), dtype=np.float32))}
    chunk = policy.act(obs, policy.noise(count, rng), True)
    last = torch.zeros(count, dtype=torch.bool)
    last[5::6] = True
    return ChunkBatch(
        observations=obs,
        states=obs,
        final={"observation.state": obs["observation.state"][:4]},
        path=chunk.path,
        stochastic=chunk.stochastic,
        log_prob=chunk.log_prob,
        mask=torch.ones(count, 4, dtype=torch.bool),
        reward=torch.from_numpy(rng.standard_normal(count).astype(np.float32)),
        discount=torch.full((count,), 0.99**4),
        steps=torch.full((count,), 4),
        version=torch.zeros(count, dtype=torch.long),
        episode=torch.arange(count) // 6,
        last=last,
        terminated=torch.zeros(4, dtype=torch.bool),
    )


def test_a_resumed_algorithm_goes_on_bit_for_bit(tmp_path: Path) -> None:
    policy, algorithm = policy_and_algorithm()
    batches = [batch(policy, seed) for seed in range(4)]
    for one in batches[:2]:
        algorithm.learn(one, 0)
    path = checkpoint.save(Checkpoint(2, policy.state_dict(), algorithm.state_dict()), tmp_path)
    other, resumed = policy_and_algorithm()
    found = checkpoint.load(path)
    other.load_state_dict(found.policy)
    resumed.load_state_dict(found.algorithm)
    steps: list[Callable[[ChunkBatch], dict[str, float]]] = [
        lambda one: algorithm.learn(one, 1),
        lambda one: resumed.learn(one, 1),
    ]
    for one in batches[2:]:
        straight, after = (step(one) for step in steps)
        assert straight == after
    assert_equal(other.state_dict(), policy.state_dict())
    assert_equal(resumed.state_dict(), algorithm.state_dict())


def test_the_description_is_plain_json(tmp_path: Path) -> None:
    path = checkpoint.save(made(3), tmp_path)
    assert json.loads((path / "checkpoint.json").read_text())["version"] == 3
