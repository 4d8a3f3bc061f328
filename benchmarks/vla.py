"""What a VLA costs on this machine: SFT, PPO's recomputation, chunks, pushes of weights.

On a GPU the published sizes with random weights, two cameras, bfloat16 products over float32 weights; on a CPU tiny
ones, which say nothing but that the program works. FLOPs are counted by torch as they are launched; utilisation is
against a large matrix product of this device, and against 989 TFLOP/s, the data sheet of H100 and H200 SXM.
    python -m benchmarks vla
    python benchmarks/vla.py --device cuda --kinds smolvla pi0 --batch 32
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.push import Loop, pushed
from benchmarks.report import report
from policies.base import Observations
from policies.flow import Velocity
from policies.language import as_bytes
from policies.registry import make_policy
from policies.vla.flow_vla import FlowVLA
from policies.vla.tiny import SIZES, VLM, write_tiny
from robotlearn.algorithms.optimizer import Optimizer
from robotlearn.algorithms.sft import SFT, Windows
from robotlearn.config.config import SFTConfig
from robotlearn.policy import constants, parameters

KINDS = ("smolvla", "pi0", "pi05")
CAMERAS = ("front", "wrist")
STATE = ACTION = 7
DATA_SHEET = 989.4e12
RUNS = 5
# SmolVLM2-500M-Video-Instruct's, of which SmolVLA takes the first 16 layers (arXiv:2506.01844).
SMOLVLM = {
    "text_config": {
        "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15,
        "num_key_value_heads": 5, "head_dim": 64, "vocab_size": 49280,
    },
    "vision_config": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 512, "patch_size": 16,
    },
    "scale_factor": 4,
}  # fmt: skip
SMOLVLA = {"num_vlm_layers": 16, "expert_width_multiplier": 0.75, "resize_imgs_with_padding": [512, 512]}


def checkpoint(kind: str, folder: Path, published: bool) -> Path:
    """A checkpoint without weights that are of use, in the published sizes or tiny."""
    if not published:
        return write_tiny(kind, folder, cameras=CAMERAS)
    write_tiny(kind, folder, cameras=CAMERAS, state=32, action=32, chunk=50, steps=10)
    (folder / SIZES).unlink(missing_ok=True)
    if kind == "smolvla":
        _lay_over(folder / VLM / "config.json", SMOLVLM)
        _lay_over(folder / "config.json", SMOLVLA)
    else:
        _lay_over(folder / "config.json", {"image_resolution": [224, 224]})
    return folder


def _lay_over(path: Path, values: dict[str, Any]) -> None:
    found = json.loads(path.read_text())
    for key, value in values.items():
        found[key] = found[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(found))


class Subject:
    """A policy of a kind, and observations for it."""

    def __init__(self, kind: str, device: str, train: str, horizon: int, steps: int) -> None:
        self.side = {"smolvla": 512}.get(kind, 224) if device == "cuda" else 64
        features = {f"observation.images.{name}": (self.side, self.side, 3) for name in CAMERAS}
        features |= {"observation.state": (STATE,), "instruction": (256,)}
        with tempfile.TemporaryDirectory(prefix="robotlearn-bench-") as folder:
            policy = make_policy(
                kind, features=features, horizon=horizon, action_dim=ACTION, weights=False, train=train,
                pretrained=str(checkpoint(kind, Path(folder), device == "cuda")), denoising_steps=steps,
                width=32 if device == "cuda" else 8, precision="bfloat16" if device == "cuda" else "float32",
            )  # fmt: skip
        assert isinstance(policy, FlowVLA)
        self.kind, self.device, self.policy = kind, device, policy.to(device)
        self.rng = np.random.default_rng(0)

    def observations(self, count: int) -> Observations:
        words = np.stack([as_bytes("put the red cube on the green plate")] * count)
        images = {
            f"observation.images.{name}": torch.from_numpy(
                self.rng.integers(0, 256, (count, self.side, self.side, 3), np.uint8)
            )
            for name in CAMERAS
        }
        state = torch.from_numpy(self.rng.standard_normal((count, STATE), np.float32))
        given = images | {"observation.state": state, "instruction": torch.from_numpy(words)}
        return {key: value.to(self.device) for key, value in given.items()}

    def windows(self, count: int) -> Windows:
        shape = (count, self.policy.horizon, ACTION)
        actions = torch.from_numpy(self.rng.standard_normal(shape, np.float32)).to(self.device)
        valid = torch.ones(shape[:2], dtype=torch.bool, device=self.device)
        return Windows(dict(self.observations(count)), actions, valid)


def seconds(device: str, work: Callable[[], object], runs: int = RUNS, times: int = 1) -> list[float]:
    """Of each run of `times` times, after one to warm up."""
    taken = []
    for run in range(runs + 1):
        _settled(device)
        begun = time.perf_counter()
        for _ in range(times):
            work()
        _settled(device)
        if run:
            taken.append((time.perf_counter() - begun) / times)
    return taken


def _settled(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def largest(device: str) -> float:
    """FLOP/s of a large matrix product here."""
    size, kind = (8192, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    one, two = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    return 2 * size**3 / statistics.median(seconds(device, lambda: one @ two, times=10))


def flops(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def trained(name: str, work: Callable[[], object], device: str, batch: int, peak: float) -> None:
    work()
    done, taken = flops(work), statistics.median(seconds(device, work, times=3))
    report(f"{name}.steps", 1 / taken, "steps/s")
    report(f"{name}.samples", batch / taken, "samples/s")
    report(f"{name}.utilisation", 100 * done / taken / peak, "% of a matrix product here", "wanted", 40)
    if device == "cuda":
        report(f"{name}.mfu", 100 * done / taken / DATA_SHEET, "% of 989 TFLOP/s", "wanted", 40)
        report(f"{name}.memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")
        torch.cuda.reset_peak_memory_stats()


def sft(subject: Subject, name: str, batch: int, peak: float) -> None:
    trainer = SFT(subject.policy, SFTConfig(steps=10**6, batch_size=batch), seed=0)
    given = subject.windows(batch)
    trained(f"{name}.sft", lambda: trainer.step(given), subject.device, batch, peak)


def step_by_step(policy: FlowVLA, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
    """What `log_prob` does, with a pass of the expert for each denoising step."""
    prefix = policy._look(obs)
    whole: Velocity = policy._velocity(prefix)

    def each(z: Tensor, t: Tensor) -> Tensor:
        return torch.cat([whole(z[:, k : k + 1], t[k : k + 1]) for k in range(z.shape[1])], 1)

    return policy.denoising.log_prob(each, path, stochastic, policy._real(path))


def ppo(subject: Subject, name: str, batch: int, peak: float) -> None:
    policy, obs = subject.policy, subject.observations(batch)
    chunk = policy.act(obs, policy.noise(batch, subject.rng).to(subject.device), True)
    optimizer = Optimizer("policy", policy, 1e-5, 1.0)

    def step(log_prob: Callable[..., Tensor]) -> float:
        found = log_prob(obs, chunk.path, chunk.stochastic)
        return optimizer.step((found - chunk.log_prob).exp().mean())

    trained(f"{name}.ppo", lambda: step(policy.log_prob), subject.device, batch, peak)
    ways = {"one pass": policy.log_prob, "step by step": lambda *given: step_by_step(policy, *given)}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(RUNS):  # by turns
        for way, log_prob in ways.items():
            times[way] += seconds(subject.device, lambda log_prob=log_prob: step(log_prob), runs=1)
    one, other = (statistics.median(times[way]) for way in ways)
    report(f"{name}.ppo.faster", other / one, "times step by step", "wanted at least", 1.5)


def served(subject: Subject, name: str) -> None:
    policy = subject.policy
    for batch in (1, 4, 16):
        given = subject.observations(batch), policy.noise(batch, subject.rng).to(subject.device), False
        taken = np.array(seconds(subject.device, partial(policy.act, *given), runs=20)) * 1e3
        report(f"{name}.act.{batch}", float(np.median(taken)), "ms", "p99", float(np.percentile(taken, 99)))


def weights(subject: Subject, name: str, batch: int) -> None:
    trainer = SFT(subject.policy, SFTConfig(steps=10**6, batch_size=batch), seed=0)
    given, policy = subject.windows(batch), subject.policy
    rounded = parameters(policy)

    def step(settle: Callable[[], None]) -> None:
        loss = policy.loss(given.observations, given.actions, given.valid, trainer.generator)
        trainer.optimizer.step(loss, settle)

    pushed(f"{name}.push", lambda publisher: Loop(policy, step, publisher, constants(policy), rounded))


def measure(device: str, kinds: tuple[str, ...], batch: int) -> None:
    torch.set_num_threads(1)
    peak = largest(device)
    report(f"vla.{device}.product", peak / 1e12, "TFLOP/s")
    horizon, steps = (50, 10) if device == "cuda" else (8, 4)
    for kind in kinds:
        for train in ("full", "lora"):
            subject = Subject(kind, device, train, horizon, steps)
            name = f"vla.{device}.{kind}.{train}"
            millions = sum(p.numel() for p in subject.policy.parameters()) / 1e6
            learnt = sum(p.numel() for p in subject.policy.parameters() if p.requires_grad) / 1e6
            report(f"{name}.parameters", millions, "million", "of which are learnt", learnt)
            sft(subject, name, batch, peak)
            ppo(subject, name, max(1, batch // 4), peak)
            if train == "full":
                served(subject, name)
            weights(subject, name, batch)


def run() -> None:
    if torch.cuda.is_available():
        measure("cuda", KINDS, 32)
    else:
        measure("cpu", KINDS, 4)
        print("no CUDA device here: the published sizes are for one, python benchmarks/vla.py --device cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument("--batch", type=int, default=32, help="samples of a step of SFT; PPO has a quarter")
    chosen = parser.parse_args()
    measure(chosen.device, tuple(chosen.kinds), chosen.batch)


if __name__ == "__main__":
    main()
