"""Fuzzing of every decoder led by the code that it reaches, with atheris (https://github.com/google/atheris).

libFuzzer chooses the decisions of what makes malformed frames here, not the frames' bytes: so checksums stay right.
    .venv/bin/pip install atheris
    .venv/bin/python -m tests.fuzz.led_by_coverage -max_total_time=60      # and other options of libFuzzer
"""

from __future__ import annotations

import random
import sys

import atheris

with atheris.instrument_imports(include=["robotlearn.wire", "robotlearn.edge", "robotlearn.buffer"]):
    from tests.fuzz.samples import DECODERS


class Decisions(random.Random):
    """Takes its numbers from bytes; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data, self._at = data, 0

    def getrandbits(self, k: int) -> int:
        size = (k + 7) // 8
        taken = self._data[self._at : self._at + size].ljust(size, b"\0")
        self._at += size
        return int.from_bytes(taken, "little") >> (8 * size - k)

    def random(self) -> float:
        return self.getrandbits(16) / 65536


def one(data: bytes) -> None:
    decisions = Decisions(data)
    decisions.choice(DECODERS).try_one(decisions)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
