"""Malformed frames at what is running: nothing ends, nothing grows, honest traffic goes on beside them."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

import hal
from robotlearn.edge import arm_messages
from robotlearn.edge.remote import RemoteRobot
from robotlearn.errors import WireError
from robotlearn.wire import messages, sockets
from robotlearn.wire.chunks import WeightsLayout
from robotlearn.wire.messages import Ack, Announce, ChunkOf, Grant, Hello, LayoutOf, Reject, Welcome
from robotlearn.wire.sockets import Limits
from tests.arms import fast_spec
from tests.edge.remote_rig import Process, Raw, drive
from tests.fuzz import malformed as kinds
from tests.fuzz.attacker import AT_A_LEARNER, AT_AN_EDGE, Attacker, rounds
from tests.fuzz.memory import rss
from tests.fuzz.samples import TO_ARM, WEIGHTS
from tests.waiting import until
from tests.wire.make import make_segment
from tests.wire.rig import edge, learner, weights_client

FLAT_BYTES = 64 << 20
ROOT = Path(__file__).parents[2]


class Child:
    """A learner or an edge in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.child", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, cwd=ROOT,
        )  # fmt: skip

    def line(self) -> str:
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said, f"it ended with {self.process.wait(30)}"
        return said.strip()

    def ask(self, command: str = "") -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.line())
        return answer

    @property
    def rss(self) -> int:
        return rss(self.process.pid)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def attack_a_learner(folder: Path, frames: int) -> None:
    rng = random.Random(7)
    with contextlib.ExitStack() as stack:
        child = stack.enter_context(Child("learner", str(folder / "learner")))
        address = child.line()
        honest = stack.enter_context(edge(folder / "edge", address, name="honest"))
        weights = stack.enter_context(weights_client(address, edge="honest"))

        def attacker(number: int) -> Attacker:
            # Without HELLO, as an edge (two under one name: each takes over from the other), and for the weights.
            hello, role = ((None, "data"), ("eve", "data"), ("eve", "data"), ("mallory", "weights"))[number % 4]
            made = Attacker(address, rng, hello=hello, role=role)
            stack.callback(made.close)
            return made

        attackers = [attacker(number) for number in range(4)]
        thrown = warm = recorded = 0
        while thrown < frames:
            for index, one in enumerate(attackers):
                if rng.random() < 0.02:
                    one.close()
                    one = attackers[index] = attacker(rng.randrange(4))
                batch = rounds(AT_A_LEARNER, rng, 250)
                one.throw(batch)
                thrown += len(batch)
            honest.spool.record(make_segment(edge="honest", seed=recorded))
            recorded += 1
            if recorded % 10 == 1:
                version = child.ask()["version"]
                assert weights.wait(version, 60) is not None, "no new weights"
            if not warm and thrown > frames // 4:
                until(lambda: honest.spool.counts().pending == 0, "answers")
                warm = child.rss
        until(lambda: honest.spool.counts().acknowledged == recorded, "every answer", 120)
        counts = child.ask("stored")
        assert counts["stored of honest"] == list(range(recorded)) and counts["ended"] == []
        assert counts["bad_frames"] > frames // 10 and counts["rejected"] and counts["damaged"]
        assert honest.balanced() and honest.spool.counts().rejected == 0
        assert weights.wait(counts["version"], 60) is not None
        assert child.rss - warm < FLAT_BYTES


class FakeLearner:
    """Says WELCOME to every edge, and then whatever a test wants."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.socket = sockets.router(self.context, Limits(messages=256))
        self.socket.setsockopt(zmq.SNDTIMEO, 60_000)
        self.address = sockets.bind(self.socket, "tcp://127.0.0.1:*")
        self.greeted: dict[bytes, None] = {}  # identities, in order

    def listen(self) -> None:
        """Welcome who said HELLO, ignore all else."""
        while self.socket.poll(0):
            identity, frame = self.socket.recv_multipart()
            with contextlib.suppress(WireError):
                message, _ = messages.decode(frame)
                if isinstance(message, Hello):
                    self.greeted[identity] = None
                    self.say(identity, messages.encode(Welcome("run", 1, 64 << 20, 16 << 20, 3)))

    def say(self, identity: bytes, frame: bytes) -> None:
        """Waits while that edge takes nothing in; one that hung up is forgotten."""
        try:
            self.socket.send_multipart([identity, frame])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self.greeted.pop(identity, None)

    def close(self) -> None:
        self.context.destroy(linger=0)


def lies(session: int, rng: random.Random) -> Iterator[bytes]:
    """Sound messages that are not true, of what never was recorded and of weights that can't be."""
    far = 2**40 + rng.randrange(2**20)
    yield messages.encode(Ack([(session, far, 2**62)] * 3 + [(rng.getrandbits(60), 0, 2**62)] * 3))
    yield messages.encode(Ack([(session, far, 4000)] * 3000))
    yield messages.encode(Reject(session, far, "no"))
    yield messages.encode(Grant(2**62, 3))
    yield messages.encode(Grant(rng.randrange(5), 3))
    for chunk_bytes in (1, 64, 512, 2**31):
        size = rng.choice((0, 100, 2**20, 2**34, 2**38))
        tensors = [layout_entry(f"t{n}", size) for n in range(rng.choice((1, 3)))]
        with contextlib.suppress(WireError):
            made = WeightsLayout(tensors, chunk_bytes)
            trained = rng.choice((0, len(tensors), 2**40))
            yield messages.encode(LayoutOf(made.hash, tensors, trained))
            uid, digest, lie = rng.randrange(1, 2**40), rng.randbytes(8), rng.randbytes(8)
            constant = rng.choice((None, lie))
            yield messages.encode(
                Announce(rng.randrange(100), uid, made.nbytes, made.hash, chunk_bytes, 2**62, constant)
            )
            base, start, total = rng.choice((None, lie)), rng.choice((0, 64, 2**50)), rng.choice((0, 512, 2**50))
            yield messages.encode(ChunkOf(uid, 0, digest, base, start, total)) + bytes(rng.randrange(600))
    yield messages.encode(LayoutOf(WEIGHTS.hash, [layout_entry("x", 2**30)], 1))


def layout_entry(name: str, size: int) -> messages.TensorEntry:
    return messages.TensorEntry(name, "|u1", (size,), "raw", size)


def attack_an_edge(folder: Path, frames: int) -> None:
    rng = random.Random(8)
    fake = FakeLearner()
    address = fake.address
    with Child("edge", str(folder / "edge"), address) as child:
        try:
            recorded = thrown = warm = 0
            session = 0
            while thrown < frames:
                fake.listen()
                if len(fake.greeted) < 2 or rng.random() < 0.1:
                    session = child.ask()["session"]
                    recorded += 1
                for identity in list(fake.greeted)[-4:]:
                    batch = rounds(AT_AN_EDGE, rng, 100)
                    if rng.random() < 0.2:
                        batch += lies(session, rng)
                    for frame in batch:
                        fake.say(identity, frame)
                    thrown += len(batch)
                if not warm and thrown > frames // 4:
                    warm = child.rss
            counts = child.ask()
            recorded += 1
            assert counts["bad_frames"] > 0 and counts["weights_bad_frames"] > 0
            assert counts["recorded"] == counts["pending"] == recorded, "nobody stored anything"
            assert child.rss - warm < FLAT_BYTES
        finally:
            fake.close()
        with learner(folder / "learner", bind=address) as rig:
            rig.publisher.publish(1, WEIGHTS_OF_THE_HONEST)
            until(lambda: child.ask()["weights"] == 1, "true weights", 60)
            until(lambda: child.ask()["pending"] < 5, "answers", 60)
            until(lambda: child.ask()["acknowledged"] > recorded, "answers", 60)
            stored = rig.sequences()
            assert stored[:recorded] == list(range(recorded)) and len(stored) == len(set(stored))


WEIGHTS_OF_THE_HONEST = {"w": make_segment().reward}
HARMLESS = [one for one in TO_ARM if not isinstance(one, arm_messages.Press | arm_messages.Acquire)]
"""An e-stop is for anyone to press, and without keys anyone may take the lease."""


def attack_an_arm(frames: int) -> None:
    rng = random.Random(9)
    attack = (kinds.hashed([*map(arm_messages.encode, HARMLESS)]),)
    process = Process(bind="tcp://127.0.0.1:*")
    try:
        raws = [Raw(process.address, fast_spec(), hello=index > 0) for index in range(3)]
        thrown = warm = 0
        goal = fast_spec().home.copy()
        goal[0] += 0.1
        with RemoteRobot(fast_spec(), address=process.address) as robot:
            while thrown < frames:
                for raw in raws:
                    for frame in rounds(attack, rng, 100):
                        raw.socket.send(frame)
                    thrown += 100
                    while raw.socket.poll(0):
                        raw.socket.recv()
                robot.write(hal.Command(goal))
                robot.wait()
                if not warm and thrown > frames // 4:
                    warm = rss(process.child.pid)
            drive(robot, goal)
            assert robot.health().state == "ok"
        counts = process.stats()
        assert counts["bad_frames"] > frames // 4 and counts["stops"] >= 0 and counts["writes"] > 0
        assert process.child.poll() is None and rss(process.child.pid) - warm < FLAT_BYTES
        for raw in raws:
            raw.close()
    finally:
        process.close()


def test_a_learner_bears_some(tmp_path: Path) -> None:
    attack_a_learner(tmp_path, 20_000)


def test_an_edge_bears_some(tmp_path: Path) -> None:
    attack_an_edge(tmp_path, 4_000)


@pytest.mark.usefixtures("runtime")
def test_an_arm_bears_some() -> None:
    attack_an_arm(3_000)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_learner_bears_very_many(tmp_path: Path) -> None:
    attack_a_learner(tmp_path, 850_000)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_edge_bears_very_many(tmp_path: Path) -> None:
    attack_an_edge(tmp_path, 100_000)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("runtime")
def test_an_arm_bears_very_many() -> None:
    attack_an_arm(50_000)
