"""Instructions as vectors: hashed words and pieces of words, or, for a model that reads, their bytes."""

import re
import zlib
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

INSTRUCTION_DIM = 64
TEXT_DIM = 256
"""Longest instruction that is passed on as bytes."""
_WORD = re.compile(r"\w+")


@lru_cache(maxsize=4096)
def embed(instruction: str) -> NDArray[np.float32]:
    """(64,) float32 of norm 8, so of unit size per entry; the same on every machine and for ever. Read-only.

    Each word, its neighbour pairs and its pieces of three to five letters add one signed entry at a hashed place (the
    hashing trick, arXiv:0902.2206, with the subwords of fastText, arXiv:1607.04606): wordings that share words lie near
    each other, and a word never seen before still lies near its kin.
    """
    words = _WORD.findall(instruction.lower())
    parts = [*words, *(f"{one} {two}" for one, two in pairwise(words))]
    for word in words:
        framed = f"<{word}>"
        parts += [framed[i : i + n] for n in (3, 4, 5) for i in range(len(framed) - n + 1)]
    vector = np.zeros(INSTRUCTION_DIM, np.float64)
    for part in parts:
        code = zlib.crc32(part.encode())
        # Whole words say more than their pieces, of which there are many.
        weight = 4.0 if part in words else 1.0
        vector[code % INSTRUCTION_DIM] += weight if code >> 16 & 1 else -weight
    norm = np.linalg.norm(vector)
    result = (vector * (np.sqrt(INSTRUCTION_DIM) / norm) if norm else vector).astype(np.float32)
    result.flags.writeable = False
    return result


@lru_cache(maxsize=4096)
def as_bytes(instruction: str) -> NDArray[np.float32]:
    """(256,) float32, the bytes of the text in UTF-8, then zeros; what is longer is cut off. Read-only."""
    data = instruction.encode()[:TEXT_DIM]
    result = np.frombuffer(data.ljust(TEXT_DIM, b"\0"), np.uint8).astype(np.float32)
    result.flags.writeable = False
    return result


def as_text(rows: NDArray[np.float32]) -> list[str]:
    """What `as_bytes` made rows (n, 256) of; a character that was cut in two is left out."""
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows.astype(np.uint8)]
