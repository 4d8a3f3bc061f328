"""What an arm process and who commands it from elsewhere say to each other: one msgpack frame each, never pickle.

The frame is xxh3_64 of the rest, 8 bytes, then msgpack: a changed bit in a set-point must not move an arm.

`ArmServer` answers each message that has a `sequence` with an `Answer`, and sends `State` unasked.
"""

from typing import Annotated, Any, Literal

import msgspec
import xxhash
from msgspec import Meta

from hal.spec import RobotSpec
from robotlearn.edge.local import MAX_FRAME, Message, Tensor
from robotlearn.edge.shared_frames import Memory
from robotlearn.errors import WireError
from robotlearn.wire.sockets import Limits

SCHEMA = 1
TO_ARM = Limits(max_frame_bytes=64 << 10, messages=1024, heartbeat_s=0.5, dead_after_s=3.0)
FROM_ARM = Limits(max_frame_bytes=MAX_FRAME, messages=1024, heartbeat_s=0.5, dead_after_s=3.0)

Count = Annotated[int, Meta(ge=0, le=2**62)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=1024)]
Scalar = Text | bool | int | float | None
Flat = Annotated[dict[Name, Scalar], Meta(max_length=2048)]
Verdict = Literal["done", "old", "late", "lease", "stopped", "fault", "refused"]


class Hello(Message):
    """Client, first of all: who it is, what it takes the robot for (`agreed`), the cameras whose images it wants."""

    schema: int
    holder: Name
    spec: Flat
    cameras: Annotated[tuple[Name, ...], Meta(max_length=16)]


class Acquire(Message):
    """Client: it wants the lease."""

    sequence: Count
    ttl: float
    take: bool


class Renew(Message):
    """Client, now and then: it is there, and keeps the lease of that token, if any."""

    sequence: Count
    token: Count | None


class Release(Message):
    """Client: it gives the lease back."""

    sequence: Count
    token: Count


class SetPoint(Message):
    """Client: a target (dim,) float64, of no use after `expires` by the arm's monotonic clock."""

    sequence: Count
    token: Count
    target: Tensor
    expires: float


class Rest(Message):
    """Client: nothing is due until the next set-point, and a stop is noticed; of no use after `expires`."""

    sequence: Count
    token: Count
    expires: float


class Stop(Message):
    """Client: stop, until the next set-point."""

    sequence: Count
    token: Count


class Press(Message):
    """Anyone: the e-stop."""

    sequence: Count
    by: Name
    why: Text


class Clear(Message):
    """A process of the arm's own machine, `on_purpose`: release the e-stop."""

    sequence: Count
    on_purpose: bool


class Heard(Message):
    """Client: the number of the last `State` that it got."""

    number: Count


class Share(Message):
    """Client, once welcome: it has cameras, and runs on this machine (`shared_frames.machine`)."""

    machine: Name


class Opened(Message):
    """Client: it opened the memory of that name, and takes images there from now on; or `why` it couldn't."""

    name: Name
    why: Text


class Welcome(Message):
    """Arm: what this robot is called and is; `arm` is another number after each start of its process."""

    name: Name
    spec: Flat
    arm: Count


class Refused(Message):
    """Arm: there was no Hello, or it is refused."""

    known: bool
    reason: Text


class Shared(Message):
    """Arm, to `Share`: the memory that its images lie in, or why there is none for that client."""

    memory: Memory | Text


class Answer(Message):
    """Arm: what became of a message, and when by its monotonic clock. token: of the lease, to `Acquire` if `done`."""

    sequence: Count
    verdict: Verdict
    why: Text
    at: float
    token: Count | None = None


class State(Message):
    """Arm, each control period, if the client keeps up: the newest reading, in its own time, and how it is.

    `number` counts what this client was sent, `period` control periods, `handled` is the newest sequence that was
    looked at. The images of a client that said `Opened` lie in that memory.
    """

    number: Count
    period: Count
    handled: Count
    position: Tensor
    velocity: Tensor
    effort: Tensor | None
    images: dict[str, Tensor]
    monotonic: float
    at: float
    activity: Literal["idle", "running", "stopped", "fault"]
    estopped: bool
    health: Literal["ok", "degraded", "fault", "disconnected"]
    detail: str
    telemetry: dict[str, Tensor]
    holder: str | None


Request = Acquire | Renew | Release | SetPoint | Rest | Stop | Press | Clear
ToArm = Hello | Request | Heard | Share | Opened
FromArm = Welcome | Refused | Shared | Answer | State
_to_arm = msgspec.msgpack.Decoder(ToArm)
_from_arm = msgspec.msgpack.Decoder(FromArm)
_encoder = msgspec.msgpack.Encoder()


def encode(message: ToArm | FromArm) -> bytes:
    """The frame of a message."""
    body = _encoder.encode(message)
    return xxhash.xxh3_64_digest(body) + body


def decode_to_arm(frame: bytes) -> Any:
    """Raises WireError for anything that isn't one of the messages to an arm."""
    return _decoded(_to_arm, frame)


def decode_from_arm(frame: bytes) -> Any:
    """Raises WireError for anything that isn't one of the messages from an arm."""
    return _decoded(_from_arm, frame)


def _decoded(decoder: msgspec.msgpack.Decoder[Any], frame: bytes) -> Any:
    if xxhash.xxh3_64_digest(frame[8:]) != frame[:8]:
        raise WireError(f"message of {len(frame)} bytes fails its checksum")
    try:
        return decoder.decode(frame[8:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"malformed message of {len(frame)} bytes: {error}") from error


_AGREED = {
    "name", "joints", "gripper", "cameras", "control_hz", "driver_hz", "watchdog_s", "on_starved", "on_stop", "guard",
    "workspace",
}  # fmt: skip


def agreed(spec: RobotSpec) -> dict[str, Scalar]:
    """What who commands an arm and the arm must hold alike: axes, limits, rates, cameras, stops; by dotted key."""
    flat: dict[str, Scalar] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}")
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                name = inner["name"] if isinstance(inner, dict) and "name" in inner else index
                walk(inner, f"{path}.{name}")
            flat[f"{path}.length"] = len(value)
        else:
            flat[path] = value

    for key, value in spec.model_dump(mode="json", include=_AGREED).items():
        walk(value, key)
    # The order of the axes is that of every vector.
    flat["names"] = " ".join(spec.names)
    return flat
