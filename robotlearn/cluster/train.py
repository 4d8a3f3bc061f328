"""`robotlearn train --ray`: the same training, its processes placed on the nodes of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from robotlearn.cluster.demand import LEARNER, Node, announced, check, demands, shown
from robotlearn.cluster.host import Part, Report
from robotlearn.cluster.placed import PlacedChild
from robotlearn.cluster.ray_cluster import RayCluster
from robotlearn.cluster.run_keys import make_keys
from robotlearn.config.address import is_loopback
from robotlearn.config.config import Config
from robotlearn.config.learner import LearnerConfig
from robotlearn.config.load import dump
from robotlearn.errors import ClusterError
from robotlearn.processes import stop_on_signals
from robotlearn.train import Training


class RayTraining(Training):
    """Learner and edges each under a Ray actor where their resources are; what dies is started again in its place.

    The learner prefers a GPU, then this node, and writes the run folder on the file system of its node. Trajectories
    and weights go over the learner's address as ever; Ray sees none of them. Between machines they are encrypted, with
    keys made for this run where the config names none.
    """

    def __init__(
        self, ray: str, source: str, config: Config, overrides: Sequence[str], path: Path, *, resume: bool
    ) -> None:
        """`ray`: `local` (start one for this run), `auto` or HOST:PORT; the rest as for `Training`."""
        super().__init__(source, config, overrides, path.absolute(), resume=resume)
        self._ray = ray
        self._learner: PlacedChild | None = None
        self._edges: dict[str, PlacedChild] = {}
        self._logs: dict[str, tuple[str, str]] = {}
        self._key, self._keys = "", dict[str, dict[str, str]]()
        self._checkpoint = ""

    def run(self) -> int:
        """Block until the run ends or a signal comes; returns the exit status.

        Raises ClusterError when the cluster can't be reached or lacks what the run needs, and RunFolderError.
        """
        stop = stop_on_signals()
        local = None
        if self._ray == "local":
            local = announced(demands(self._config, []), os.cpu_count() or 1)
        self._say("starting a local Ray" if local else f"asking the Ray cluster at {self._ray}")
        with RayCluster(self._ray, local) as self._cluster:
            # A resumed learner needs its run folder, which is where this command was given.
            pinned = self._cluster.here if self._resume else None
            nodes = self._cluster.nodes()
            self._wanted = {demand.name: demand for demand in demands(self._config, nodes, learner_node=pinned)}
            wanted = list(self._wanted.values())
            check(wanted, nodes, self._cluster.address, pinned, token=self._cluster.token)
            places = self._cluster.reserve(wanted, f"the run {self._folder.path}", stop, self._say, pinned)
            if places is None:
                return 0
            self._places = places
            found = {node.id: node for node in self._cluster.nodes()}
            self._learner_node = found[places.node(LEARNER)]
            edges = [found[places.node(edge.name)] for edge in self._config.edges]
            self._bind = bind_address(self._config.learner, self._learner_node, edges)
            if self._bind and self._config.learner.key is None and not self._config.learner.insecure_public:
                self._key, self._keys = make_keys([edge.name for edge in self._config.edges])
            there = "" if self._learner_node.id == self._cluster.here else f", with the run folder {self._folder.path}"
            self._say(f"the learner runs on {self._learner_node}{there}")
            return self._supervise(stop)

    # ---- what `Training` supervises

    def _start_learner(self, address: str = "") -> PlacedChild:
        first = self._learner is None
        if not first and self._lost(self._learner_node.id):
            raise ClusterError(
                f"the learner's node {self._learner_node} is lost, and with it the run folder {self._folder.path}; "
                "when it is back, --resume there goes on"
            )
        bind = address or self._bind
        arguments = [*(["--resume"] if self._resume else []), *(["--bind", bind] if bind else [])]
        arguments += ["--key", self._key] if self._key else []
        if self._resume:
            source = str(Path(self._source).absolute()) if Path(self._source).exists() else self._source
            # Started again it goes on with what it wrote at its start, perhaps on another machine.
            arguments[:0] = [source, *self._overrides] if first else [str(self._folder.config)]
        self._learner = self._place(LEARNER, self._part(arguments, "" if self._resume else dump(self._config)))
        return self._learner

    def _start_edge(self, name: str, address: str) -> PlacedChild:
        arguments = ["--learner", reachable(address, self._learner_node.address), "--name", name]
        overrides = [f"learner.key={self._key}"] if self._key else []
        self._edges[name] = self._place(name, self._part([*overrides, *arguments], dump(self._config), name))
        return self._edges[name]

    def _address(self) -> str:
        return self._learner_report().address

    def _newest(self) -> Path | None:
        self._checkpoint = self._learner_report().checkpoint or self._checkpoint
        return Path(self._checkpoint) if self._checkpoint else None

    def _log(self, name: str) -> Path:
        """On the node where the edge is; what that is was said when it began."""
        return Path(self._logs.get(name, ("", ""))[1])

    def _last_words(self, name: str) -> str:
        said = [text.removeprefix("robotlearn: ") for text in self._edges[name].said if text.startswith("robotlearn: ")]
        return "; ".join(said) or "no reason given"

    # ---- places

    def _part(self, arguments: Sequence[str], config: str, edge: str = "") -> Part:
        folder, node = str(self._folder.path), self._learner_node.id
        keys = self._keys.get(edge, {})
        if not edge:
            return Part("learner", tuple(arguments), config, folder, node, keys=keys)
        return Part("edge", tuple(arguments), config, folder, node, edge, self._learner_report().run, keys)

    def _place(self, name: str, part: Part) -> PlacedChild:
        title = "the learner" if name == LEARNER else f"edge {name}"

        def waits_for() -> str:
            node = self._places.node(name)
            if not node or self._lost(node):
                return f"a node with {shown(self._wanted[name].resources)}; its own is lost"
            return f"Ray to start its worker process on {self._node(node)}"

        def began(report: Report) -> None:
            if part.edge and self._logs.get(name) != (report.node, report.log):
                self._logs[name] = report.node, report.log
                self._say(f"{title} runs on {self._node(report.node)} and logs to {report.log}")

        return PlacedChild(title, part, self._places.options(name), waits_for, began, self._say)

    def _learner_report(self) -> Report:
        last = self._learner.last if self._learner is not None else None
        return last if last is not None else Report(None, "", "", 0)

    def _lost(self, id: str) -> bool:
        return all(node.id != id for node in self._cluster.nodes())

    def _node(self, id: str) -> str:
        return next((str(node) for node in self._cluster.nodes() if node.id == id), f"node {id[:8]}")


def bind_address(settings: LearnerConfig, learner: Node, edges: Sequence[Node]) -> str:
    """Where the learner has to listen so that its edges reach it; "": where the config says."""
    if not is_loopback(settings.bind) or all(edge.address == learner.address for edge in edges):
        return ""
    host = f"[{learner.address}]" if ":" in learner.address else learner.address
    return f"tcp://{host}:{settings.bind.rpartition(':')[2]}"


def reachable(address: str, host: str) -> str:
    """The learner's address as edges dial it: with the address of its machine where it listens everywhere."""
    listens, _, port = address.removeprefix("tcp://").rpartition(":")
    if listens not in ("*", "0.0.0.0", "[::]"):
        return address
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
