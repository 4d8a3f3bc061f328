"""What every test of a learner has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robotlearn.config import Config
from robotlearn.learner.learner import Learner
from robotlearn.run_folder import RunFolder
from tests.learner.running import Running


@pytest.fixture(autouse=True)
def no_film(monkeypatch: pytest.MonkeyPatch) -> None:
    def film(self: Learner) -> None:
        # While the first film is made edges have no weights yet: what they did would take time that isn't counted.
        assert (self._publisher.version < 0) == (self._updates == 0 < self.config.learner.updates)

    monkeypatch.setattr(Learner, "_film", film)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def start(config: Config, folder: RunFolder, resume: bool = False) -> Running:
        made.append(Running(config, folder, resume))
        return made[-1]

    yield start
    for running in made:
        running.stop.set()
        running.thread.join(60)
