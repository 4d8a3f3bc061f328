"""How an edge reaches its learner: directly, through an ssh tunnel, over a link that is made worse for rehearsal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from robotlearn.config.edge import BatchEdgeConfig, PacedEdgeConfig
from robotlearn.wire.bad_link import BadLink, Faults
from robotlearn.wire.tunnel import Tunnel


@contextmanager
def reach(edge: BatchEdgeConfig | PacedEdgeConfig, learner: str) -> Iterator[str]:
    """The address to dial for the learner that listens at `learner`, as long as this lasts.

    Raises AddressError when there is to be a tunnel and no ssh.
    """
    with ExitStack() as stack:
        address = learner
        if edge.tunnel is not None:
            address = stack.enter_context(Tunnel(edge.tunnel, address)).address
        if edge.link is not None:
            address = stack.enter_context(BadLink(address, Faults(**edge.link.model_dump()))).address
        yield address


def described(edge: BatchEdgeConfig | PacedEdgeConfig) -> list[str]:
    """How it is reached, where that isn't directly, in words."""
    found = [f"through ssh to {edge.tunnel}"] if edge.tunnel is not None else []
    if edge.link is not None:
        faults = ", ".join(f"{key} {value:g}" for key, value in edge.link.model_dump().items() if value)
        found.append(f"over a link made worse ({faults})")
    return found
