"""What each encoding of a segment costs per step: bytes, and processor time to encode, verify, decode its record.

Real segments of a batch edge's rollout: `lift` with the Panda, the policy untrained, one camera. Images are those that
were rendered, once as they are and once with a sensor's noise (deviation 2 of 255), which no rendered picture has.
Bytes are compared with raw; lossless images also with PNG as Pillow writes it at its fastest.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from benchmarks.report import report
from robotlearn.cells import cells_of, env_options
from robotlearn.config.load import load_config
from robotlearn.edge.rollout import BatchRollout
from robotlearn.inputs import Inputs
from robotlearn.policy import build_policy
from robotlearn.wire import record
from robotlearn.wire.encodings import IMAGES, Encodings, ImageEncoding
from robotlearn.wire.segment import Segment

ROUNDS = 5
STEPS = 32
SIZES = ((84, 84), (128, 128), (480, 640))
CAMERA = f"{IMAGES}front"
WAYS = {
    "raw": ImageEncoding("raw"),
    "jpeg": ImageEncoding("jpeg"),
    "lossless": ImageEncoding("lossless"),
    "video": ImageEncoding("video"),
}
"""With the qualities that a config has by default."""


def recorded(size: tuple[int, int] | None) -> Segment:
    """The first segment of an episode; `size` of its camera's images, None without a camera."""
    seen = [] if size is None else ["observations.cameras=[front]", f"observations.image_size={list(size)}"]
    config = load_config("laptop", seen)
    blind = load_config("laptop")  # a policy that looked at the images would only take time
    inputs, made = Inputs(blind), list[Segment]()
    rollout = BatchRollout(
        build_policy(blind, inputs), inputs, cells_of(config)[0], edge="bench", arms=1, threads=1, segment_steps=STEPS,
        seed=0, emit=made.extend, options=env_options(config),
    )  # fmt: skip
    rollout.start(1)
    while not made:
        rollout.advance(0)
    rollout.close()
    return made[0]


def noisy(segment: Segment) -> Segment:
    images = segment.observations[CAMERA]
    images = (images + np.random.default_rng(0).normal(0, 2, images.shape)).clip(0, 255).astype(np.uint8)
    return replace(segment, observations=segment.observations | {CAMERA: images})


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Of 8-bit images, in dB."""
    return float(10 * np.log10(255**2 / ((one.astype(np.float64) - other) ** 2).mean()))


def _micros(work: Callable[[], object], steps: int) -> float:
    """Median microseconds of processor time per step."""
    took = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        work()
        took.append(time.process_time() - begun)
    return statistics.median(took) * 1e6 / steps


def measure(name: str, segment: Segment, ways: dict[str, Encodings]) -> None:
    reference = 0.0
    for way, encodings in ways.items():
        segment.encodings = encodings
        data = record.encode(segment)
        size = len(data) / segment.steps
        reference = reference or size
        report(f"payloads.{name}.{way}.size", size, "bytes/step", "raw", reference)
        encoding = _micros(lambda: record.encode(segment), segment.steps)
        report(f"payloads.{name}.{way}.encode", encoding, "µs/step")
        verifying = _micros(lambda data=data: record.verify(data), segment.steps)
        report(f"payloads.{name}.{way}.verify", verifying, "µs/step")
        decoding = _micros(lambda data=data: record.decode(data, verify=False), segment.steps)
        report(f"payloads.{name}.{way}.decode", decoding, "µs/step")
        if CAMERA in segment.observations:
            back, images = record.decode(data).observations[CAMERA], segment.observations[CAMERA]
            if not np.array_equal(back, images):
                report(f"payloads.{name}.{way}.psnr", psnr(back, images), "dB")


def png(images: np.ndarray) -> list[bytes]:
    files = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG", compress_level=1)
        files.append(stream.getvalue())
    return files


def measure_png(name: str, segment: Segment) -> None:
    images = segment.observations[CAMERA]
    report(f"payloads.{name}.png.size", sum(map(len, png(images))) / segment.steps, "bytes/step")
    report(f"payloads.{name}.png.encode", _micros(lambda: png(images), segment.steps), "µs/step")


def run() -> None:
    measure("arrays", recorded(None), {way: Encodings(way) for way in ("raw", "zstd")})
    for size in SIZES:
        rendered = recorded(size)
        ways = {way: Encodings("raw", other=how) for way, how in WAYS.items()}
        for suffix, segment in (("", rendered), ("-noise", noisy(rendered))):
            name = "x".join(map(str, size)) + suffix
            measure(name, segment, ways)
            measure_png(name, segment)
