"""A learner on a thread, and an edge that serves it to its end."""

from __future__ import annotations

import io
import threading

from rich.console import Console

from robotlearn.config import Config, load_config
from robotlearn.display import Display
from robotlearn.edge.batch import BatchEdge
from robotlearn.learner.learner import Learner
from robotlearn.run_folder import RunFolder
from tests.waiting import until

TINY = [
    "policy.hidden=[8]", "sft.steps=10", "demonstrations.episodes=1", "episode_steps=40", "edges.1.arms=4",
    "learner.episodes_per_update=4", "learner.updates=3", "learner.eval_episodes=2", "learner.checkpoint_every=2",
    "learner.keep_checkpoints=2", "edges.1.segment_steps=8",
]  # fmt: skip


def tiny(*overrides: str) -> Config:
    return load_config("smoke", [*TINY, *overrides])


class Running:
    """A learner on a thread."""

    def __init__(self, config: Config, folder: RunFolder, resume: bool = False) -> None:
        self.learner = Learner(config, folder, resume=resume)
        self.console = Console(file=io.StringIO(), width=200)
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        try:
            with Display(self.learner.view, self.console) as display:
                self.learner.run(self.stop, display)
        except BaseException as error:
            self.failure = error

    def end(self) -> str:
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()
        if self.failure is not None:
            raise self.failure
        return self.console.file.getvalue()  # type: ignore[attr-defined]


def served(running: Running, config: Config, folder: RunFolder) -> BatchEdge:
    """An edge that has served the run to its end."""
    until(folder.address.exists, "the address")
    edge = BatchEdge(config, config.edges[1], folder.address.read_text(), folder.path.parent / "edge")
    stop = threading.Event()
    thread = threading.Thread(target=edge.run, args=(stop,))
    thread.start()
    running.thread.join(60)
    stop.set()
    thread.join(20)
    edge.close()
    running.stop.clear()
    return edge
