"""The policy server's process: one policy, its weights from a learner or a checkpoint, served to the robots here."""

import contextlib
import secrets
import time
from collections.abc import Sequence
from threading import Event

import numpy as np
import torch
import zmq

from robotlearn.cells import cells_of, env_options, observation_shapes
from robotlearn.config.config import Config
from robotlearn.config.edge import PacedEdgeConfig
from robotlearn.edge import local
from robotlearn.edge.policy_server import PolicyServer
from robotlearn.edge.weights_source import WeightsSource
from robotlearn.errors import WireError
from robotlearn.inputs import Inputs
from robotlearn.policy import ask, build_policy

STATE_PERIOD_S = 0.2


class Serving:
    """A policy server whose weights follow their source, swapped between two batches; tells its station how it is."""

    def __init__(
        self,
        config: Config,
        edge: PacedEdgeConfig,
        source: WeightsSource,
        *,
        session: int,
        server: str,
        station: str,
        explore: bool = True,
    ) -> None:
        """`session` is that of the station's spool; `server` and `station` are local endpoints. `source` is its own
        from now on.
        """
        torch.set_num_threads(edge.threads)
        cells, own = cells_of(config), cells_of(config, edge)[0]
        self._inputs, self._embodiment = Inputs(config, cells), own.spec.embodiment
        self._shapes = observation_shapes(own, env_options(config))
        self._policy = build_policy(config, self._inputs)
        self._source = source
        self._server = PolicyServer(server, self._infer, self._check)
        self._context = zmq.Context()
        self._station = local.local_socket(self._context, zmq.DEALER)
        self._station.connect(station)
        # Random too, so that a restarted policy server does not draw the same noise again.
        self._explore, self._seed = explore and edge.explore, [config.seed, session, secrets.randbits(63)]
        self._rngs: dict[str, np.random.Generator] = {}
        self._version = -1
        self._latency_s: float | None = None
        self._told_at = 0.0

    def run(self, stop: Event) -> None:
        """Serve until `stop`. Raises what the source does, such as ContractError when the learner refuses this edge."""
        self._server.serve(stop, self._between)

    def close(self) -> None:
        self._server.close()
        self._source.close()
        self._station.close()
        self._context.term()

    def _between(self) -> None:
        version = self._source.renew(self._policy)
        if version is not None:
            self._version, self._told_at = version, 0.0
        now = time.monotonic()
        if now - self._told_at > STATE_PERIOD_S:
            self._told_at = now
            counts = self._server.counts
            latency_ms = 1000 * (self._latency_s or 0.0)
            state = local.ServerState(
                self._version, self._server.robots, counts["requests"], counts["batches"], latency_ms
            )
            with contextlib.suppress(zmq.Again):  # it repeats itself
                self._station.send(local.encode(state), zmq.NOBLOCK)

    def _check(self, request: local.ChunkRequest) -> None:
        for key, shape in self._shapes.items():
            tensor = request.observations.get(key)
            if tensor is None:
                raise WireError(f"robot {request.robot} sent no {key}")
            if tensor.array().shape != shape:
                raise WireError(f"robot {request.robot} sent {key} of shape {tensor.shape}, expected {shape}")

    def _infer(self, requests: Sequence[local.ChunkRequest]) -> list[local.ChunkAnswer]:
        if self._version < 0:
            return []
        begun = time.perf_counter()
        seen = {key: np.stack([request.observations[key].array() for request in requests]) for key in self._shapes}
        words = [request.instruction for request in requests]
        noise = torch.cat([self._policy.noise(1, self._rng(request.robot)) for request in requests])
        actions, chunk = ask(self._policy, self._inputs, self._embodiment, seen, words, noise, self._explore)
        answers = [
            local.ChunkAnswer(
                request.request,
                self._version,
                local.Tensor.of(actions[i]),
                *(local.Tensor.of(part[i].numpy()) for part in (chunk.path, chunk.stochastic, chunk.log_prob)),
            )
            for i, request in enumerate(requests)
        ]
        took = time.perf_counter() - begun
        self._latency_s = took if self._latency_s is None else self._latency_s + 0.1 * (took - self._latency_s)
        return answers

    def _rng(self, robot: str) -> np.random.Generator:
        # Each robot has its own noise, whoever else is served.
        if robot not in self._rngs:
            self._rngs[robot] = np.random.default_rng([*self._seed, *robot.encode()])
        return self._rngs[robot]
