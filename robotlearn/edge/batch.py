"""A batch edge: many simulated arms as fast as they go, in one process with the policy; the uplink beside them."""

import logging
import time
from pathlib import Path
from threading import Event

import torch

from hal.spec import RobotSpec
from robotlearn.buffer.spool import Spool
from robotlearn.config.config import Config
from robotlearn.config.edge import BatchEdgeConfig
from robotlearn.contract import contract
from robotlearn.edge.gatekeeper import Gatekeeper
from robotlearn.edge.rollout import BatchRollout
from robotlearn.environment import env_options
from robotlearn.policy import build_policy, load_arrays
from robotlearn.wire.uplink import Uplink
from robotlearn.wire.weights import Weights, WeightsClient

log = logging.getLogger(__name__)

FLUSH_S = 3.0


class BatchEdge:
    """Runs episodes while the gate is open and rests else. New weights are taken between two chunks of all arms."""

    def __init__(self, config: Config, edge: BatchEdgeConfig, spec: RobotSpec, address: str, state: Path) -> None:
        """Open the spool in `state` and start to dial. Raises LogError when another process has that spool."""
        torch.set_num_threads(edge.threads)
        self._policy = build_policy(config, spec)
        self._spool = Spool(state / "spool", edge=edge.name, sync=edge.spool.sync, max_bytes=edge.spool.max_bytes)
        agreed = contract(config, spec)
        self._uplink = Uplink(address, self._spool, edge=edge.name, contract=agreed)
        self._client = WeightsClient(address, edge=edge.name, session=self._spool.session, contract=agreed)
        self._gate = Gatekeeper(self._uplink, self._spool, edge.offline_episodes)
        self._rollout = BatchRollout(
            self._policy,
            spec,
            config.task,
            edge=edge.name,
            arms=edge.arms,
            threads=edge.threads,
            segment_steps=edge.segment_steps,
            # A restarted edge must not live through the same episodes again.
            seed=(config.seed * 1_000_003 + self._spool.session) % 2**63,
            emit=self._gate.record,
            options=env_options(config),
        )
        self._applied: Weights | None = None
        self._steps_before, self._rate_at, self._rate = 0, time.monotonic(), 0.0
        self._uplink.start()
        self._client.start()

    def run(self, stop: Event) -> None:
        """Collect until `stop`. Raises ContractError when the learner refuses this edge."""
        faults = 0
        while not stop.is_set():
            self._uplink.check()
            self._client.check()
            weights = self._take_weights()
            count = self._gate.may_start(len(self._rollout.idle), weights.version if weights is not None else -1)
            if count:
                self._rollout.start(count)
            if self._rollout.running and weights is not None:
                self._rollout.advance(weights.version)
                if self._rollout.counts.faults > faults:
                    self._uplink.episode_aborted(self._rollout.counts.faults - faults)
                    faults = self._rollout.counts.faults
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
        self._rollout.close()
        self._spool.close()

    @property
    def version(self) -> int:
        """The version in use, -1 before the first."""
        return self._applied.version if self._applied is not None else -1

    def _take_weights(self) -> Weights | None:
        newest = self._client.newest()
        if newest is not None and newest is not self._applied:
            load_arrays(self._policy, newest.tensors)
            self._applied = newest
        return self._applied

    def _report(self) -> None:
        now, counts = time.monotonic(), self._rollout.counts
        if now - self._rate_at >= 0.5:
            steps = counts.steps
            self._rate = (steps - self._steps_before) / (now - self._rate_at)
            self._steps_before, self._rate_at = steps, now
        running = self._rollout.running
        self._uplink.report(
            version=self.version,
            state=f"{running} of {self._rollout.env.num_envs} arms working" if running else "resting",
            waits_for="" if running else self._gate.waits_for(self.version),
            rates={"steps": self._rate, "episodes": float(counts.episodes)},
            counts={
                "steps_held": counts.held,
                "steps_clipped": counts.clipped,
                "simulation_faults": counts.faults,
            },
        )
