"""A small config, spec and learner's end of the wire, shared by the tests of edges."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hal import RobotSpec
from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import Cell, cells_of
from robotlearn.config import Config, load_config
from robotlearn.contract import contract
from robotlearn.inputs import Inputs
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.server import LearnerServer

Until = Callable[..., None]


@pytest.fixture(scope="session")
def config() -> Config:
    return load_config("smoke", ["policy.hidden=[8]", "edges.1.arms=4", "learner.episodes_per_update=4"])


@pytest.fixture(scope="session")
def cell(config: Config) -> Cell:
    return cells_of(config)[0]


@pytest.fixture(scope="session")
def spec(cell: Cell) -> RobotSpec:
    return cell.spec


@pytest.fixture(scope="session")
def inputs(config: Config) -> Inputs:
    return Inputs(config)


class LearnersEnd:
    """A learner's server, gate and publisher without a learner."""

    def __init__(self, path: Path, agreed: dict[str, Any], bind: str = "tcp://127.0.0.1:*", bound: int = 64) -> None:
        self.store = SegmentStore(path)
        self.gate = StalenessGate(4, float("inf"), max_pending=bound)
        self.publisher = Publisher()
        self.server = LearnerServer(bind, self.store, self.gate, self.publisher, contract=agreed, run="run")
        self.address = self.server.address
        self.server.start()

    def close(self) -> None:
        self.server.close()
        self.store.close()


@pytest.fixture
def learners_end(tmp_path: Path, config: Config) -> Iterator[LearnersEnd]:
    end = LearnersEnd(tmp_path / "learner", contract(config))
    yield end
    end.close()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test has its own machine; a short path, since it holds Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="rl-"))
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(folder))
    yield folder
    shutil.rmtree(folder)
