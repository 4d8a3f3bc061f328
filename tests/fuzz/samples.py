"""Valid frames of every type, for `malformed` to change, and the decoders that get them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from robotlearn.buffer import ledger, snapshots
from robotlearn.buffer.ledger import SessionState, Settled, Snapshot
from robotlearn.edge import arm_messages, local
from robotlearn.edge.local import Tensor
from robotlearn.edge.shared_frames import Memory, Slot
from robotlearn.errors import RobotlearnError, WireError
from robotlearn.wire import layout, messages, record
from robotlearn.wire.chunks import WeightsLayout
from robotlearn.wire.keys import Keys
from robotlearn.wire.messages import (
    Ack,
    Announce,
    ChunkOf,
    Gone,
    Grant,
    Have,
    Hello,
    LayoutOf,
    Pull,
    Refuse,
    Reject,
    Status,
    Want,
    Welcome,
)
from robotlearn.wire.segment import Group
from tests.arms import fast_spec
from tests.fuzz import malformed as kinds
from tests.fuzz.malformed import Kind, damaged, malformed
from tests.wire.make import make_segment
from tests.wire.rig import CONTRACT

WEIGHTS = WeightsLayout.of(
    {"w": np.zeros((8, 8), np.float32), "b": np.zeros(300, np.float32), "none": np.zeros((0, 4, 2), np.float32)}, 512
)
HASH = b"8 bytes."

TO_LEARNER = (
    Hello(record.SCHEMA, "edge-a", 5, "data", CONTRACT, 1, 0),
    Hello(record.SCHEMA, "edge-a", 5, "weights", CONTRACT, 0, 0),
    Status(3, "running", "", {"recorded": 4, "pending": 1}, {"sent_bytes": 1.5}, 0, [(5, 3), (4, 9)]),
    Want(2, 1),
    Have(7, 4, True),
    Pull(7, 0, HASH, True, 0, 512),
    Pull(7, 1, None, False, 64, 128),
)
TO_EDGE = (
    Welcome("run", 1, 64 << 20, 16 << 20, 3),
    Refuse("peers", "the learner is full"),
    Ack([(5, 0, 3), (4, 2, 1)]),
    Reject(5, 1, "no such robot"),
    Grant(2, 3),
    LayoutOf(WEIGHTS.hash, list(WEIGHTS.tensors), 3),
    Announce(3, 7, WEIGHTS.nbytes, WEIGHTS.hash, WEIGHTS.chunk_bytes, 0, HASH),
    Gone(7),
)
CHUNK = messages.encode(ChunkOf(7, 0, HASH, None, 0, WEIGHTS.chunks[0].length)) + bytes(WEIGHTS.chunks[0].length)

_arm_target, _empty = Tensor.of(fast_spec().home), Tensor.of(np.zeros((0, 3, 2)))
_memory, _elsewhere = Memory(1, 5, "0" * 32, 8, 48), Tensor("uint8", (4, 4, 3), Slot(3, 0))
TO_ARM = (
    arm_messages.Hello(arm_messages.SCHEMA, "anna", arm_messages.agreed(fast_spec()), ()),
    arm_messages.Acquire(1, 60.0, True),
    arm_messages.Renew(2, 7),
    arm_messages.Release(3, 7),
    arm_messages.SetPoint(4, 7, _arm_target, 1e9),
    arm_messages.Rest(5, 7, 1e9),
    arm_messages.Stop(6, 7),
    arm_messages.Press(7, "anna", "smoke"),
    arm_messages.Clear(8, False),
    arm_messages.Heard(9),
    arm_messages.Share("0" * 32),
    arm_messages.Opened("0" * 32, "why not"),
)
FROM_ARM = (
    arm_messages.Welcome("bench", arm_messages.agreed(fast_spec()), 12),
    arm_messages.Refused(True, "no"),
    arm_messages.Shared(_memory),
    arm_messages.Shared("another machine"),
    arm_messages.Answer(4, "done", "", 1.0, 7),
    arm_messages.State(
        1, 2, 3, _arm_target, _arm_target, _empty, {"wrist": Tensor.of(np.zeros((4, 4, 3), np.uint8))}, 1.0, 1.1,
        "idle", False, "ok", "", {"temperature": Tensor.of(np.ones(7))}, None,
    ),
)  # fmt: skip
LOCAL = (
    local.ChunkRequest("arm", 1, "lift", {"observation.state": _arm_target, "observation.none": _empty}),
    local.ChunkRequest("arm", 1, "lift", {"observation.images.front": _elsewhere}, _memory),
    local.ChunkRequest("arm", 2, "lift", {"observation.state": _arm_target}, plan=_arm_target, delay=1),
    local.ChunkAnswer(1, 3, _arm_target, _arm_target, _arm_target, _arm_target),
    local.Hold("station", 1.0),
    local.Start(1, 7),
)
_NONE = {"observation.state": np.zeros((7, 3), np.float32), "observation.none": np.zeros((7, 0, 2), np.float32)}
SEGMENTS = tuple(
    bytes(record.encode(make_segment(seed=seed, **options), session=5, sequence=seed))
    for seed, options in enumerate(
        (
            {}, {"last": True}, {"starred": True}, {"steps": 1, "chunks": 0}, {"image": 6}, {"observations": _NONE},
            {"group": Group(4, 1, 8)},
        )
    )
)  # fmt: skip


def entry(value: object) -> bytes:
    """A log's own entry."""
    return bytes(record.pack(record.ENTRY, msgspec.msgpack.encode(value), [], 0))


LEDGER = tuple(
    map(entry, (
        Settled(5, "acknowledged", [(0, 3), (4, 6)]),
        Settled(5, "rejected", [(3, 4)], "no such robot"),
        ledger.Sent(5, [(0, 20)]),
        ledger.Reopened(5, 3),
        Snapshot({"acknowledged": 3}, [SessionState(5, [(0, 3)], {"acknowledged": 3}, [(0, 9)])]),
    ))
)  # fmt: skip
SEEN = [snapshots.Seen("edge-a", 5, [(0, 3)]), snapshots.Seen("edge-b", 6, [(1, 2), (4, 9)])]
SNAPSHOTS = (
    entry(snapshots.Snapshot(3, (0, 0), SEEN)),
    entry(snapshots.Snapshot(9, (2, 64), SEEN, 4, 1, [(0, 1)], [snapshots.Removal(1, 128, 64, 1)])),
)
KEY_LINES = "".join(f"- name: edge-{n}\n  key: public-{n:064x}\n  roles: [edge, weights]\n" for n in range(3))


@dataclass(frozen=True)
class Decoder:
    """What takes bytes from elsewhere: it may refuse them with these errors, and no others."""

    name: str
    make: Callable[[random.Random], bytes]
    take: Callable[[bytes], object]
    refuses: type[Exception] = WireError

    def try_one(self, rng: random.Random) -> bool:
        """Whether it accepted what was made; AssertionError with the bytes when anything else happened."""
        data = self.make(rng)
        try:
            self.take(data)
        except self.refuses:
            return False
        except Exception as error:
            start = data if len(data) < 4096 else data[:4096] + b"..."
            raise AssertionError(f"{self.name} fails with {error!r} on {len(data)} bytes: {start!r}") from error
        return True


def _of(kind: Kind) -> Callable[[random.Random], bytes]:
    return lambda rng: malformed(kind, rng)


def _verify(data: bytes) -> None:
    record.verify(data)
    # What was found good can be used, and is what the slower check of the arrays finds good.
    record.decode(data, verify=False).validate()


def _verify_many(data: bytes) -> None:
    """As the learner's store does, among good neighbours: who sends nonsense must not spoil theirs."""
    batch = []
    for view in map(memoryview, (SEGMENTS[0], data, SEGMENTS[0], data, SEGMENTS[1])):
        fixed = record.check(view)
        batch.append((view, fixed, record.header_of(view, fixed)))
    wrong = record.verify_many(batch)
    assert [wrong[index] for index in (0, 2, 4)] == [None] * 3 and type(wrong[1]) is type(wrong[3])
    if wrong[1] is not None:
        raise wrong[1]


def _weights(data: bytes) -> None:
    message, _ = messages.decode(data)
    if isinstance(message, LayoutOf):
        made = WeightsLayout(message.tensors, 512)
        for chunk in made.chunks:
            for piece in chunk.pieces:
                tensor = made.tensors[piece.tensor]
                if tensor.nbytes < 1 << 20:
                    np.ndarray(tensor.shape, tensor.dtype, np.zeros(tensor.nbytes, np.uint8))


def _arm(decode: Callable[[bytes], object]) -> Callable[[bytes], None]:
    def take(data: bytes) -> None:
        message = decode(data)
        for name in message.__struct_fields__:
            value = getattr(message, name)
            for tensor in value.values() if isinstance(value, dict) else (value,):
                if isinstance(tensor, Tensor):
                    tensor.array() if isinstance(tensor.data, bytes) else tensor.size

    return take


def _text(seed: str) -> Callable[[random.Random], bytes]:
    """YAML and key files: lines damaged, values replaced by what a parser of YAML stumbles over."""
    many = "- &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"- &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
    )
    values = (
        many, "[" * 2000, "{a: " * 500, "&a [*a]", "&a [x, *b]", "!!int x", "!!float y", "!!bool z", "!!timestamp t",
        "!!set", "2001-99-99", "!!binary ===", "!!python/object/apply:os.system [ls]", "? [a, b]", "<<: 3", "0x",
        "1_0:99", ".inf", "- [", "\x00", "\ud7ff", "\u2028", "'", '"\\xzz"', "%YAML 9.9", "---", "...", "~", "=",
        "<<", "!", "*a", "- - - -",
    )  # fmt: skip

    def make(rng: random.Random) -> bytes:
        lines = seed.encode().splitlines(keepends=True)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(lines))
            name, colon, _ = lines[at].partition(b":")
            match rng.randrange(5):
                case 0:
                    lines[at] = bytes(damaged(lines[at], rng))
                case 1:
                    lines.insert(at, rng.choice(lines))
                case 2:
                    lines[at] = rng.choice(values).encode() + b"\n"
                case _:
                    lines[at] = name + colon + b" " + rng.choice(values).encode() + b"\n"
        return b"".join(lines)

    return make


def plain(keys: Keys) -> tuple[Decoder, Decoder]:
    """The decoders of the files in a folder of keys."""
    own = keys.new("left")
    seed = f"{own.public}\nsecret-{own.secret.hex()}\n"
    file = keys.path / "left.secret"

    def allowed(data: bytes) -> None:
        keys.allowed_file.write_bytes(data)
        assert all(entry.roles for entry in keys.allowed())

    def secret(data: bytes) -> None:
        file.write_bytes(data)
        assert keys.own("left") == own

    return (
        Decoder("the list of allowed keys", _text(KEY_LINES), allowed, RobotlearnError),
        Decoder("a key's file", _text(seed), secret, RobotlearnError),
    )


_to_learner = tuple(map(messages.encode, TO_LEARNER))
_to_edge = (*map(messages.encode, TO_EDGE), CHUNK)
_layouts = kinds.message([messages.encode(TO_EDGE[5])])
DECODERS = (
    Decoder("messages to a learner", _of(kinds.message(_to_learner)), messages.decode),
    Decoder("messages to an edge", _of(kinds.message(_to_edge)), messages.decode),
    Decoder("layouts of weights", _of(_layouts), _weights),
    Decoder("records", _of(kinds.records(SEGMENTS)), _verify),
    Decoder("batches of records", _of(kinds.records(SEGMENTS)), _verify_many),
    Decoder(
        "tables of tensors", _of(kinds.bare([bytes(record.peek(data).tensors) for data in SEGMENTS])), layout.parse
    ),
    Decoder(
        "messages to an arm", _of(kinds.hashed([*map(arm_messages.encode, TO_ARM)])), _arm(arm_messages.decode_to_arm)
    ),
    Decoder(
        "messages from an arm",
        _of(kinds.hashed([*map(arm_messages.encode, FROM_ARM)])),
        _arm(arm_messages.decode_from_arm),
    ),
    Decoder("messages within a workstation", _of(kinds.bare([*map(local.encode, LOCAL)])), _arm(local.decode)),
)
