"""A real Ray of several nodes on this machine, in a process of its own, and a place to run programs on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import HUNG_S, MARK, Site, wait_for

# Reads one line per command: the resources of a node to add, or "lose" to kill the newest one.
NODES = """
import json, sys
from ray.cluster_utils import Cluster
cluster, nodes = Cluster(), []
for line in sys.stdin:
    command = json.loads(line)
    if command == "lose":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    else:
        nodes.append(cluster.add_node(**command, object_store_memory=100 << 20, include_dashboard=False))
    print(cluster.address, flush=True)
cluster.shutdown()
"""


class ClusterSite(Site):
    """A site with a Ray cluster; the nodes' processes, and what they start, carry its mark as well."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment = {
            MARK: self.mark,
            "TMPDIR": str(self.temporary),
            "RAY_TMPDIR": str(self.temporary),
            "XDG_STATE_HOME": str(folder / "state"),
            "HOME": str(folder),  # for Ray's token
            "MUJOCO_GL": "disable",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.mark,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._log = folder / "nodes.log"
        self._nodes: subprocess.Popen[str] | None = None
        self.ray = ""

    def node(self, **options: Any) -> None:
        """Add a node: `num_cpus`, `resources`."""
        self._command(options)

    def lose_node(self) -> None:
        """Kill the node that was added last, and all that runs on it but for robotlearn's own processes."""
        self._command("lose")

    def _command(self, command: object) -> None:
        if self._nodes is None:
            with self._log.open("wb") as stream:
                self._nodes = subprocess.Popen(
                    [sys.executable, "-c", NODES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream,
                    text=True, env=os.environ | self.environment,
                )  # fmt: skip
        assert self._nodes.stdin is not None and self._nodes.stdout is not None
        self._nodes.stdin.write(json.dumps(command) + "\n")
        self._nodes.stdin.flush()
        self.ray = self._nodes.stdout.readline().strip()
        assert self.ray, self._log.read_text()[-3000:]

    def actor(self, *words: str) -> tuple[int, int]:
        """The process of a Ray actor, and the child with these words in its command line that it started."""
        (child,) = self.processes("-m", *words)
        return int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1]), child

    def state(self, name: str) -> Path:
        """An edge that isn't on the learner's node."""
        run = json.loads((self.run / "run.json").read_text())["run"]
        return self.folder / "state" / "robotlearn" / "runs" / run / name

    def gone(self) -> None:
        """Wait until no process of robotlearn is left; the cluster's may be."""
        wait_for(lambda: not self.processes("-m", "robotlearn"), "the end of all processes")

    def close(self) -> None:
        if self._nodes is not None:
            assert self._nodes.stdin is not None and self._nodes.stdout is not None
            self._nodes.stdin.close()
            self._nodes.wait(HUNG_S)
            self._nodes.stdout.close()
        super().close()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterSite]:
    pytest.importorskip("ray")
    if sys.platform != "linux":
        pytest.skip("processes are found by their environment in /proc")
    place = ClusterSite(tmp_path)
    for key, value in place.environment.items():
        if key != MARK:
            monkeypatch.setenv(key, value)
    try:
        yield place
    finally:
        place.close()
