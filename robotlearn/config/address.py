"""TCP addresses as ZeroMQ writes them, `tcp://HOST:PORT`, and the public keys of who listens there."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

_ADDRESS = re.compile(r"(?:tcp://)?(?P<host>\[[0-9a-fA-F:.%\w]+\]|\*|[A-Za-z0-9_.-]+):(?P<port>\*|[0-9]{1,5})")


def normal_address(value: Any, *, any_port: bool = True) -> str:
    """`tcp://HOST:PORT` of an address given with or without `tcp://`.

    HOST is a name, an IPv4 address, an IPv6 address in square brackets or `*` (every interface); PORT is 1 to 65535 or,
    where `any_port` (to bind, not to connect), `*` for any free one. Raises ValueError that says what was expected.
    """
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    port = match["port"] if match else ""
    if match is None or (port == "*" and not any_port) or (port != "*" and not 1 <= int(port) <= 65535):
        ports = "a port from 1 to 65535" + (" or * for any free one" if any_port else "")
        raise ValueError(f"an address tcp://HOST:PORT with {ports}")
    return f"tcp://{match['host']}:{port}"


def is_loopback(address: str) -> bool:
    """Whether a normal address can be reached from this machine only. A name other than localhost counts as public."""
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if host in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _public_key(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("secret-"):
        raise ValueError("the public key, public-...; that is the secret one, which nobody else may see")
    if isinstance(value, str) and not re.fullmatch(r"public-[0-9a-f]{64}", value):
        raise ValueError("a public key: public- and 64 hexadecimal digits")
    return value


PublicKeyText = Annotated[str, BeforeValidator(_public_key)]
BindAddress = Annotated[str, BeforeValidator(normal_address)]
