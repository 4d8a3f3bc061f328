"""What the processes of a run need of a cluster's nodes, and what is missing there. Knows no Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robotlearn.cells import cells_of
from robotlearn.config.config import Config
from robotlearn.config.edge import BatchEdgeConfig, EdgeConfig, PacedEdgeConfig
from robotlearn.errors import ClusterError

LEARNER = "learner"
GPU_SHARE = 0.1
"""Of a GPU, for the policy of an edge: it runs a batch now and then."""
_SEARCH_LIMIT = 20_000

Resources = Mapping[str, float]
"""Amounts by Ray's names: `CPU`, `GPU`, `robot:MODEL`."""


@dataclass(frozen=True)
class Demand:
    """What one process (a paced edge: with its children) needs, all on one node. `name`: LEARNER, or the edge's."""

    name: str
    resources: Resources


@dataclass(frozen=True)
class Node:
    """A node of the cluster; `free` is what no actor or placement group holds."""

    id: str
    name: str
    address: str
    total: Resources
    free: Resources

    def __str__(self) -> str:
        return self.name if self.name == self.address else f"{self.name} ({self.address})"


def edge_arms(config: Config, edge: EdgeConfig) -> dict[str, int]:
    """How many arms of each model an edge has, as resources `robot:MODEL`. Raises SpecError, TaskError, ConfigError."""
    cells = cells_of(config, edge)
    share, more = divmod(edge.arms if isinstance(edge, BatchEdgeConfig) else 1, len(cells))
    arms: dict[str, int] = {}
    for index, cell in enumerate(cells):
        name = f"robot:{cell.spec.name}"
        arms[name] = arms.get(name, 0) + share + (index < more)
    return arms


def demands(config: Config, nodes: Sequence[Node], *, learner_node: str | None = None) -> list[Demand]:
    """Learner first, then the edges in the config's order.

    On the CPU nobody asks for a GPU. With device auto, the learner does where the cluster (with `learner_node`, the id
    of the only node that it may run on: that one) has one; an edge asks for a share of one where every node with its
    robot has a GPU, and enough is left. With cuda they do whatever there is.
    """
    homes = [node for node in nodes if learner_node in (None, node.id)]
    learner = {"CPU": float(config.learner.threads)}
    if _wants(config.learner.device, any(node.total.get("GPU", 0) >= 1 for node in homes)):
        learner["GPU"] = 1.0
    plain, shared = [Demand(LEARNER, learner)], [Demand(LEARNER, learner)]
    for edge in config.edges:
        arms = edge_arms(config, edge)
        paced = isinstance(edge, PacedEdgeConfig)
        # The station's arm process and its policy server.
        wanted = {"CPU": float(edge.threads + paced), **{name: float(count) for name, count in arms.items()}}
        stations = [node for node in nodes if all(node.total.get(name, 0) >= 1 for name in arms)]
        share = wanted | {"GPU": GPU_SHARE}
        there = bool(stations) and all(node.total.get("GPU", 0) > 0 for node in stations)
        plain.append(Demand(edge.name, share if _wants(edge.device, there=False) else wanted))
        shared.append(Demand(edge.name, share if _wants(edge.device, there) else wanted))
    return shared if fit(shared, nodes, learner_node) else plain


def _wants(device: str, there: bool) -> bool:
    """Whether a process on that device needs a GPU; `there`: whether auto may count on one."""
    return device.startswith("cuda") or (device == "auto" and there)


def announced(wanted: Sequence[Demand], cpus: int) -> dict[str, float]:
    """What a local Ray announces: all robots of the run; CPUs as many as there are or, as `train` does, more."""
    total = _sum(wanted)
    robots = {name: amount for name, amount in total.items() if name.startswith("robot:")}
    return {"CPU": max(cpus, total["CPU"]), **robots}


def check(
    wanted: Sequence[Demand],
    nodes: Sequence[Node],
    address: str,
    learner_node: str | None = None,
    *,
    token: bool = False,
) -> None:
    """Raises ClusterError, one line with what the run needs, what there is, what is missing and how to add it.

    `token`: the cluster wants its token from a node that joins.
    """
    join = f"{'RAY_AUTH_MODE=token ' * token}ray start --address={address}"
    for node in nodes:
        if node.id == learner_node and not _fits(wanted[0].resources, node.total):
            raise ClusterError(
                f"the learner needs {shown(wanted[0].resources)} beside its run folder, on {node}, which has "
                f"{shown(node.total, wanted[0].resources)}"
            )
    total, there = _sum(wanted), _sum_of([node.total for node in nodes])
    missing = {name: amount - there.get(name, 0) for name, amount in total.items() if amount > there.get(name, 0)}
    has = "; ".join(f"{node} has {shown(node.total, total)}" for node in nodes)
    needs = f"the run needs {shown(total)}; of that, the cluster at {address} has {shown(there, total)} ({has})"
    if missing:
        raise ClusterError(f"{needs}: missing {shown(missing)}; start a node with: {join}{_announce(missing)}")
    for demand in wanted:
        if not any(_fits(demand.resources, node.total) for node in nodes):
            raise ClusterError(
                f"{needs}: no node alone has the {shown(demand.resources)} of {_role(demand.name)}; start a node with: "
                f"{join}{_announce(demand.resources)}"
            )
    if not fit(wanted, nodes, learner_node):
        apart = ", ".join(f"{_role(demand.name)} {shown(demand.resources)}" for demand in wanted)
        largest = max(wanted, key=lambda demand: sum(demand.resources.values())).resources
        raise ClusterError(
            f"{needs}, but its processes don't fit side by side: {apart}; start a node such as: "
            f"{join}{_announce(largest)}"
        )


def fit(wanted: Sequence[Demand], nodes: Sequence[Node], learner_node: str | None = None) -> bool:
    """Whether all fit on the nodes at once, the learner on `learner_node` if given. True too when that is too hard."""
    largest_first = sorted(wanted, key=lambda demand: -sum(demand.resources.values()))
    left = {node.id: dict(node.total) for node in nodes}
    total, tries = _sum(wanted), 0

    def place(index: int) -> bool:
        nonlocal tries
        if index == len(largest_first):
            return True
        demand = largest_first[index]
        seen: list[dict[str, float]] = []  # what nodes looked like that were tried: another such would not do either
        for id, node in left.items():
            if not _fits(demand.resources, node) or (demand.name == LEARNER and learner_node not in (None, id)):
                continue
            relevant = {name: node.get(name, 0.0) for name in total} | {"": float(id == learner_node)}
            if relevant in seen:
                continue
            seen.append(relevant)
            tries += 1
            if tries > _SEARCH_LIMIT:
                return True
            for name, amount in demand.resources.items():
                node[name] -= amount
            if place(index + 1):
                return True
            for name, amount in demand.resources.items():
                node[name] += amount
        return False

    return place(0)


def waiting_for(wanted: Sequence[Demand], nodes: Sequence[Node], holders: Mapping[str, Resources]) -> str:
    """What keeps demands that the cluster could meet from being met now; `holders`: what other groups hold, by name."""
    total, free = _sum(wanted), _sum_of([node.free for node in nodes])
    short = [name for name, amount in total.items() if amount > free.get(name, 0)]
    if not short:
        short = [
            name
            for demand in wanted
            if not any(_fits(demand.resources, node.free) for node in nodes)
            for name in demand.resources
        ]
    names = dict.fromkeys(short) or dict.fromkeys(total)
    where = "; ".join(f"{node} has {shown(node.free, names)} free of {shown(node.total, names)}" for node in nodes)
    held = [f"{name} holds {shown(held, names)}" for name, held in holders.items() if any(n in held for n in names)]
    return f"{shown({name: total[name] for name in names})} ({'; '.join([where, *held])})"


def shown(resources: Resources, only: Mapping[str, object] | None = None) -> str:
    """`128 x robot:panda and 8 CPUs`; with `only`, of those names, also where there is none."""
    names = sorted(only if only is not None else resources, key=lambda name: (not name.startswith("robot:"), name))
    parts = []
    for name in names:
        amount = resources.get(name, 0.0)
        unit = f" {name}{'' if amount == 1 else 's'}" if name in ("CPU", "GPU") else f" x {name}"
        parts.append(f"{amount:g}{unit}")
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts) or "nothing"


def _role(name: str) -> str:
    return "the learner" if name == LEARNER else f"edge {name}"


def _fits(wanted: Resources, there: Resources) -> bool:
    return all(amount <= there.get(name, 0) + 1e-6 for name, amount in wanted.items())


def _sum(wanted: Sequence[Demand]) -> dict[str, float]:
    return _sum_of([demand.resources for demand in wanted])


def _sum_of(parts: Sequence[Resources]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = round(total.get(name, 0.0) + amount, 4)
    return total


def _announce(resources: Resources) -> str:
    """The option of `ray start` for a node with these; CPUs and GPUs it finds by itself."""
    robots = {name: round(amount) for name, amount in resources.items() if name.startswith("robot:")}
    return f" --resources='{json.dumps(robots)}'" if robots else ""
