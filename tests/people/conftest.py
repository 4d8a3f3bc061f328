"""Children on pseudo-terminals, with a runtime folder of their own, and a device that a test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hal import load_spec
from tests.fakes import write_spec
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
    """Its `so101` is one whose watchdog waits for a machine that hangs: nobody is there to say that it goes on."""
    made: list[Typist] = []
    patient = write_spec(runtime / "so101.yaml", load_spec("so101"), watchdog_s=5.0)
    instead = {"so101": str(patient), "robot=so101": f"robot={patient}"}

    def make(*arguments: str, display: str = "") -> Typist:
        made.append(Typist([instead.get(word, word) for word in arguments], runtime, display))
        return made[-1]

    yield make
    for one in made:
        one.close()
