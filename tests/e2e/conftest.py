"""A place for each test to run the whole system in, empty of processes afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if sys.platform != "linux":
        pytest.skip("processes are found by their environment in /proc")
    place = Site(tmp_path)
    try:
        yield place
    finally:
        place.close()
