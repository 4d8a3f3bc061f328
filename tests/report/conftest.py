"""Run folders with the configs and metrics of real runs: `train smoke`, and three seeds of `train laptop` cut short."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest

DATA = Path(__file__).with_name("data")

Place = Callable[..., Path]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Make a run folder of one in `data`: under `name`, with `rows` after its own or (`instead`) in their place."""

    def place(source: str, name: str = "", rows: list[dict[str, Any]] | None = None, instead: bool = False) -> Path:
        path = tmp_path / (name or source)
        shutil.copytree(DATA / source, path)
        (path / "videos").mkdir()
        metrics = path / "metrics.jsonl"
        own = "" if instead else metrics.read_text()
        metrics.write_text(own + "".join(json.dumps(row) + "\n" for row in rows or []))
        return path

    return place


def film(run: Path, version: int) -> Path:
    """A real mp4 of noise, as a run's film of that version."""
    path = run / "videos" / f"version-{version:06d}.mp4"
    frames = np.random.default_rng(version).integers(0, 255, (5, 32, 32, 3), np.uint8)
    imageio.imwrite(path, frames, fps=10, codec="libx264", macro_block_size=1)
    return path
