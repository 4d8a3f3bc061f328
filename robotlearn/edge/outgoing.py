"""An edge's way out: its spool and the uplink that empties it, as its config says."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robotlearn.buffer.spool import Spool
from robotlearn.config.edge import BatchEdgeConfig, PacedEdgeConfig
from robotlearn.wire.door import credentials
from robotlearn.wire.uplink import Uplink


def outgoing(
    edge: BatchEdgeConfig | PacedEdgeConfig,
    arms: int,
    address: str,
    state: Path,
    contract: Mapping[str, Any],
    learner_key: str | None,
) -> tuple[Spool, Uplink]:
    """The spool in `state`, open, and its uplink, not started.

    Raises LogError when another process has that spool, KeysError when this edge needs a key and has none, AddressError
    when `address` is malformed.
    """
    max_age_s = math.inf if edge.spool.max_age_s is None else edge.spool.max_age_s
    rate = math.inf if edge.upload_mbit is None else edge.upload_mbit * arms * 1e6 / 8
    keys = credentials(learner_key, edge.name)
    spool = Spool(
        state / "spool", edge=edge.name, sync=edge.spool.sync, max_bytes=edge.spool.max_bytes, max_age_s=max_age_s
    )
    return spool, Uplink(address, spool, edge=edge.name, contract=contract, keys=keys, max_bytes_per_s=rate)
