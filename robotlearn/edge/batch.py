"""A batch edge: many simulated arms as fast as they go, in one process with the policy; the uplink beside them."""

import logging
import time
from pathlib import Path
from threading import Event

import torch

from robotlearn.cells import cells_of, env_options
from robotlearn.config.config import Config
from robotlearn.config.edge import BatchEdgeConfig
from robotlearn.contract import contract
from robotlearn.device import device
from robotlearn.edge.gatekeeper import Gatekeeper
from robotlearn.edge.outgoing import outgoing
from robotlearn.edge.rollout import BatchRollout
from robotlearn.edge.scripted_person import Effort, ScriptedPerson
from robotlearn.inputs import Inputs
from robotlearn.policy import build_policy, load_arrays
from robotlearn.wire.weights import Weights, WeightsClient

log = logging.getLogger(__name__)

FLUSH_S = 3.0


class BatchEdge:
    """Runs episodes while the gate is open and rests else. New weights are taken between two chunks of all arms."""

    def __init__(self, config: Config, edge: BatchEdgeConfig, address: str, state: Path) -> None:
        """Open the spool in `state` and start to dial. Raises LogError when another process has that spool, and what
        `cells_of` raises.
        """
        torch.set_num_threads(edge.threads)
        inputs = Inputs(config)
        where = device(edge.device, f"edge {edge.name}: device")
        self._policy = build_policy(config, inputs, where, weights=False)
        agreed = contract(config)
        self._spool, self._uplink = outgoing(edge, edge.arms, address, state, agreed, config.learner.key)
        self._client = WeightsClient(
            address,
            edge=edge.name,
            session=self._spool.session,
            contract=agreed,
            keys=self._uplink.keys,
            limit_mbit=edge.weights_mbit,
        )
        self._group = group = config.group
        self._gate = Gatekeeper(self._uplink, self._spool, edge.offline_episodes // group * group)
        cells = cells_of(config, edge)
        share, more = divmod(edge.arms // group, len(cells))
        # A restarted edge must not live through the same episodes again.
        seed = config.seed * 1_000_003 + self._spool.session
        arms = [group * (share + (index < more)) for index in range(len(cells))]
        people: list[ScriptedPerson | None] = [None] * len(cells)
        if (watching := edge.person) is not None:
            effort = Effort.of(watching)
            people = [
                ScriptedPerson(cell.spec, cell.task, n, watching, effort) for cell, n in zip(cells, arms, strict=True)
            ]
        self._rollouts = [
            BatchRollout(
                self._policy,
                inputs,
                cell,
                edge=edge.name,
                arms=arms[index],
                threads=edge.threads,
                segment_steps=edge.segment_steps,
                seed=(seed + index) % 2**63,
                emit=self._gate.record,
                explore=edge.explore,
                options=env_options(config),
                encodings=edge.encodings(),
                person=people[index],
                group=group,
            )
            for index, cell in enumerate(cells)
        ]
        self._arms, self._started = edge.arms, [0] * len(cells)
        self._applied: Weights | None = None
        self._steps_before, self._rate_at, self._rate = 0, time.monotonic(), 0.0
        self._traffic = self._gate.traffic.rates(edge.arms)
        self._uplink.start()
        self._client.start()

    def run(self, stop: Event) -> None:
        """Collect until `stop`. Raises ContractError when the learner refuses this edge."""
        faults = 0
        while not stop.is_set():
            self._uplink.check()
            self._client.check()
            weights = self._take_weights()
            idle = [len(rollout.idle) // self._group * self._group for rollout in self._rollouts]
            self._start(idle, self._gate.may_start(sum(idle), weights.version if weights is not None else -1))
            running = [rollout for rollout in self._rollouts if rollout.running]
            if running and weights is not None:
                for rollout in running:
                    rollout.advance(weights.version)
                now = self._count("faults")
                if now > faults:
                    self._uplink.episode_aborted(now - faults)
                    faults = now
            elif self._gate.needs > self.version:
                self._client.wait(self._gate.needs, 0.1)
            else:
                stop.wait(0.005)
            self._report()

    def close(self) -> None:
        """Give what is recorded a moment to be answered, then stop; what is not answered stays in the spool."""
        self._gate.flush(FLUSH_S)
        self._uplink.close()
        self._client.close()
        for rollout in self._rollouts:
            rollout.close()
        self._spool.close()

    @property
    def version(self) -> int:
        """The version in use, -1 before the first."""
        return self._applied.version if self._applied is not None else -1

    def _start(self, idle: list[int], count: int) -> None:
        """Begin `count` episodes where arms are idle, each group in the cell that began fewest: all get their share."""
        granted = [0] * len(idle)
        for _ in range(0, count, self._group):
            free = [cell for cell, arms in enumerate(idle) if arms > granted[cell]]
            cell = min(free, key=lambda cell: self._started[cell])
            granted[cell] += self._group
            self._started[cell] += self._group
        for rollout, episodes in zip(self._rollouts, granted, strict=True):
            if episodes:
                rollout.start(episodes)

    def _count(self, name: str) -> int:
        return sum(getattr(rollout.counts, name) for rollout in self._rollouts)

    def _take_weights(self) -> Weights | None:
        newest = self._client.newest()
        if newest is not None and newest is not self._applied:
            load_arrays(self._policy, newest.tensors, self._applied.tensors if self._applied is not None else None)
            self._applied = newest
        return self._applied

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._rate_at >= 0.5:
            steps = self._count("steps")
            self._rate = (steps - self._steps_before) / (now - self._rate_at)
            self._steps_before, self._rate_at = steps, now
            self._traffic = self._gate.traffic.rates(self._arms)
        running = sum(rollout.running for rollout in self._rollouts)
        self._uplink.report(
            version=self.version,
            state=self._gate.state + (f"{running} of {self._arms} arms working" if running else "resting"),
            waits_for="" if running else self._gate.waits_for(self.version),
            rates={
                "steps": self._rate,
                "episodes": float(self._count("episodes")),
                **self._traffic,
            },
            counts={
                "steps_held": self._count("held"),
                "steps_clipped": self._count("clipped"),
                "simulation_faults": self._count("faults"),
                "episodes_intervened": self._count("episodes_intervened"),
                "steps_intervened": self._count("steps_intervened"),
            },
        )
