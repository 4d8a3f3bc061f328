"""Where a policy server has its weights from: a learner that goes on learning, or a checkpoint."""

from pathlib import Path
from typing import Protocol

from policies.base import Policy
from robotlearn import checkpoint
from robotlearn.config.config import Config
from robotlearn.contract import contract
from robotlearn.policy import load_arrays
from robotlearn.wire.door import credentials
from robotlearn.wire.weights import Weights, WeightsClient


class WeightsSource(Protocol):
    """Used by one thread."""

    def renew(self, policy: Policy) -> int | None:
        """Put newer weights than the last into the policy and return their version; None where there are none."""

    def close(self) -> None: ...


class LearnerWeights:
    """The newest weights of a learner, which may start later or come again; pulled on a thread of its own."""

    def __init__(self, address: str, config: Config, *, edge: str, session: int) -> None:
        """`session` is that of the edge's spool. Raises AddressError when the address is malformed, KeysError."""
        keys = credentials(config.learner.key, edge)
        entry = config.edge(edge)
        limit = entry.weights_mbit if entry is not None else None
        self._client = WeightsClient(
            address, edge=edge, session=session, contract=contract(config), keys=keys, limit_mbit=limit
        )
        self._applied: Weights | None = None
        self._client.start()

    def renew(self, policy: Policy) -> int | None:
        """Raises ContractError when the learner refuses this edge."""
        self._client.check()
        newest = self._client.newest()
        if newest is None or newest is self._applied:  # not by version: another run's learner counts anew
            return None
        load_arrays(policy, newest.tensors, self._applied.tensors if self._applied is not None else None)
        self._applied = newest
        return newest.version

    def close(self) -> None:
        self._client.close()


class CheckpointWeights:
    """The weights of one checkpoint, which stay as they are."""

    def __init__(self, path: Path, config: Config) -> None:
        """Raises CheckpointError when it is missing, damaged or of another policy."""
        self._saved: checkpoint.Checkpoint | None = checkpoint.load(path, contract(config))

    def renew(self, policy: Policy) -> int | None:
        saved, self._saved = self._saved, None
        if saved is None:
            return None
        policy.load_state_dict(saved.policy)
        return saved.version

    def close(self) -> None:
        """Nothing is held."""
