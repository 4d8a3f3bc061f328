"""What a push of new weights to an edge every 10 s costs a training loop: its steps per second with and without.

By turns. A stack of linear layers, trained with AdamW on noise; an edge in another process of this machine pulls each
version (so its work, and the server's, count too where there are few cores). On a GPU 3 billion parameters in bfloat16,
which its copy engine brings to the host on a stream of their own; on a CPU 100 million in float32, served as bfloat16.
    python -m benchmarks push
    python benchmarks/push.py --device cuda --millions 3000
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.report import report
from robotlearn.buffer.store import SegmentStore
from robotlearn.learner.host_copies import HostCopies
from robotlearn.policy import views
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.server import LearnerServer
from robotlearn.wire.weights import WeightsClient

PERIOD_S = 10.0
TURN_S = float(os.environ.get("BENCH_SECONDS", "40"))
TURNS = int(os.environ.get("BENCH_RUNS", "3"))
CONTRACT = {"bench": 1}


def edge(pipe: Connection, address: str) -> None:
    """Pulls each version; tells how many it had."""
    client = WeightsClient(address, edge="edge", session=1, contract=CONTRACT)
    client.start()
    pipe.recv()
    pipe.send(client.stats())
    client.close()


class Loop:
    """A training loop, whose weights are published now and then."""

    def __init__(self, device: str, millions: int, publisher: Publisher) -> None:
        on_gpu = device == "cuda"
        width = 4096 if on_gpu else 1024
        layers = max(1, round(millions * 1e6 / width**2))
        kind = torch.bfloat16 if on_gpu else torch.float32
        self.model = torch.nn.Sequential(
            *(torch.nn.Linear(width, width, device=device, dtype=kind) for _ in range(layers))
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)
        self.inputs = torch.randn(4096 if on_gpu else 64, width, device=device, dtype=kind)
        self.publisher, self.version = publisher, -1
        self.copies = HostCopies(torch.device(device)) if on_gpu else None
        self.rounded = {name for name, _ in self.model.named_parameters()}

    @property
    def settle(self) -> Callable[[], None]:
        return self.copies.settle if self.copies is not None else self.publisher.settle

    def step(self) -> None:
        loss = self.model(self.inputs).square().mean()
        loss.backward()
        self.settle()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)

    def push(self) -> None:
        self.version += 1
        self.publisher.settle()
        state = self.model.state_dict()
        if self.copies is None:
            self.publisher.publish(self.version, views(state), rounded=self.rounded)
        else:
            self.publisher.publish(self.version, views(self.copies.take(state, {})), ready=self.copies.wait)

    def turn(self, pushing: bool) -> float:
        """Steps per second."""
        steps, begun = 0, time.perf_counter()
        due = begun
        while (now := time.perf_counter()) - begun < TURN_S:
            if pushing and now >= due:
                due += PERIOD_S
                self.push()
            self.step()
            steps += 1
            if self.copies is not None:
                torch.cuda.synchronize()  # a loop looks at its loss
        return steps / (time.perf_counter() - begun)


def measure(device: str, millions: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="robotlearn-bench-") as folder:
        publisher = Publisher()
        store = SegmentStore(Path(folder) / "store")
        server = LearnerServer(
            "tcp://127.0.0.1:*", store, StalenessGate(1, 0), publisher, contract=CONTRACT, run="bench"
        )
        server.start()
        here, there = multiprocessing.Pipe()
        puller = multiprocessing.get_context("spawn").Process(target=edge, args=(there, server.address))
        puller.start()
        loop = Loop(device, millions, publisher)
        for _ in range(3):
            loop.step()
        rates: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(TURNS):
            for pushing in (False, True):
                rates[pushing].append(loop.turn(pushing))
        here.send(None)
        stats = here.recv()
        puller.join()
        server.close()
        store.close()
    parameters = sum(parameter.numel() for parameter in loop.model.parameters())
    with_pushes, without = statistics.median(rates[True]), statistics.median(rates[False])
    name = f"push.{device}.{parameters / 1e6:.0f}M"
    report(f"{name}.steps", with_pushes, "steps/s", "without pushes", without)
    report(f"{name}.slower", 100 * (1 - with_pushes / without), "% slower", "wanted at most", 2.0)
    report(f"{name}.version", stats["version"], "newest at the edge", "published", loop.version)


def run() -> None:
    measure("cpu", 100)
    if torch.cuda.is_available():
        measure("cuda", 3000)
    else:
        print("no CUDA device here: python benchmarks/push.py --device cuda --millions 3000 is for one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--millions", type=int, default=100, help="of parameters")
    chosen = parser.parse_args()
    measure(chosen.device, chosen.millions)


if __name__ == "__main__":
    main()
