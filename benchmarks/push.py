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
from collections.abc import Callable, Hashable, Mapping
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
    """Pulls each version; tells when it has the one it is asked for, and at the end how many it had."""
    client = WeightsClient(address, edge="edge", session=1, contract=CONTRACT)
    client.start()
    pipe.send("ready")
    while (version := pipe.recv()) is not None:
        pipe.send(client.wait(version, 600) is not None)
    pipe.send(client.stats())
    client.close()


class Loop:
    """A training loop, whose weights are published now and then; `step` calls what it is given before they change."""

    def __init__(
        self,
        model: torch.nn.Module,
        step: Callable[[Callable[[], None]], None],
        publisher: Publisher,
        constant: Mapping[str, Hashable],
        rounded: set[str],
    ) -> None:
        self.model, self._step = model, step
        self.publisher, self.version, self.constant, self.rounded = publisher, -1, constant, rounded
        self.device = next(model.parameters()).device
        self.copies = HostCopies(self.device) if self.device.type == "cuda" else None
        self.settle = self.copies.settle if self.copies is not None else publisher.settle

    def step(self) -> None:
        self._step(self.settle)
        if self.copies is not None:
            torch.cuda.synchronize()  # a loop looks at its loss

    def push(self) -> None:
        self.version += 1
        self.publisher.settle()
        state, given = self.model.state_dict(), {"constant": self.constant, "rounded": self.rounded}
        if self.copies is None:
            self.publisher.publish(self.version, views(state), **given)
        else:
            here = views(self.copies.take(state, self.constant))
            self.publisher.publish(self.version, here, ready=self.copies.wait, **given)

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
        return steps / (time.perf_counter() - begun)


def layers(device: str, millions: int, publisher: Publisher) -> Loop:
    """A stack of linear layers, trained on noise."""
    on_gpu = device == "cuda"
    width, kind = (4096, torch.bfloat16) if on_gpu else (1024, torch.float32)
    count = max(1, round(millions * 1e6 / width**2))
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width, device=device, dtype=kind) for _ in range(count)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    inputs = torch.randn(4096 if on_gpu else 64, width, device=device, dtype=kind)

    def step(settle: Callable[[], None]) -> None:
        model(inputs).square().mean().backward()
        settle()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return Loop(model, step, publisher, {}, {name for name, _ in model.named_parameters()})


def pushed(name: str, make: Callable[[Publisher], Loop]) -> None:
    """Report what pushes cost the loop that `make` gives, and what a push takes until the edge has it."""
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
        here.recv()
        loop = make(publisher)
        for _ in range(3):
            loop.step()
        waits = []
        for _ in range(3):  # the first brings what never changes, too
            loop.step()
            sent, begun = publisher.bytes_sent, time.perf_counter()
            loop.push()
            here.send(loop.version)
            here.recv()
            waits.append((time.perf_counter() - begun, publisher.bytes_sent - sent))
        rates: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(TURNS):
            for pushing in (False, True):
                rates[pushing].append(loop.turn(pushing))
        here.send(None)
        stats = here.recv()
        puller.join()
        server.close()
        store.close()
    with_pushes, without = statistics.median(rates[True]), statistics.median(rates[False])
    for which, (taken, size) in (("first", waits[0]), ("next", waits[-1])):
        report(f"{name}.{which}", taken, "s until the edge has it")
        report(f"{name}.{which}.sent", size / 1e6, "MB")
    report(f"{name}.steps", with_pushes, "steps/s", "without pushes", without)
    report(f"{name}.slower", 100 * (1 - with_pushes / without), "% slower", "wanted at most", 2.0)
    report(f"{name}.version", stats["version"], "newest at the edge", "published", loop.version)


def measure(device: str, millions: int) -> None:
    torch.set_num_threads(1)
    pushed(f"push.{device}.{millions}M", lambda publisher: layers(device, millions, publisher))


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
