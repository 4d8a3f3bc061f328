"""The driver's side of a Ray cluster: starts or reaches one, sees its nodes, reserves places on them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from threading import Event
from types import TracebackType
from typing import Any, Self

# Before Ray is imported, which reads it once: a run reports to nobody.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray._private.worker
from ray._private.state import available_resources_per_node  # the only place where Ray tells this
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from robotlearn.cluster.demand import Demand, Node, fit, waiting_for
from robotlearn.errors import ClusterError

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 100 * 2**20  # Ray's smallest is 75 MiB: no data of ours go through it
REACH_S = 5.0
SAY_EVERY_S = 5.0
_NODE_ID = "ray.io/node-id"


class Places:
    """A reserved place for each process. It belongs to this driver: Ray frees it when the driver ends, however."""

    def __init__(self, group: Any, wanted: Sequence[Demand]) -> None:
        self._group, self._wanted = group, {demand.name: (index, demand) for index, demand in enumerate(wanted)}

    def node(self, name: str) -> str:
        """The id of the node where that process has its place; "" while its node is lost and no other was found."""
        return str(placement_group_table(self._group)["bundles_to_node_id"][self._wanted[name][0]])

    def options(self, name: str) -> dict[str, Any]:
        """The options of an actor in that place."""
        index, demand = self._wanted[name]
        resources = dict(demand.resources)
        return {
            "num_cpus": resources.pop("CPU"),
            "num_gpus": resources.pop("GPU", 0),
            "resources": resources,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index),
        }


class RayCluster:
    """This process as the driver of a Ray cluster, from its construction to `close`."""

    def __init__(self, address: str, local: Mapping[str, float] | None = None) -> None:
        """Reach the cluster at `address` (HOST:PORT or auto) or, with `local`, start one with those resources here.

        Blocks for seconds. Signal handlers stay as they were. Raises ClusterError.
        """
        if local is None:
            _probe(address)
            options: dict[str, Any] = {"address": address}
        else:
            rest = dict(local)
            options = {"address": "local", "num_cpus": rest.pop("CPU"), "resources": rest}
            options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        logging.getLogger("ray").setLevel(logging.ERROR)
        ray._private.worker.print_to_stdstream = _log_events
        before = signal.getsignal(signal.SIGTERM)
        try:
            with _native_log_dropped() if local is None else contextlib.nullcontext():
                ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError, SystemExit) as error:
            if local is not None:
                raise ClusterError(f"a local Ray can't be started: {_brief(error)}") from None
            token = "is ~/.ray/auth_token the cluster's?" if _token() else "does it want a token (RAY_AUTH_MODE=token)?"
            raise ClusterError(f"no Ray cluster can be used at {address}: {_brief(error)}; {token}") from None
        finally:
            signal.signal(signal.SIGTERM, before)
        context = ray.get_runtime_context()
        self.address = str(context.gcs_address)
        self.token = _token()
        """Whether who joins has to bring the cluster's token."""
        self.here = str(context.get_node_id())
        """The id of the node that this process is on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ray.shutdown()

    def nodes(self) -> list[Node]:
        """The live nodes."""
        free = available_resources_per_node()
        return [
            Node(
                node["NodeID"],
                node["NodeManagerHostname"],
                node["NodeManagerAddress"],
                node["Resources"],
                free.get(node["NodeID"], {}),
            )
            for node in ray.nodes()
            if node["Alive"]
        ]

    def reserve(
        self, wanted: Sequence[Demand], name: str, stop: Event, say: Callable[[str], None], learner_node: str | None
    ) -> Places | None:
        """A place for every process, all at once; waits, saying for what, while others have them. None: stopped.

        The learner (the first demand) goes to `learner_node` or, without, to this node if all fits so right now.
        """
        if learner_node is None:
            now = [replace(node, total=node.free) for node in self.nodes()]
            learner_node = self.here if fit(wanted, now, self.here) else None
        selectors: list[dict[str, str]] = [{} for _ in wanted]
        if learner_node is not None:
            selectors[0][_NODE_ID] = learner_node
        bundles = [dict(demand.resources) for demand in wanted]
        group = placement_group(bundles, strategy="PACK", name=name, bundle_label_selector=selectors)
        deadline, said = time.monotonic() + SAY_EVERY_S, ""
        while not group.wait(0.2):
            if stop.is_set():
                remove_placement_group(group)
                return None
            if time.monotonic() > deadline:
                deadline = time.monotonic() + SAY_EVERY_S
                text = waiting_for(wanted, self.nodes(), self._holders())
                if text != said:
                    said = text
                    say(f"waiting for {text}")
        return Places(group, wanted)

    @staticmethod
    def _holders() -> dict[str, dict[str, float]]:
        """What the placement groups that stand hold, by their names."""
        held: dict[str, dict[str, float]] = {}
        for group in placement_group_table().values():
            if group["state"] == "CREATED":
                mine = held.setdefault(group["name"] or "a group without a name", {})
                for bundle in group["bundles"].values():
                    for resource, amount in bundle.items():
                        mine[resource] = mine.get(resource, 0.0) + amount
        return held


def _token() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"  # Ray sets it too, where it finds a token


def _probe(address: str) -> None:
    """Ray would try for minutes where nobody listens."""
    if address == "auto":
        return
    found = re.fullmatch(r"(?P<host>\[[^\]]+\]|[^:/\[\]]+):(?P<port>[0-9]{1,5})", address)
    if found is None or not 1 <= int(found["port"]) <= 65535:
        raise ClusterError(f"--ray {address}: expected local, auto, or the HOST:PORT that `ray start --head` printed")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(socket.create_connection((found["host"].strip("[]"), int(found["port"])), REACH_S))
        except OSError as error:
            raise ClusterError(
                f"--ray {address}: nobody listens there ({error}); is it what `ray start --head` printed on its "
                "machine, and does no firewall stand between?"
            ) from None


def _log_events(event: Mapping[str, Any], *args: Any, **more: Any) -> None:
    """Ray prints a page for each process and node that dies; of those that are ours `PlacedChild` says so in a line."""
    for text in event["lines"]:
        log.info("Ray: %s", text)


@contextlib.contextmanager
def _native_log_dropped() -> Iterator[None]:
    """Ray's C++ writes a line for every second in which a cluster doesn't take the token; the error says it once."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _brief(error: BaseException) -> str:
    """The first two sentences of Ray's messages, which may be pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:4]) if not isinstance(error, SystemExit) else "it does not answer as Ray does"
    return " ".join(re.split(r"(?<=[.!?]) ", text)[:2]).rstrip(".")
