"""Messages between the processes of one workstation, over ZeroMQ's ipc transport: typed msgpack, never pickle.

An arm process talks to its policy server (`ChunkRequest`, `ChunkAnswer`) and to its station (`Begin`, `Line`,
`Preview`, `ArmState`, `Hold`, `Start`); the policy server tells its station how it is (`ServerState`). Frames are
bounded by `MAX_FRAME`; a malformed one raises WireError in `decode`.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
import zmq

from robotlearn.edge.shared_frames import FrameRing, Memory, SharedFrames, Slot
from robotlearn.errors import WireError

MAX_FRAME = 64 << 20
MAX_DIMS = 8
_DTYPES = Literal["float32", "float64", "uint8", "bool", "int32", "int64"]


class Tensor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A NumPy array: dtype, shape, and its bytes in C order, or where they lie in the sender's shared memory."""

    dtype: _DTYPES
    shape: tuple[int, ...]
    data: bytes | Slot

    @classmethod
    def of(cls, array: np.ndarray) -> "Tensor":
        array = np.ascontiguousarray(array)
        return cls(array.dtype.name, array.shape, array.tobytes())

    def array(self) -> np.ndarray:
        """A read-only view. Raises WireError when bytes and shape don't fit together, or the bytes aren't here."""
        if isinstance(self.data, Slot):
            raise WireError("a tensor lies in shared memory where none was agreed on")
        if self.size != len(self.data):
            raise WireError(f"tensor of shape {self.shape} and dtype {self.dtype} came with {len(self.data)} bytes")
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)

    @property
    def size(self) -> int:
        """Bytes by dtype and shape; -1 for a shape that no array has."""
        sound = len(self.shape) <= MAX_DIMS and all(0 <= size <= MAX_FRAME for size in self.shape)
        # Also where it is empty: NumPy multiplies the other sizes.
        sound = sound and math.prod(max(size, 1) for size in self.shape) <= MAX_FRAME
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize if sound else -1


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Named arrays as they go into a message: copies of any shape, float32, float64, integer or bool."""
    return {key: Tensor.of(value) for key, value in arrays.items()}


def shared(arrays: Mapping[str, np.ndarray], ring: FrameRing) -> dict[str, Tensor]:
    """As `tensors`, with images, which are of three dimensions, in one slot of the ring. Raises NotShared."""
    images = {key: value for key, value in arrays.items() if value.ndim == 3}
    slots = dict(zip(images, ring.write(list(images.values())), strict=True)) if images else {}
    return {
        key: Tensor(value.dtype.name, value.shape, slots[key]) if key in slots else Tensor.of(value)
        for key, value in arrays.items()
    }


def fetched(fields: Mapping[str, Tensor], frames: SharedFrames | None) -> dict[str, Tensor]:
    """The same with all bytes in it: copies of what lies in shared memory.

    Raises Overwritten when that is gone, WireError when it can't be there or `frames` is None.
    """
    return {
        key: Tensor(value.dtype, value.shape, frames.read(value.data, value.size))
        if frames is not None and isinstance(value.data, Slot)
        else value
        for key, value in fields.items()
    }


def arrays(fields: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """What `tensors` was made from; read-only. Raises WireError for one whose shape and bytes don't fit."""
    return {key: value.array() for key, value in fields.items()}


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Any local message; the tag is the class name."""


class ChunkRequest(Message):
    """Arm to policy server: the observation from which chunk number `request` of this arm should start, its task in
    words; the memory that its images lie in, if they do.

    `plan`: float32 (L, D), L at most H, what the running chunk has left at this observation, where the new one should
    go on from it; `delay`: after how many of these the new one is expected to take over.
    """

    robot: str
    request: int
    instruction: str
    observations: dict[str, Tensor]
    memory: Memory | None = None
    plan: Tensor | None = None
    delay: int = 0


class ChunkAnswer(Message):
    """Policy server to arm: actions (H, D), and what the recorder keeps of the chunk.

    `server`: a random number that each life of a policy server has for itself.
    """

    request: int
    version: int
    actions: Tensor
    path: Tensor
    stochastic: Tensor
    log_prob: Tensor
    server: int = 0


class Hold(Message):
    """Station to arm, again and again: it wants the lease, or to keep it, for `ttl` seconds from now.

    `frames` is the name of the memory that it reads, or why it reads none; `taken` the newest number it has read there.
    """

    holder: str
    ttl: float
    frames: str = ""
    taken: int = 0


class Start(Message):
    """Station to arm: the gate is open for one episode, under the lease of that token."""

    episode: int
    token: int


class Begin(Message):
    """Arm to station: an episode of the task in these words starts at these observations."""

    episode: int
    instruction: str
    observations: dict[str, Tensor]


class Line(Message):
    """Arm to station: one control step, the observations after it, and the chunk that began with it, if one did.

    `first` is the index of the action in that chunk, `lag` the steps since the observation that the chunk started from;
    `stopped`: why the arm was stopped and with it the episode; "" otherwise.
    """

    episode: int
    step: int
    observations: dict[str, Tensor]
    proposed: Tensor
    executed: Tensor
    from_chunk: bool
    held: bool
    intervention: bool
    reward: float
    terminated: bool
    truncated: bool
    success: bool
    monotonic: float
    wall: float
    chunk: ChunkAnswer | None = None
    first: int = 0
    lag: int = 0
    stopped: str = ""


class Preview(Message):
    """Arm to station, instead of an episode in a dry run: a chunk, and what the safety layer would make of it.

    `proposed` and `executed` are actions (H, D), `clipped` and `held` bool (H,), as if the chunk began at rest where
    the arm is; `latency_ms` is the time from the request to the answer.
    """

    episode: int
    version: int
    observations: dict[str, Tensor]
    proposed: Tensor
    executed: Tensor
    clipped: Tensor
    held: Tensor
    latency_ms: float


ArmActivity = Literal[
    "resting",
    "driving to a start",
    "waiting for its scene",
    "waiting for a chunk",
    "working",
    "e-stopped",
    "stopped",
]


Judge = Literal["task", "person", "nobody"]
"""Who says how an episode ended: the task, from where its objects are; a person alone; nobody, so it isn't known."""


class ArmState(Message):
    """Arm to station, twice a second and when it comes to rest: what it does and what went wrong.

    `episode` is the last one that it was told to start, -1 before the first; all counts are since its start. `token` is
    that of the station's lease, None while it has none; `holder` is who has the lease; `waits_for` is what a person is
    to do before the episode begins, "" otherwise. `memory` is where its camera images will lie, None where it has none
    or can't; `frames` is how they go to the station, "" without cameras. `delay` is how many control steps its chunks
    take, the longest of the last 8; None before it was measured. `judge` is who says how its episodes ended.
    """

    state: ArmActivity
    episode: int
    health: str
    holder: str | None
    token: int | None
    steps: int
    starved: int
    missed: int
    clipped: int
    dropped_answers: int
    lost_lines: int
    waits_for: str = ""
    memory: Memory | None = None
    frames: str = ""
    delay: int | None = None
    judge: Judge = "task"


class Latency(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What batches of one size took: of how many, their median and 99th percentile [ms]."""

    batches: int
    p50_ms: float
    p99_ms: float


class ServerState(Message):
    """Policy server to station, a few times a second: the version it serves (-1: none yet), what it has done, and how
    long that took, by the size of a batch. `busy` is what it does before it can serve, "" when that is done.
    """

    version: int
    robots: int
    requests: int
    batches: int
    latencies: dict[int, Latency]
    busy: str = ""


AnyMessage = ChunkRequest | ChunkAnswer | Hold | Start | Begin | Line | Preview | ArmState | ServerState
_decoder = msgspec.msgpack.Decoder(AnyMessage)
_encoder = msgspec.msgpack.Encoder()


def encode(message: AnyMessage) -> bytes:
    """The frame of a message (msgpack)."""
    return _encoder.encode(message)


def decode(frame: bytes) -> Any:
    """Raises WireError for anything that is not one of the messages above."""
    try:
        return _decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"malformed local message of {len(frame)} bytes: {error}") from error


def local_socket(context: "zmq.Context[zmq.Socket[bytes]]", kind: int, *, queue: int = 1024) -> "zmq.Socket[bytes]":
    """A socket for one workstation's processes, options set before any bind or connect; nothing lingers at close."""
    socket = context.socket(kind)
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = queue
    socket.maxmsgsize = MAX_FRAME
    return socket
