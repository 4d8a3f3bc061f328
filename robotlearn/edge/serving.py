"""The policy server's process: one policy, its weights from a learner or a checkpoint, served to the robots here."""

import contextlib
import os
import secrets
import time
from collections.abc import Sequence
from threading import Event, Thread

import numpy as np
import torch
import zmq

from envs.spaces import IMAGES
from robotlearn.cells import cells_of, env_options, observation_shapes
from robotlearn.config.config import Config
from robotlearn.config.edge import PacedEdgeConfig
from robotlearn.device import device
from robotlearn.edge import local
from robotlearn.edge.latencies import Latencies
from robotlearn.edge.planned import NEEDS, Planned, check_plan, check_way
from robotlearn.edge.policy_server import PolicyServer
from robotlearn.edge.server_place import only_server
from robotlearn.edge.weights_source import WeightsSource
from robotlearn.errors import ConfigError, WireError
from robotlearn.inputs import Inputs
from robotlearn.policy import ask, build_policy
from robotlearn.warm_up import warm_up

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
        states: str,
        explore: bool = True,
    ) -> None:
        """`session` is that of the station's spool; `server` and `states` are local endpoints, where it is asked and
        where it tells all stations that listen how it is. `source` is its own from now on. Waits for another process
        that serves there to end.
        """
        torch.set_num_threads(edge.threads)
        cells, own = cells_of(config), cells_of(config, edge)[0]
        self._inputs, self._embodiment = Inputs(config, cells), own.spec.embodiment
        self._shapes = observation_shapes(own, env_options(config))
        where = device(edge.device, f"edge {edge.name}: device")
        self._policy = build_policy(config, self._inputs, where, weights=False)
        self._execution, self._words = edge.execution, own.task.instructions[0]
        self._dim, self._deltas = own.spec.dim, len(own.spec.joints)
        check_way(self._policy, config.policy.kind, edge.name, edge.execution)
        self._life = secrets.randbits(62)
        self._source = source
        self._name = edge.name
        self._only = only_server(server)
        self._server = PolicyServer(server, self._infer, self._check)
        self._context = zmq.Context()
        self._stations = local.local_socket(self._context, zmq.PUB)
        self._stations.bind(states)
        # Random too, so that a restarted policy server does not draw the same noise again.
        self._explore, self._seed = explore and edge.explore, [config.seed, session, secrets.randbits(63)]
        self._rngs: dict[str, np.random.Generator] = {}
        self._version = -1
        self._latencies = Latencies()
        self._told_at = 0.0
        where = self._policy.device.type
        self._compiled = edge.compiles(where, self._policy.compiles)
        self._policy.serve(compiled=self._compiled, images_again=config.observations.image_every > 1)

    def run(self, stop: Event) -> None:
        """Serve until `stop`. Raises what the source does, such as ContractError when the learner refuses this edge;
        ConfigError where torch can't compile.
        """
        if self._compiled:
            self._compile()
        self._server.serve(stop, self._between)

    def close(self) -> None:
        if self._compiled:
            torch.compiler.set_stance("default")
        self._server.close()
        self._source.close()
        self._stations.close()
        self._context.term()
        os.close(self._only)

    def _between(self) -> None:
        version = self._source.renew(self._policy)
        if version is not None:
            self._policy.renewed()
            first = self._version < 0
            self._version, self._told_at = version, 0.0
            if first and self._execution.way in NEEDS:
                self._warm_up()
        now = time.monotonic()
        if now - self._told_at > STATE_PERIOD_S:
            self._told_at = now
            self._tell()

    def _tell(self, busy: str = "") -> None:
        counts, latencies = self._server.counts, self._latencies.by_size()
        state = local.ServerState(
            self._version, self._server.robots, counts["requests"], counts["batches"], latencies, busy
        )
        with contextlib.suppress(zmq.Again):  # it repeats itself
            self._stations.send(local.encode(state), zmq.NOBLOCK)

    def _compile(self) -> None:
        """Before anything is served: a robot must not wait for its chunk while a compiler is at work."""
        done = Event()

        def tell() -> None:  # the station takes a process that is silent for hung
            self._tell("compiling")
            while not done.wait(STATE_PERIOD_S):
                self._tell("compiling")

        telling = Thread(target=tell)
        telling.start()
        try:
            warm_up(self._policy, self._execution)
        except Exception as error:  # of torch's compiler there are many
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"edge {self._name}: torch can't compile the policy here ({type(error).__name__}: {reason}); set this "
                "edge's compile to never"
            ) from error
        finally:
            done.set()
            telling.join()

    def _check(self, request: local.ChunkRequest) -> None:
        for key, shape in self._shapes.items():
            tensor = request.observations.get(key)
            if tensor is None:
                raise WireError(f"robot {request.robot} sent no {key}")
            if tensor.array().shape != shape:
                raise WireError(f"robot {request.robot} sent {key} of shape {tensor.shape}, expected {shape}")
        check_plan(request, self._policy.horizon, self._dim)

    def _infer(self, requests: Sequence[local.ChunkRequest]) -> list[local.ChunkAnswer]:
        if self._version < 0:
            return []
        begun = time.perf_counter()
        seen = {key: np.stack([request.observations[key].array() for request in requests]) for key in self._shapes}
        words = [request.instruction for request in requests]
        noise = torch.cat([self._policy.noise(1, self._rng(request.robot)) for request in requests])
        policy = Planned(self._policy, self._execution, self._inputs, self._embodiment, requests, self._deltas)
        actions, chunk = ask(policy, self._inputs, self._embodiment, seen, words, noise, self._explore)
        answers = [
            local.ChunkAnswer(
                request.request,
                self._version,
                local.Tensor.of(actions[i]),
                *(local.Tensor.of(part[i].numpy()) for part in (chunk.path, chunk.stochastic, chunk.log_prob)),
                server=self._life,
            )
            for i, request in enumerate(requests)
        ]
        self._latencies.add(len(requests), time.perf_counter() - begun)
        return answers

    def _warm_up(self) -> None:
        """Go on from a plan once: the first time takes longest, and no arm is to starve meanwhile."""
        nothing = {
            key: local.Tensor.of(np.zeros(shape, np.uint8 if key.startswith(IMAGES) else np.float32))
            for key, shape in self._shapes.items()
        }
        plan = local.Tensor.of(np.zeros((1, self._dim), np.float32))
        self._infer([local.ChunkRequest("", 0, self._words, nothing, plan=plan, delay=1)])
        self._latencies = Latencies()

    def _rng(self, robot: str) -> np.random.Generator:
        # Each robot has its own noise, whoever else is served.
        if robot not in self._rngs:
            self._rngs[robot] = np.random.default_rng([*self._seed, *robot.encode()])
        return self._rngs[robot]
