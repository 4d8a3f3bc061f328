"""What differs from episode to episode besides the start: words, physics, noise, latency; each drawn from its own."""

import math

import numpy as np

from envs.randomization import Randomization
from hal.robot import Factors


class Variation:
    """Random streams of one environment, apart from that of the starts: none of them disturbs another.

    So the same seed gives the same starts and wordings whatever is randomised, and one span does not change what is
    drawn for the others. `moves` is the generator of where objects go in mid-episode, for tasks that move them.
    """

    def __init__(self, randomization: Randomization, objects: tuple[str, ...], joints: int, seed: int) -> None:
        self._spans, self._objects, self._joints = randomization, objects, joints
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start all streams anew; `seed` is not negative."""
        self.streams = tuple(np.random.default_rng([seed, stream]) for stream in range(1, 7))
        self._wordings, self._physics, self._latency, self._noise, self._image_noise, self.moves = self.streams

    def wordings(self, instructions: tuple[str, ...], k: int) -> list[str]:
        """One of `instructions` for each of k episodes."""
        return [instructions[index] for index in self._wordings.integers(len(instructions), size=k)]

    def factors(self, k: int) -> Factors:
        """The physics of k episodes: one factor for each object, each kind of contact and each joint."""
        spans, objects, joints = self._spans, len(self._objects), self._joints
        unit = self._physics.uniform(-1, 1, (k, objects + 2 + 2 * joints))
        mass, friction, damping, gain = np.split(unit, np.cumsum([objects, 2, joints]), -1)
        scaled = np.exp(mass * math.log1p(spans.mass))
        return Factors(
            mass={name: scaled[:, index] for index, name in enumerate(self._objects)},
            friction=np.exp(friction * math.log1p(spans.friction)),
            damping=np.exp(damping * math.log1p(spans.damping)),
            gain=np.exp(gain * math.log1p(spans.gain)),
        )

    def latencies(self, k: int) -> np.ndarray:
        """(k,) delays of k episodes' actions, control steps."""
        return self._latency.integers(self._spans.latency, size=k, endpoint=True)

    def noise(self, k: int, dim: int) -> np.ndarray:
        """(k, dim) errors of one measurement, rad and m."""
        return self._noise.normal(0, self._spans.sensor_noise, (k, dim))

    def noisy(self, images: np.ndarray) -> np.ndarray:
        """Images (..., H, W, 3) uint8 with noise on each value of each pixel."""
        noise = self._image_noise.normal(0, 255 * self._spans.image_noise, images.shape)
        return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)
