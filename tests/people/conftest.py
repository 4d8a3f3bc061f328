"""Children on pseudo-terminals, with a runtime folder of their own, and a device that a test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.people.scripted import Scripted
from tests.people.typing_person import Typist


@pytest.fixture
def device() -> Scripted:
    return Scripted()


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "runtime"
    folder.mkdir()
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def typist(runtime: Path) -> Iterator[Callable[..., Typist]]:
    made: list[Typist] = []

    def make(*arguments: str) -> Typist:
        made.append(Typist(arguments, runtime))
        return made[-1]

    yield make
    for one in made:
        one.close()
